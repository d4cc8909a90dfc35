"""In a transaction the cache is part of it: what is undone did not happen, and is not counted."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from statestore import MISSING
from tests.support.clock import MovableClock
from tests.support.content import Content

Store = Any


class Undo(Exception):
    pass


def test_what_is_set_in_a_transaction_stands_with_it(store: Store) -> None:
    with store.transaction() as tx:
        tx.sessions.create("s")
        tx.history.append("s", [{"role": "user", "content": "Hi"}])
        tx.cache.set("k", 1, tags=["t"])
        assert tx.cache.get("k") == 1
    assert store.cache.get("k") == 1
    assert store.history.count("s") == 1
    assert store.cache.invalidate_tag("t") == 1


def test_what_is_set_in_a_transaction_falls_with_it(store: Store, content: Content) -> None:
    store.cache.set("old", 1, tags=["t"], agent_name="a")
    before = content.rows("cache_entries"), content.rows("cache_tags")
    with suppress(Undo), store.transaction() as tx:
        tx.cache.set("k", 1)
        tx.cache.set("old", 2)
        tx.cache.set_many({"x": 1, "y": 2})
        assert tx.cache.add("z", 1) is True
        assert tx.cache.invalidate("x") == 1
        assert tx.cache.get_or_compute("c", computing(store, 5)) == 5
        assert tx.cache.entry("old").value == 2
        raise Undo
    assert store.cache.get_many(["k", "x", "y", "z", "c"]) == {}
    assert (content.rows("cache_entries"), content.rows("cache_tags")) == before
    assert store.cache.invalidate_tag("t") == 1


def test_an_invalidation_in_a_transaction_falls_with_it(store: Store) -> None:
    for remove in ("clear", "evict"):
        store.cache.set_many({"a": 1, "b": 2}, tags=["t"], agent_name="x")
        with suppress(Undo), store.transaction() as tx:
            assert tx.cache.invalidate_tag("t") == 2
            assert tx.cache.get("a", MISSING) is MISSING
            getattr(tx.cache, remove)()
            raise Undo
        assert store.cache.get_many(["a", "b"]) == {"a": 1, "b": 2}
    assert store.cache.stats().invalidations["tag"] == 0


def test_counts_of_an_undone_transaction_do_not_count(store: Store) -> None:
    store.cache.set_many({"a": 1, "b": 2}, agent_name="x")
    store.cache.get("a")
    with suppress(Undo), store.transaction() as tx:
        tx.cache.get("a")
        tx.cache.get("missing")
        tx.cache.set("c", 1)
        tx.cache.invalidate("b")
        inside = tx.cache.stats()
        assert (inside.hits, inside.misses, inside.sets, inside.invalidations["key"]) == (2, 1, 3, 1)
        raise Undo
    stats = store.cache.stats()
    assert (stats.hits, stats.misses, stats.sets, stats.invalidations["key"]) == (1, 0, 2, 0)
    assert store.cache.entry("a").access_count == 1


def test_counts_of_a_transaction_count_once(store: Store) -> None:
    store.cache.set_many({"a": 1, "b": 2}, agent_name="x")
    store.cache.get("a")
    with store.transaction() as tx:
        tx.cache.get("a")
        tx.cache.get("missing", agent_name="y")
        tx.cache.set("c", 1, agent_name="y")
        assert tx.cache.stats().hits == 2
        tx.cache.get("c")
        tx.cache.invalidate("b")
    stats = store.cache.stats()
    assert (stats.hits, stats.misses, stats.sets, stats.invalidations["key"]) == (3, 1, 3, 1)
    assert stats.by_agent["x"].invalidations["key"] == 1
    assert (stats.by_agent["y"].misses, stats.by_agent["y"].sets, stats.by_agent["y"].hits) == (1, 1, 1)
    assert store.cache.entry("a").access_count == 2


def test_the_limit_holds_in_and_after_a_transaction(open_store: Callable[..., Store], clock: MovableClock) -> None:
    store = open_store(cache_max_entries=3, clock=clock)
    store.cache.set_many({"a": 1, "b": 2, "c": 3})
    store.cache.get("a")
    with store.transaction() as tx:
        tx.cache.set("d", 4)
        assert [entry.key for entry in tx.cache.entries()] == ["a", "c", "d"]
        tx.cache.get("c")
        tx.cache.set("e", 5)
        tx.cache.set("f", 6)
        assert [entry.key for entry in tx.cache.entries()] == ["c", "e", "f"]
    with suppress(Undo), store.transaction() as tx:
        tx.cache.clear()
        tx.cache.set_many({"x": 1, "y": 2})
        raise Undo
    store.cache.set("g", 7)
    assert [entry.key for entry in store.cache.entries()] == ["e", "f", "g"]


def test_an_undone_eviction_does_not_make_room(open_store: Callable[..., Store], content: Content) -> None:
    store = open_store(cache_max_entries=200)
    store.cache.set_many({f"k{n}": n for n in range(200)})
    for round in range(5):
        with suppress(Undo), store.transaction() as tx:
            tx.cache.set(f"in {round}", 1)
            tx.cache.invalidate_tags(["x"])
            tx.cache.clear()
            tx.cache.set(f"in {round}", 2)
            raise Undo
        for n in range(7):
            store.cache.set(f"out {round} {n}", 1)
            assert len(content.rows("cache_entries")) <= 200


def computing(store: Store, value: Any) -> Callable[[], Any]:
    from tests.support.portal import BlockingStore

    async def compute() -> Any:
        return value

    return compute if isinstance(store, BlockingStore) else lambda: value
