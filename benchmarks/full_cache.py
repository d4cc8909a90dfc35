"""What a set costs in a full cache, of 1,000 and of 100,000 entries: `python -m benchmarks.full_cache`.

Every set there is of a new key, so it makes another entry go sooner or later. The two take turns in short rounds, and a
round's mean includes its evictions, which are few and large: a mean of many sets is what a caller pays.
"""

import statistics
import time

from benchmarks import data
from benchmarks.places import Places
from statestore import StateStore, migrate

SIZES = (1_000, 100_000)
ROUNDS = 20
SETS = 500


def filled(url: str, size: int) -> StateStore:
    migrate.upgrade(url)
    store = StateStore.open(url, cache_max_entries=size)
    for start in range(0, size, 1_000):
        store.cache.set_many({data.cache_key(n): data.cache_value(n) for n in range(start, start + 1_000)})
    return store


def sets(store: StateStore, first: int) -> float:
    """Microseconds for each."""
    began = time.perf_counter()
    for number in range(first, first + SETS):
        store.cache.set(f"new-{number}", data.cache_value(number))
    return (time.perf_counter() - began) / SETS * 1e6


def main() -> None:
    with Places() as places:
        for database in ("postgresql", "sqlite"):
            stores = {size: filled(places.empty(database), size) for size in SIZES}
            found: dict[int, list[float]] = {size: [] for size in SIZES}
            for turn in range(ROUNDS):
                for size, store in stores.items():
                    found[size].append(sets(store, turn * SETS))
            means = {size: statistics.mean(series) for size, series in found.items()}
            for size, mean in means.items():
                print(f"{database}: a set in a full cache of {size:,}: {mean:,.0f} µs, evictions included")
            print(f"{database}: ratio {means[SIZES[1]] / means[SIZES[0]]:.2f}", flush=True)
            for store in stores.values():
                store.close()


if __name__ == "__main__":
    main()
