"""What happened in the cache is counted: by day and agent, beyond the life of an entry and of a process."""

import threading
import time
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any

from statestore import CacheStats
from statestore.repositories.cache.limits import MAX_AGE, MAX_PENDING
from tests.support.clock import NOON, MovableClock
from tests.support.content import Content
from tests.support.crowd import at_once
from tests.support.wire import Traffic

Store = Any


def ledger(content: Content) -> dict[tuple[str, str], dict[str, int]]:
    return {
        (str(row["day"]), row["agent_name"]): {
            name: value for name, value in row.items() if isinstance(value, int) and value
        }
        for row in content.rows("cache_ledger")
    }


def test_an_empty_cache(store: Store) -> None:
    reasons = {"key": 0, "tag": 0, "agent": 0, "content_hash": 0, "clear": 0}
    assert store.cache.stats() == CacheStats(
        entries=0,
        size_bytes=0,
        average_access_count=0.0,
        oldest_at=None,
        newest_at=None,
        hits=0,
        misses=0,
        sets=0,
        evictions=0,
        expirations=0,
        invalidations=reasons,
        by_agent={},
    )
    assert store.cache.stats().hit_rate == 0.0


def test_the_average_number_of_accesses(store: Store) -> None:
    store.cache.set_many({"a": 1, "b": 2})
    store.cache.get("a")
    store.cache.get("a")
    store.cache.get("b")
    assert store.cache.stats().average_access_count == 1.5


def test_everything_is_counted_in_total_and_by_agent(open_store: Callable[..., Store], clock: MovableClock) -> None:
    store = open_store(clock=clock, cache_max_entries=4)
    store.cache.set("a1", "xx", agent_name="a", ttl=timedelta(seconds=10))
    clock.advance(seconds=1)
    store.cache.set_many({"a2": "xx", "a3": "xx"}, agent_name="a", tags=["t"])
    store.cache.set("b1", "xx", agent_name="b", content_hash="h")
    store.cache.get_many(["a1", "a2", "b1", "missing"], agent_name="a")
    store.cache.get("missing", agent_name="b")
    store.cache.get("missing")
    store.cache.set("b2", "xx", agent_name="b")  # a3 goes.
    clock.advance(seconds=10)
    store.cache.get("a1", agent_name="a")
    store.cache.add("a1", "xx", agent_name="a")

    stats = store.cache.stats()
    assert (stats.entries, stats.size_bytes) == (4, 8)
    assert (stats.oldest_at, stats.newest_at) == (NOON + timedelta(seconds=1), NOON + timedelta(seconds=11))
    assert (stats.hits, stats.misses, stats.sets, stats.evictions, stats.expirations) == (3, 4, 6, 1, 1)
    assert stats.hit_rate == 3 / 7
    assert set(stats.by_agent) == {None, "a", "b"}
    a, b, nobody = stats.by_agent["a"], stats.by_agent["b"], stats.by_agent[None]
    assert (a.entries, a.hits, a.misses, a.sets, a.evictions, a.expirations) == (2, 2, 2, 4, 1, 1)
    assert (b.entries, b.hits, b.misses, b.sets, b.evictions) == (2, 1, 1, 2, 0)
    assert (nobody.entries, nobody.misses) == (0, 1)

    assert store.cache.invalidate("a1") == 1
    assert store.cache.invalidate_tags(["t"]) == 1
    assert store.cache.invalidate_content_hash("h") == 1
    store.cache.set("a4", 1, agent_name="a")
    assert store.cache.invalidate_agent("a") == 1
    assert store.cache.clear() == 1
    stats = store.cache.stats()
    assert stats.invalidations == {"key": 1, "tag": 1, "content_hash": 1, "agent": 1, "clear": 1}
    assert stats.by_agent["b"].invalidations == {"key": 0, "tag": 0, "content_hash": 1, "agent": 0, "clear": 1}
    assert stats.by_agent["a"].invalidations == {"key": 1, "tag": 1, "content_hash": 0, "agent": 1, "clear": 0}
    assert stats.entries == 0


def test_counters_outlive_the_process_and_are_kept_by_day(
    open_store: Callable[..., Store], clock: MovableClock, content: Content
) -> None:
    first = open_store(clock=clock)
    first.cache.set("k", 1, agent_name="a", ttl=timedelta(days=9))
    first.cache.get("k")
    clock.advance(days=1)
    first.cache.get("k")
    first.cache.get("other")
    first.close()
    second = open_store(clock=clock)
    second.cache.get("k")
    assert second.cache.invalidate("k") == 1
    stats = second.cache.stats()
    assert (stats.hits, stats.misses, stats.sets, stats.invalidations["key"]) == (3, 1, 1, 1)
    assert ledger(content) == {
        ("2026-01-31", "a"): {"sets": 1, "hits": 1},
        ("2026-02-01", "a"): {"hits": 2, "invalidations_key": 1},
        ("2026-02-01", ""): {"misses": 1},
    }


def test_a_hit_costs_one_read_and_a_set_one_write(connect: Callable[..., Store], traffic: Traffic) -> None:
    store = connect(traffic.url)
    sqlite = traffic.url.startswith("sqlite")
    for n in range(9):  # Past psycopg's preparing of statements.
        store.cache.set(f"warm {n}", 1, tags=["t", "u"])
        store.cache.get(f"warm {n}")
        store.cache.get_many(["warm 1", "x"])
        store.cache.set_many({"a": 1, "b": 2}, tags=["t"])

    def cost(call: Callable[[], Any]) -> tuple[int, int, int]:
        traffic.clear()
        call()
        return len(traffic.statements), traffic.round_trips, traffic.transactions

    for _ in range(3):
        for read in (
            lambda: store.cache.get("warm 1"),
            lambda: store.cache.get("missing"),
            lambda: store.cache.get_many(["warm 1", "warm 2", "missing"]),
        ):
            assert cost(read) == ((1, 0, 1) if sqlite else (1, 1, 1)), traffic.statements
            assert "SELECT" in traffic.statements[0]
            assert "UPDATE" not in traffic.statements[0]
        for write in (
            lambda: store.cache.set("warm 1", 2, tags=["t", "v"], agent_name="a"),
            lambda: store.cache.set("new", 2, tags=["t", "v"]),
            lambda: store.cache.set_many({"a": 1, "c": 2}, tags=["t", "u"]),
            lambda: store.cache.add("a", 1),
            lambda: store.cache.invalidate("new"),
            lambda: store.cache.invalidate_tag("v"),
            lambda: store.cache.invalidate_tags(["v", "w"]),
            lambda: store.cache.invalidate_agent("a"),
            lambda: store.cache.invalidate_content_hash("h"),
        ):
            statements, round_trips, transactions = cost(write)
            assert transactions == 1
            if not sqlite:
                # The first uses of a statement may prepare it, in a round trip of its own.
                assert (statements, round_trips <= 2) == (1, True), traffic.statements


def test_hits_are_written_together(connect: Callable[..., Store], traffic: Traffic, content: Content) -> None:
    store = connect(traffic.url, cache_max_entries=None)
    store.cache.set_many({f"k{n:04}": n for n in range(MAX_PENDING)})
    for n in range(MAX_PENDING - 1):
        if n % 9 == 0:
            store.cache.get_many([f"k{i:04}" for i in range(n, min(n + 9, MAX_PENDING - 1))])
    assert content.query("SELECT sum(access_count) AS n FROM cache_entries") == [{"n": 0}]
    traffic.clear()
    store.cache.get(f"k{MAX_PENDING - 1:04}")
    assert content.query("SELECT sum(access_count) AS n FROM cache_entries") == [{"n": MAX_PENDING}]
    if not content.is_sqlite:
        assert len(traffic.statements) == 2  # The read, and one that writes a thousand hits.
    traffic.clear()
    store.cache.get("k0000")
    assert len(traffic.statements) == 1


def test_hits_are_written_when_they_have_waited_long_enough(store: Store, content: Content) -> None:
    time = [0.0]
    state(store)._timer = lambda: time[0]
    store.cache.set("k", 1)
    store.cache.get("k")
    time[0] = MAX_AGE.total_seconds() - 0.001
    store.cache.get("k")
    assert content.rows("cache_ledger") == []
    time[0] = MAX_AGE.total_seconds()
    store.cache.get("k")
    assert content.rows("cache_ledger")[0]["hits"] == 3
    assert content.rows("cache_entries")[0]["access_count"] == 3


def test_closing_writes_what_is_left(open_store: Callable[..., Store], content: Content) -> None:
    store = open_store()
    store.cache.set("k", 1)
    store.cache.get("k")
    store.close()
    store.close()
    assert content.rows("cache_ledger")[0]["hits"] == 1
    assert content.rows("cache_entries")[0]["access_count"] == 1


def test_a_flush_waits_for_entries_that_others_hold(open_store: Callable[..., Store], content: Content) -> None:
    store, other = open_store(), open_store()
    store.cache.set("k", 1)
    held = threading.Event()

    def hold() -> None:
        with other.transaction() as tx:
            tx.cache.get("k")  # On PostgreSQL that holds the entry, on SQLite the writer.
            held.set()
            time.sleep(0.5)

    def count() -> None:
        held.wait(10)
        store.cache.get("k")
        store.cache.flush()

    at_once(hold, count)
    [entry] = content.rows("cache_entries")
    assert entry["access_count"] == 1  # What was hit in the transaction is still noted by its own store alone.


def test_stores_that_count_at_once_lose_nothing(open_store: Callable[..., Store]) -> None:
    store = open_store()
    store.cache.set_many({f"k{n}": n for n in range(10)}, agent_name="a")

    def work(name: int) -> None:
        own = open_store() if name < 2 else store
        for n in range(30):
            own.cache.get_many([f"k{(name + n + i) % 10}" for i in range(3)])
            own.cache.get("missing", agent_name=f"agent {n % 3}")
            if n % 5 == 0:
                own.cache.flush()
        own.cache.flush()

    at_once(*(partial(work, name) for name in range(5)))
    stats = store.cache.stats()
    assert (stats.hits, stats.misses) == (450, 150)
    assert stats.average_access_count == 45.0


def test_counts_that_cannot_be_written_are_kept_and_do_no_harm(store: Store, content: Content) -> None:
    store.cache.set("k", 1)
    store.cache.get("k")
    content.query("ALTER TABLE cache_ledger RENAME TO hidden")
    store.cache.flush()
    assert store.cache.get("k") == 1
    content.query("ALTER TABLE hidden RENAME TO cache_ledger")
    stats = store.cache.stats()
    assert (stats.hits, stats.sets, stats.average_access_count) == (2, 1, 2.0)


def state(store: Store) -> Any:
    return store._cache_state
