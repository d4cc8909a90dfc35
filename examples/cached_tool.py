"""A tool whose results are cached by its arguments, and invalidated by tag when what they depend on changes."""

from datetime import timedelta

from statestore import StateStore

PRICES = {"tea": 3, "coffee": 4}
calls = 0


def look_up(article: str) -> int:
    """Slow, or expensive."""
    global calls
    calls += 1
    return PRICES[article]


def main() -> None:
    with StateStore.open("sqlite://") as store:

        def price(article: str) -> int:
            key = store.cache.make_key("shop", {"article": article})
            # If several workers ask at once, one of them looks it up, and the others wait for it.
            return store.cache.get_or_compute(
                key, lambda: look_up(article), ttl=timedelta(hours=1), tags=["prices", f"article:{article}"]
            )

        print(f"tea {price('tea')}, tea {price('tea')}, coffee {price('coffee')}: looked up {calls} times")
        PRICES["tea"] = 5
        store.cache.invalidate_tag("article:tea")
        print(f"tea {price('tea')}, coffee {price('coffee')}: looked up {calls} times")
        stats = store.cache.stats()
        print(f"{stats.hits} hits, {stats.misses} misses")


if __name__ == "__main__":
    main()
