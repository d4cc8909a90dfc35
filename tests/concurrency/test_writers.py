"""Many writers at once lose nothing, write nothing twice, and see no error of the database."""

from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from statestore import NewEntry, SessionNotFoundError
from tests.support.content import Content, unsound
from tests.support.crowd import at_once

Store = Any


@pytest.fixture
def store(open_store: Callable[..., Store]) -> Store:
    """On the databases' own clocks, and as durable as by default: what is under test is the real thing."""
    store = open_store()
    store.sessions.create("s")
    return store


def test_sixteen_writers_of_fifty_appends_lose_nothing(store: Store) -> None:
    def write(writer: int) -> None:
        for n in range(50):
            store.history.append("s", [NewEntry([writer, n])])

    at_once(*(partial(write, writer) for writer in range(16)))
    entries = store.history.read("s")
    assert [entry.seq for entry in entries] == list(range(1, 801))
    assert Counter(tuple(entry.content) for entry in entries) == Counter(
        (writer, n) for writer in range(16) for n in range(50)
    )
    for writer in range(16):
        assert [n for w, n in (entry.content for entry in entries) if w == writer] == list(range(50))
    assert store.sessions.get("s").entry_count == 800


def test_batches_of_several_writers_do_not_interleave(store: Store) -> None:
    def write(writer: int) -> None:
        for n in range(5):
            store.history.append("s", [NewEntry([writer, n, part], role="user") for part in range(7)])

    at_once(*(partial(write, writer) for writer in range(8)))
    entries = store.history.read("s")
    batches = [entries[start : start + 7] for start in range(0, len(entries), 7)]
    assert len(batches) == 40
    for batch in batches:
        assert [entry.content for entry in batch] == [[*batch[0].content[:2], part] for part in range(7)]
    assert [entry.turn for entry in entries] == list(range(1, 281))


def test_fifty_writers_of_different_keys_keep_all_fifty(store: Store) -> None:
    at_once(*(partial(store.state.set, "s", f"key {n}", n) for n in range(50)))
    assert store.state.get_all("s") == {f"key {n}": n for n in range(50)}


def test_two_hundred_increments_give_two_hundred(store: Store) -> None:
    def write() -> list[int]:
        return [store.state.increment("s", "n") for _ in range(10)]

    seen = [total for totals in at_once(*[write] * 20) for total in totals]
    assert store.state.get("s", "n") == 200
    assert sorted(seen) == list(range(1, 201))
    assert store.state.entry("s", "n").version == 200


def test_fifty_merges_of_different_keys_keep_all_fifty(store: Store) -> None:
    at_once(*(partial(store.sessions.merge_metadata, "s", {f"key {n}": n}) for n in range(50)))
    assert store.sessions.get("s").metadata == {f"key {n}": n for n in range(50)}


def test_readers_see_whole_batches(store: Store) -> None:
    def write() -> None:
        for n in range(20):
            store.history.append("s", [NewEntry([n, part]) for part in range(5)])

    def read() -> None:
        for _ in range(20):
            contents = [entry.content for entry in store.history.read("s")]
            assert len(contents) % 5 == 0
            assert contents == [[n, part] for n in range(len(contents) // 5) for part in range(5)]

    at_once(write, read, read)


def test_a_delete_among_appends_leaves_all_or_nothing(store: Store, content: Content) -> None:
    def write() -> None:
        for n in range(30):
            try:
                store.history.append("s", [NewEntry(n), NewEntry(n)])
            except SessionNotFoundError:
                return

    at_once(write, write, write, partial(store.sessions.delete, "s"))
    assert not store.sessions.exists("s")
    assert not any(content.sizes().values())


def test_a_deleted_user_is_gone_for_good(store: Store, content: Content) -> None:
    for n in range(6):
        store.sessions.create(f"of ada {n}", user_id="ada")
        store.history.append(f"of ada {n}", [NewEntry(n)])

    def write(n: int) -> None:
        for _ in range(10):
            try:
                store.history.append(f"of ada {n}", [NewEntry(n)])
                store.state.set(f"of ada {n}", "k", n)
            except SessionNotFoundError:
                return

    at_once(*(partial(write, n) for n in range(6)), partial(store.sessions.delete_user, "ada"))
    assert store.sessions.count(user_id="ada") == 0
    assert content.sizes()["history_entries"] == 0
    assert unsound(content) == []


def test_transactions_of_several_operations_do_not_mix(store: Store) -> None:
    def write(writer: int) -> None:
        for n in range(8):
            with store.transaction() as tx:
                total = tx.state.increment("s", "n")
                tx.history.append("s", [NewEntry([total, writer, n])])
                tx.history.append("s", [NewEntry([total, writer, n])])

    at_once(*(partial(write, writer) for writer in range(6)))
    contents = [entry.content for entry in store.history.read("s")]
    assert [content[0] for content in contents] == [n for n in range(1, 49) for _ in range(2)]
    assert contents[::2] == contents[1::2]


def test_more_callers_than_connections_wait_their_turn(open_store: Callable[..., Store]) -> None:
    store = open_store(pool_size=2)
    store.sessions.create("narrow")
    at_once(*(partial(store.history.append, "narrow", [NewEntry(n)]) for n in range(24)))
    assert store.history.count("narrow") == 24
