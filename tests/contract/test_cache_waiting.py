"""Statistics get in nobody's way; and what a transaction has read of the cache stays as it is until it ends."""

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta
from functools import partial
from typing import Any

import pytest

from statestore import MISSING
from statestore.repositories.cache.limits import MAX_AGE
from tests.contract.test_transactions import Application, application
from tests.support.clock import MovableClock
from tests.support.content import Content
from tests.support.crowd import at_once
from tests.support.portal import Blocking
from tests.support.wire import Traffic

__all__ = ["application"]

Store = Any
ROUNDS = 10
FOREVER = 20
"""Seconds. What waits for a transaction that a test holds open waits for the test, and so without an end."""


class Undo(Exception):
    pass


def at_its_own_pace(call: Callable[[], Any]) -> Any:
    """What *call* returns, from another thread; fails if it waits for what this thread holds."""
    pool = ThreadPoolExecutor(1)
    try:
        return pool.submit(call).result(FOREVER)
    finally:
        pool.shutdown(wait=False)


def waits(content: Content, call: Callable[[], Any]) -> Future[Any]:
    """Run *call* in another thread, and come back once it waits for what this one holds."""
    pool = ThreadPoolExecutor(1)
    future = pool.submit(call)
    pool.shutdown(wait=False)
    if not content.is_sqlite:
        for _ in range(1000):
            if content.somebody_waits():
                return future
            time.sleep(0.01)
        pytest.fail(f"it did not wait: {future}")
    return future


def let_counts_be_due(store: Store) -> None:
    store._cache_state._timer = lambda: time.monotonic() + MAX_AGE.total_seconds()


def plain(store: Store, value: Any) -> Callable[[], Any]:
    async def compute() -> Any:
        return value

    return compute if isinstance(store, Blocking) else lambda: value


# Statistics


def test_a_hit_waits_for_nobody(open_store: Callable[..., Store], content: Content) -> None:
    store, other = open_store(), open_store()
    store.cache.set_many({"a": 1, "b": 2})
    store.cache.flush()
    for _ in range(3):
        store.cache.get_many(["a", "b"])
    let_counts_be_due(store)
    with suppress(Undo), other.transaction() as tx:
        tx.cache.set("a", 3)
        assert at_its_own_pace(lambda: store.cache.get("b")) == 2
        assert at_its_own_pace(lambda: store.cache.get_many(["a", "b"])) == {"a": 1, "b": 2}
        assert at_its_own_pace(lambda: store.cache.entry("a")).access_count == 4
        assert at_its_own_pace(lambda: store.cache.stats()).hits == 9
        counts = {row["key"]: row["access_count"] for row in content.rows("cache_entries")}
        # What nobody holds is written meanwhile. SQLite's only writer is taken.
        assert counts == ({"a": 0, "b": 0} if content.is_sqlite else {"a": 0, "b": 5})
        raise Undo
    store.cache.flush()
    assert {row["key"]: row["access_count"] for row in content.rows("cache_entries")} == {"a": 4, "b": 5}
    assert sum(row["hits"] for row in content.rows("cache_ledger")) == 9


def test_a_hit_does_not_wait_for_the_ledger(connect: Callable[..., Store], postgres_url: str) -> None:
    """Nothing of ours holds its rows for long; an older version or an analyst may."""
    store = connect(postgres_url)
    content = Content(postgres_url)
    store.cache.set("a", 1)
    store.cache.flush()
    store.cache.get("a")
    let_counts_be_due(store)
    content.query("BEGIN")
    content.query("SELECT * FROM cache_ledger WHERE namespace = 'default' FOR UPDATE")
    assert at_its_own_pace(lambda: store.cache.get("a")) == 1
    assert at_its_own_pace(lambda: store.cache.entry("a")).access_count == 2
    content.query("COMMIT")
    store.cache.flush()
    assert content.rows("cache_ledger")[0]["hits"] == 2
    assert content.rows("cache_entries")[0]["access_count"] == 2
    content.close()


def test_who_cannot_write_counts_does_not_try_at_every_call(
    connect: Callable[..., Store], traffic: Traffic, content: Content
) -> None:
    store = connect(traffic.url)
    store.cache.set("a", 1)
    content.query("ALTER TABLE cache_ledger RENAME TO hidden")
    store.cache.get("a")
    now = [time.monotonic() + MAX_AGE.total_seconds()]
    store._cache_state._timer = lambda: now[0]
    for _ in range(7):
        store.cache.get("a")
    traffic.clear()
    for _ in range(5):
        store.cache.get("a")
    assert len([sql for sql in traffic.statements if "SELECT" in sql]) == 5
    assert not [sql for sql in traffic.statements if "cache_ledger" in sql]
    content.query("ALTER TABLE hidden RENAME TO cache_ledger")
    now[0] += MAX_AGE.total_seconds()
    store.cache.get("a")
    assert content.rows("cache_ledger")[0]["hits"] == 14


def test_a_transaction_that_reads_entries_keeps_nobody_from_others(
    open_store: Callable[..., Store], content: Content
) -> None:
    store, other = open_store(), open_store()
    store.cache.set_many({f"k{n}": n for n in range(5)}, agent_name="x")
    store.cache.get_many([f"k{n}" for n in range(5)])
    other.cache.get("k1")
    let_counts_be_due(store)
    before = content.rows("cache_ledger"), content.rows("cache_entries")
    with store.transaction() as tx:
        assert tx.cache.entry("k0").access_count == 1
        assert tx.cache.get("k0") == 0
        assert (tx.cache.stats().hits, tx.cache.stats().sets) == (6, 5)
        assert tx.cache.stats().by_agent["x"].average_access_count == 6 / 5
        # It has written nothing, so that nobody waits for it: on SQLite all writers do, on PostgreSQL those of k0.
        if not content.is_sqlite:
            at_its_own_pace(lambda: other.cache.set("k1", "new", agent_name="x"))
            at_its_own_pace(lambda: other.cache.get("missing", agent_name="x"))
            at_its_own_pace(other.cache.flush)
            assert at_its_own_pace(lambda: other.cache.invalidate("k2")) == 1
            assert content.rows("cache_ledger")[0]["misses"] == 1
        else:
            assert (content.rows("cache_ledger"), content.rows("cache_entries")) == before
    assert store.cache.entry("k0").access_count == 2


def test_counts_that_cannot_be_written_do_not_spoil_a_transaction(store: Store, content: Content) -> None:
    store.cache.set("k", 1)
    store.cache.get("k")
    content.query("ALTER TABLE cache_ledger RENAME TO hidden")
    with store.transaction() as tx:
        assert tx.cache.entry("k").access_count == 1
        tx.cache.flush()
        assert tx.cache.get("k") == 1
        tx.cache.set("other", 2)
        tx.cache.evict()
    assert store.cache.get("other") == 2
    content.query("ALTER TABLE hidden RENAME TO cache_ledger")
    store._cache_state._not_before = 0
    assert (store.cache.stats().hits, store.cache.stats().sets) == (3, 2)
    assert sum(row["hits"] for row in content.rows("cache_ledger")) == 3


def test_counts_of_a_joined_transaction_are_written_with_it_or_dropped(
    application: Application, open_store: Callable[..., Store], content: Content
) -> None:
    store = open_store()
    store.cache.set("k", 1)
    store.cache.flush()
    with application.transaction() as connection:
        assert application.join(connection).cache.get("k") == 1
    assert content.rows("cache_entries")[0]["access_count"] == 1
    content.query("ALTER TABLE cache_ledger RENAME TO hidden")
    with application.transaction() as connection:
        joined = application.join(connection)
        assert joined.cache.get("k") == 1
        joined.cache.set("k", 2)
        application.execute(connection, "INSERT INTO orders VALUES ('book')")
    assert (store.cache.get("k"), application.orders()) == (2, ["book"])
    content.query("ALTER TABLE hidden RENAME TO cache_ledger")


def test_one_that_waits_for_its_key_keeps_nobody_from_making_room(
    connect: Callable[..., Store], postgres_url: str
) -> None:
    stores = [connect(postgres_url, cache_max_entries=20) for _ in range(3)]
    content = Content(postgres_url)
    stores[0].cache.set_many({f"k{n:02}": n for n in range(20)})
    with stores[0].transaction() as tx:
        tx.cache.set("new", 1)  # It evicts k00, and nobody else sees that yet.
        waiting = waits(content, lambda: stores[1].cache.set("new", 2))
        at_its_own_pace(lambda: stores[2].cache.set("other", 3))
        at_its_own_pace(lambda: stores[2].cache.set_many({"more": 4, "and more": 5}))
        at_its_own_pace(stores[2].cache.evict)
    waiting.result(FOREVER)
    expected = {"new": 2, "other": 3, "more": 4, "and more": 5}
    assert stores[2].cache.get_many(expected) == expected
    stores[2].cache.evict()
    assert len(content.rows("cache_entries")) <= 20
    content.close()


def test_a_transaction_with_a_claim_removed_keeps_nobody_from_computing(
    connect: Callable[..., Store], postgres_url: str
) -> None:
    store, other = connect(postgres_url), connect(postgres_url)
    content = Content(postgres_url)
    content.query(
        "INSERT INTO cache_claims VALUES ('default', 'k', 'gone', statement_timestamp() - interval '1 minute')"
    )
    with store.transaction() as tx:
        tx.cache.evict()
        assert at_its_own_pace(lambda: other.cache.get_or_compute("k", plain(other, 1))) == 1
    assert store.cache.evict() == 0
    assert content.rows("cache_claims") == []
    content.close()


# What a transaction has read

READERS: dict[str, Callable[[Any, str], Any]] = {
    "get": lambda tx, key: tx.cache.get(key),
    "get_many": lambda tx, key: tx.cache.get_many([f"beside {key}", key]).get(key),
    "entry": lambda tx, key: None if (entry := tx.cache.entry(key)) is None else entry.value,
    "get_or_compute": lambda tx, key: tx.cache.get_or_compute(key, plain(tx, 0)),
}


@pytest.mark.parametrize("reader", READERS)
def test_a_transaction_loses_no_update_of_what_it_reads(open_store: Callable[..., Store], reader: str) -> None:
    stores = [open_store(), open_store()]

    def add(name: int, key: str) -> None:
        for _ in range(10):
            with stores[name % 2].transaction() as tx:
                tx.cache.set(key, (READERS[reader](tx, key) or 0) + 1)

    for round in range(ROUNDS):  # A key that nobody has set, each time.
        at_once(*(partial(add, name, f"n{round}") for name in range(4)))
        assert stores[0].cache.get(f"n{round}") == 40, round


def test_four_threads_count_to_four_hundred(store: Store) -> None:
    store.cache.set("n", 0)

    def add() -> None:
        for _ in range(100):
            with store.transaction() as tx:
                tx.cache.set("n", tx.cache.get("n") + 1)

    at_once(*[add] * 4)
    assert store.cache.get("n") == 400


def test_transactions_that_read_many_keys_in_any_order_do_not_deadlock(
    open_store: Callable[..., Store], content: Content
) -> None:
    stores = [open_store(), open_store()]

    def add(name: int, keys: list[str]) -> None:
        for n in range(5):
            with stores[name % 2].transaction() as tx:
                found = tx.cache.get_many(keys)
                tx.cache.set_many({key: found.get(key, 0) + 1 for key in keys}, tags=["t"] if n % 2 else [])

    for round in range(ROUNDS):
        keys = [f"{letter} {round}" for letter in "aBcDé"]
        stores[0].cache.set_many(dict.fromkeys(keys[::2], 0))
        at_once(*(partial(add, name, sorted(keys, key=lambda key: hash((key, name)))) for name in range(4)))
        assert stores[0].cache.get_many(keys) == dict.fromkeys(keys, 20), round
    if not content.is_sqlite:
        assert content.query("SELECT deadlocks AS n FROM pg_stat_database WHERE datname = current_database()") == [
            {"n": 0}
        ]


@pytest.mark.parametrize("expired", [False, True])
def test_a_key_that_was_found_missing_stays_missing(
    open_store: Callable[..., Store], content: Content, clock: MovableClock, expired: bool
) -> None:
    store, other = open_store(clock=clock), open_store(clock=clock)
    if expired:
        store.cache.set("n", "old", ttl=timedelta(seconds=1))
        clock.advance(seconds=1)
    for write in (
        lambda: other.cache.set("n", "theirs", ttl=timedelta(seconds=1)),
        lambda: other.cache.set("n", "theirs", ttl=timedelta(seconds=1), tags=["t"], agent_name="a"),
        lambda: other.cache.set_many({"m": 1, "n": "theirs"}, ttl=timedelta(seconds=1)),
        lambda: other.cache.add("n", "theirs", ttl=timedelta(seconds=1)),
    ):
        with store.transaction() as tx:
            assert tx.cache.get("n", MISSING) is MISSING
            waiting = waits(content, write)
            assert tx.cache.get("n", MISSING) is MISSING
            assert tx.cache.get_many(["o", "n"]) == {}
            tx.cache.set("n", "mine", ttl=timedelta(seconds=1))
            assert tx.cache.get("n") == "mine"
        # It came afterwards, and an add found what was there.
        added = waiting.result(FOREVER)
        assert store.cache.get("n") == ("mine" if added is False else "theirs")
        clock.advance(seconds=1)
        if not expired:
            assert store.cache.evict() > 0


def test_a_key_that_is_only_held_leaves_nothing_behind(open_store: Callable[..., Store], content: Content) -> None:
    store, other = open_store(cache_max_entries=2), open_store(cache_max_entries=2)
    store.cache.set_many({"a": 1, "b": 2})
    before = content.rows("cache_entries")
    for end in (None, Undo()):
        with suppress(Undo), store.transaction() as tx:
            assert tx.cache.get_many(["x", "a", "y"]) == {"a": 1}
            assert tx.cache.get("z") is None
            assert tx.cache.stats().entries == 2
            assert tx.cache.add("z", 1) if end else True
            if end is not None:
                raise end
        store.cache.flush()
        assert [row["key"] for row in content.rows("cache_entries")] == ["a", "b"]
    assert [row["value"] for row in content.rows("cache_entries")] == [row["value"] for row in before]
    other.cache.set("x", 1)
    assert other.cache.get_many(["x", "y", "z"]) == {"x": 1}


def test_sets_hits_and_invalidations_at_once_do_not_deadlock(
    open_store: Callable[..., Store], content: Content
) -> None:
    stores = [open_store(cache_max_entries=12) for _ in range(3)]
    keys = [f"{letter}{n}" for n in range(4) for letter in "aBé"]

    def work(name: int) -> None:
        cache = stores[name % 3].cache
        for n in range(ROUNDS):
            mine = keys[name:] + keys[:name]
            cache.set_many(dict.fromkeys((mine if n % 2 else mine[::-1])[:6], n), tags=["t"])
            cache.get_many(mine)
            cache.set(f"new {name} {n}", n)
            cache.flush()
            cache.invalidate_tag("t") if n % 3 == 0 else cache.invalidate(mine[n % 12])

    at_once(*(partial(work, name) for name in range(6)))
    stats = stores[0].cache.stats()
    assert stats.sets > 0
    if not content.is_sqlite:
        assert content.query("SELECT deadlocks AS n FROM pg_stat_database WHERE datname = current_database()") == [
            {"n": 0}
        ]
