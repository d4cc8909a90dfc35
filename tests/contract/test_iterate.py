"""Going through a long history, and reading it whole, without more memory than it takes."""

import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest

from statestore import InvalidValueError, NewEntry, SessionNotFoundError
from statestore.repositories.history import entry_reads
from tests.support.clock import MovableClock
from tests.support.wire import Traffic
from tests.support.worlds import iterating

Store = Any


def all_of(store: Store, session_id: str = "s", **how: Any) -> list[Any]:
    return list(iterating(store, store.history.iterate(session_id, **how)))


@pytest.fixture(autouse=True)
def session(store: Store) -> None:
    store.sessions.create("s")


@pytest.mark.parametrize("batch", [1, 9, 10, 11, 500])
def test_every_entry_comes_once_and_in_order(store: Store, batch: int) -> None:
    stored = store.history.append("s", [NewEntry(n) for n in range(20)])
    assert all_of(store, batch=batch) == stored
    store.history.trim("s", keep_last=13)
    store.sessions.fork("s", "fork")
    store.history.append("fork", [NewEntry("own")])
    assert [entry.content for entry in all_of(store, "fork", batch=batch)] == [*range(7, 20), "own"]
    assert [entry.content for entry in all_of(store, batch=batch)] == list(range(7, 20))


def test_a_history_without_entries_gives_none(store: Store) -> None:
    assert all_of(store) == []


def test_what_comes_meanwhile_comes_too(store: Store) -> None:
    store.history.append("s", [NewEntry(n) for n in range(4)])
    found = []
    for entry in iterating(store, store.history.iterate("s", batch=2)):
        found.append(entry.content)
        if len(found) < 8:
            store.history.append("s", [NewEntry(10 + len(found))])
    assert found == [0, 1, 2, 3, *range(11, 18)]


def test_a_missing_session_is_not_found_and_one_that_goes_neither(store: Store, clock: MovableClock) -> None:
    with pytest.raises(SessionNotFoundError):
        all_of(store, "missing")
    store.history.append("s", [NewEntry(n) for n in range(4)])
    going = iterating(store, store.history.iterate("s", batch=2))
    assert [next(going).content, next(going).content] == [0, 1]
    store.sessions.delete("s")
    with pytest.raises(SessionNotFoundError):
        next(going)


@pytest.mark.parametrize("batch", [0, -1, 10_001, 1.5, None, True])
def test_a_batch_is_a_number_of_entries(store: Store, batch: Any) -> None:
    with pytest.raises(InvalidValueError, match="batch"):
        store.history.iterate("s", batch=batch)


def test_a_transaction_goes_through_it_too(store: Store) -> None:
    store.history.append("s", [NewEntry(n) for n in range(5)])
    with store.transaction() as tx:
        tx.history.append("s", [NewEntry(5)])
        assert [entry.content for entry in iterating(store, tx.history.iterate("s", batch=2))] == list(range(6))


def test_each_batch_is_one_statement(connect: Callable[..., Store], traffic: Traffic) -> None:
    store = connect(traffic.url)
    store.sessions.create("t")
    store.history.append("t", [NewEntry(n) for n in range(10)])
    for _ in range(8):  # psycopg prepares a statement, in a round trip of its own, when it comes for the sixth time.
        store.history.read("t", after=0, limit=4)
    traffic.clear()
    assert len(all_of(store, "t", batch=4)) == 10
    assert (len(traffic.statements), traffic.transactions) == (3, 3)


def test_a_long_history_is_read_in_one_statement(connect: Callable[..., Store], traffic: Traffic) -> None:
    store = connect(traffic.url)
    for name, n in (("exactly", entry_reads._PAGE), ("beyond", 2 * entry_reads._PAGE + 1)):
        store.sessions.create(name)
        stored = store.history.append(name, [NewEntry(number) for number in range(n)])
        store.sessions.fork(name, f"fork of {name}")
        traffic.clear()
        assert store.history.read(name) == stored
        assert len(traffic.statements) == 1
        assert [entry.seq for entry in store.history.read(f"fork of {name}")] == list(range(1, n + 1))
        assert [entry.seq for entry in store.history.read(name, last=n - 1)] == list(range(2, n + 1))


def test_reading_takes_little_more_memory_than_what_is_read(store: Store) -> None:
    for start in range(0, 20_000, 5000):
        store.history.append("s", [NewEntry(f"message {n} " + "x" * 200) for n in range(start, start + 5000)])
    tracemalloc.start()
    try:
        entries = store.history.read("s")
        kept, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(entries) == 20_000
    assert most < 1.25 * kept
