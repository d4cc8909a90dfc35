"""The cache stays within its limits: what goes first, and what that costs."""

import os
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any

import pytest

from statestore import MISSING, NEVER, InvalidValueError
from tests.support.clock import MovableClock
from tests.support.content import Content
from tests.support.crowd import at_once
from tests.support.wire import Traffic

Store = Any


def keys(store: Store) -> list[str]:
    return [entry.key for entry in store.cache.entries(limit=10_000, values=False)]


def rows(content: Content) -> int:
    return int(content.query("SELECT count(*) AS n FROM cache_entries")[0]["n"])


def test_the_least_recently_used_goes_first(open_store: Callable[..., Store], clock: MovableClock) -> None:
    # The clock stands still, so the order of access is all that there is.
    store = open_store(cache_max_entries=2, clock=clock)
    store.cache.set("k1", 1)
    store.cache.set("k2", 2)
    assert store.cache.get("k1") == 1
    store.cache.set("k3", 3)
    assert store.cache.get_many(["k1", "k2", "k3"]) == {"k1": 1, "k3": 3}


def test_without_a_hit_the_oldest_goes_first(open_store: Callable[..., Store], clock: MovableClock) -> None:
    store = open_store(cache_max_entries=3, clock=clock)
    for n in range(10):
        store.cache.set(f"k{n}", n)
    assert keys(store) == ["k7", "k8", "k9"]
    store.cache.set("k7", 7)
    store.cache.set("k10", 10)
    assert keys(store) == ["k10", "k7", "k9"]


def test_of_several_set_at_once_the_first_goes_first(open_store: Callable[..., Store], clock: MovableClock) -> None:
    store = open_store(cache_max_entries=3, clock=clock)
    store.cache.set_many({"c": 1, "a": 2, "b": 3})
    store.cache.set("d", 4)
    assert keys(store) == ["a", "b", "d"]
    store.cache.get_many(["a"])
    store.cache.set_many({"e": 5, "f": 6})
    assert keys(store) == ["a", "e", "f"]


def test_hits_of_many_reads_decide(open_store: Callable[..., Store], clock: MovableClock) -> None:
    store = open_store(cache_max_entries=4, clock=clock)
    store.cache.set_many({"a": 1, "b": 2, "c": 3, "d": 4})
    clock.advance(seconds=1)
    store.cache.get_many(["b"])
    clock.advance(seconds=1)
    store.cache.get("a")
    store.cache.set("e", 5)
    store.cache.set("f", 6)
    assert keys(store) == ["a", "b", "e", "f"]
    store.cache.set("g", 7)
    assert keys(store) == ["a", "e", "f", "g"]


def test_the_hits_of_another_store_count_once_they_are_written(
    open_store: Callable[..., Store], clock: MovableClock
) -> None:
    store = open_store(cache_max_entries=2, clock=clock)
    other = open_store(cache_max_entries=2, clock=clock)
    store.cache.set_many({"a": 1, "b": 2})
    other.cache.get("a")
    other.close()
    store.cache.set("c", 3)
    assert keys(store) == ["a", "c"]


def test_overwriting_evicts_nothing(open_store: Callable[..., Store]) -> None:
    store = open_store(cache_max_entries=3)
    store.cache.set_many({"a": 1, "b": 2, "c": 3})
    for n in range(20):
        store.cache.set("a", n)
        store.cache.set_many({"b": n, "c": n})
        assert store.cache.add("a", 0) is False
    assert keys(store) == ["a", "b", "c"]
    assert store.cache.stats().evictions == 0
    fresh = open_store(cache_max_entries=3)
    fresh.cache.set("a", 1)
    fresh.cache.set_many({"b": 1, "c": 2})
    assert keys(store) == ["a", "b", "c"]


def test_expired_entries_go_before_living_ones(
    open_store: Callable[..., Store], clock: MovableClock, content: Content
) -> None:
    store = open_store(cache_max_entries=3, clock=clock)
    store.cache.set("old", 1, ttl=NEVER)
    store.cache.set("gone 1", 1, ttl=timedelta(seconds=1))
    store.cache.set("gone 2", 1, ttl=timedelta(seconds=1))
    store.cache.get("gone 2")
    clock.advance(seconds=2)
    store.cache.set("new", 1)
    assert keys(store) == ["new", "old"]
    assert rows(content) == 2
    stats = store.cache.stats()
    assert (stats.evictions, stats.expirations) == (0, 2)


def test_eviction_removes_what_has_expired(
    open_store: Callable[..., Store], clock: MovableClock, content: Content
) -> None:
    store = open_store(clock=clock)
    store.cache.set_many({"a": 1, "b": 2}, ttl=timedelta(seconds=1), tags=["t"])
    store.cache.set("c", 3)
    assert store.cache.evict() == 0
    clock.advance(seconds=1)
    assert rows(content) == 3
    assert store.cache.evict() == 2
    assert keys(store) == ["c"]
    assert rows(content) == 1
    assert content.rows("cache_tags") == []
    assert store.cache.stats().expirations == 2


def test_eviction_brings_a_cache_back_into_its_limits(open_store: Callable[..., Store]) -> None:
    roomy = open_store(cache_max_entries=None)
    roomy.cache.set_many({f"k{n:02}": "x" * 100 for n in range(50)})
    small = open_store(cache_max_entries=10)
    roomy.cache.get("k00")
    roomy.cache.flush()
    assert small.cache.evict() == 40
    assert keys(small) == ["k00", *(f"k{n}" for n in range(41, 50))]
    tiny = open_store(cache_max_bytes=350, cache_max_entries=None)
    assert tiny.cache.evict() == 7
    assert keys(tiny) == ["k00", "k48", "k49"]
    assert tiny.cache.evict() == small.cache.evict() == roomy.cache.evict() == 0


def test_a_set_shrinks_a_cache_that_came_too_large(open_store: Callable[..., Store]) -> None:
    open_store(cache_max_entries=None).cache.set_many({f"k{n:02}": n for n in range(50)})
    store = open_store(cache_max_entries=10)
    store.cache.set("new", 1)
    assert keys(store) == [*(f"k{n}" for n in range(41, 50)), "new"]


def test_the_limit_in_bytes_holds(open_store: Callable[..., Store], content: Content) -> None:
    store = open_store(cache_max_entries=None, cache_max_bytes=1000)
    for n in range(40):
        store.cache.set(f"k{n:02}", "x" * (100 + n))
        assert store.cache.stats().size_bytes <= 1000
    assert keys(store)[-1] == "k39"
    assert len(keys(store)) == 7
    store.cache.set("k39", "x" * 900)  # Overwriting may need room, too.
    assert keys(store) == ["k39"]
    store.cache.set("k39", "x" * 1000)
    with pytest.raises(InvalidValueError, match="cache_max_bytes"):
        store.cache.set("k40", "x" * 1001)
    assert keys(store) == ["k39"]
    store.cache.set("k40", "y")
    assert keys(store) == ["k40"]


def test_overwriting_within_the_bytes_evicts_nothing(open_store: Callable[..., Store]) -> None:
    store = open_store(cache_max_bytes=1000)
    store.cache.set_many({"a": "x" * 450, "b": "x" * 450})
    for n in range(30):
        store.cache.set("a", "y" * (450 + n))
        store.cache.set_many({"b": "y" * 450})
    assert keys(store) == ["a", "b"]
    assert store.cache.stats().evictions == 0


@pytest.mark.parametrize(
    ("first", "others", "then", "left"),
    [(100, {"b": 300, "c": 300, "d": 300}, 300, "acd"), (300, dict.fromkeys("bcdefgh", 100), 450, "adefgh")],
)
def test_overwriting_the_oldest_makes_room_among_the_others(
    open_store: Callable[..., Store], first: int, others: dict[str, int], then: int, left: str
) -> None:
    store = open_store(cache_max_bytes=1000)
    for key, size in ({"a": first} | others).items():
        store.cache.set(key, "x" * size)
    store.cache.set("a", "x" * then)
    assert keys(store) == list(left)


def test_more_at_once_than_the_cache_keeps_is_refused(open_store: Callable[..., Store]) -> None:
    store = open_store(cache_max_entries=3)
    store.cache.set("k", 1)
    with pytest.raises(InvalidValueError, match="cache_max_entries=3"):
        store.cache.set_many({str(n): n for n in range(4)})
    assert keys(store) == ["k"]
    store.cache.set_many({str(n): n for n in range(3)})
    assert keys(store) == ["0", "1", "2"]


def test_adding_makes_room_and_a_vain_one_takes_none(open_store: Callable[..., Store]) -> None:
    store = open_store(cache_max_entries=2)
    assert [store.cache.add(key, 1) for key in ("a", "b", "c")] == [True, True, True]
    assert keys(store) == ["b", "c"]
    assert [store.cache.add(key, 2) for key in ("b", "c", "b")] == [False, False, False]
    assert keys(store) == ["b", "c"]
    assert store.cache.get_many(["b", "c"]) == {"b": 1, "c": 1}


def test_removed_entries_leave_room(open_store: Callable[..., Store]) -> None:
    store = open_store(cache_max_entries=4)
    for n in range(30):
        store.cache.set_many({f"{n} a": 1, f"{n} b": 1}, tags=["t"])
        store.cache.set(f"{n} c", 1, agent_name="x")
        assert store.cache.invalidate_tag("t") == 2
        assert store.cache.invalidate_agent("x") == 1
    assert store.cache.stats().evictions == 0


def test_the_limit_is_never_exceeded(open_store: Callable[..., Store], content: Content) -> None:
    store = open_store(cache_max_entries=1000, durability="normal")
    for n in range(4000):
        store.cache.set(f"k{n}", n)
        if n % 97 == 0 or 990 < n < 1120:
            assert rows(content) <= 1000
    assert 990 <= rows(content) <= 1000
    assert store.cache.get(f"k{n}") == n


def test_the_limit_is_never_exceeded_by_threads_of_one_store(
    open_store: Callable[..., Store], content: Content
) -> None:
    store = open_store(cache_max_entries=20)
    most = 0

    def work(name: int) -> None:
        nonlocal most
        for n in range(60):
            if n % 7 == 3:
                store.cache.set_many({f"{name} {n} {i}": i for i in range(3)})
            elif n % 7 == 5:
                store.cache.add(f"{name} {n}", 1)
            else:
                store.cache.set(f"{name} {n}", n)

    def watch() -> None:
        nonlocal most
        for _ in range(150):
            most = max(most, rows(content))

    at_once(*(partial(work, name) for name in range(6)), watch)
    assert most <= 20
    assert 10 < rows(content) <= 20


def test_several_stores_come_back_to_the_limit(open_store: Callable[..., Store], content: Content) -> None:
    stores = [open_store(cache_max_entries=300) for _ in range(3)]
    for n in range(1000):
        stores[n % 3].cache.set(f"k{n}", n)
        # Each adds at most a fiftieth of the limit before it counts again.
        assert rows(content) <= 300 + 3 * 6
    stores[0].cache.evict()
    assert rows(content) <= 300


def test_keeping_the_limit_costs_the_same_at_any_size(connect: Callable[..., Store], traffic: Traffic) -> None:
    """How many statements a full cache takes for a set, and how many rows are counted for it."""

    def cost(limit: int) -> tuple[float, float]:
        store = connect(traffic.url, cache_max_entries=limit, namespace=f"of {limit}", durability="normal")
        store.cache.set_many({f"old {n}": n for n in range(limit)})
        sets = limit // 50 * 6
        for n in range(sets // 6):  # Past the first count, and past psycopg's preparing of statements.
            store.cache.set(f"warm {n}", n)
        traffic.clear()
        for n in range(sets):
            store.cache.set(f"new {n}", n)
        assert store.cache.stats().entries <= limit
        counts = sum("SELECT count(*)" in sql and "cache_entries WHERE" in sql for sql in traffic.statements)
        return len(traffic.statements) / sets, counts * limit / sets

    (statements, counted), (statements_of_more, counted_of_more) = cost(1_000), cost(4_000)
    assert statements_of_more <= statements
    assert counted <= 120
    assert counted_of_more <= 120


def test_without_a_limit_nothing_is_counted(connect: Callable[..., Store], traffic: Traffic) -> None:
    store = connect(traffic.url, cache_max_entries=None)
    store.sessions.count()  # Now the file has been checked, which counts its tables.
    traffic.statements.clear()
    for n in range(20):
        store.cache.set(f"k{n}", n)
    assert len(traffic.statements) >= 20
    assert not [sql for sql in traffic.statements if "SELECT count(*)" in sql]
    assert store.cache.get("k0", MISSING) == 0


def test_a_limit_that_was_lowered_by_much_is_reached_in_steps(
    open_store: Callable[..., Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("statestore.repositories.cache.eviction.AT_ONCE", 20)
    open_store(cache_max_entries=200).cache.set_many({f"k{n:03}": n for n in range(100)}, ttl=NEVER)
    store = open_store(cache_max_entries=10)
    counts = []
    for n in range(6):
        store.cache.set(f"new{n}", n)
        counts.append(len(keys(store)))
    assert counts[:3] == [81, 62, 43]
    assert max(counts[5:]) <= 10
    assert store.cache.get("new5") == 5


def test_sets_of_many_keep_the_limits(
    open_store: Callable[..., Store], content: Content, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("statestore.repositories.cache.eviction.AT_ONCE", 20)
    store = open_store(cache_max_entries=100)
    for turn in range(4):
        store.cache.set_many({f"{turn} {n:03}": n for n in range(60)}, ttl=NEVER)
        assert rows(content) <= 100
    store.cache.clear()
    store = open_store(cache_max_entries=None, cache_max_bytes=100_000)
    store.cache.set_many({f"k{n:03}": os.urandom(400) for n in range(200)}, ttl=NEVER)
    for turn in range(4):
        store.cache.set(f"large {turn}", os.urandom(60_000), ttl=NEVER)
        [found] = content.query("SELECT sum(size_bytes) AS bytes FROM cache_entries")
        assert found["bytes"] <= 100_000
