"""Named lists of a session, to which values are only added."""

import io
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any

import pytest

from statestore import (
    CommitUnknownError,
    InvalidValueError,
    NewSession,
    SessionNotFoundError,
    StateStore,
)
from statestore.portable import export_sessions, import_sessions
from tests.support.clock import NOON, MovableClock
from tests.support.content import Content
from tests.support.crowd import at_once
from tests.support.wire import Proxy

Store = Any


@pytest.fixture(autouse=True)
def session(store: Store) -> None:
    store.sessions.create("s")


def test_items_come_back_in_their_order(store: Store) -> None:
    assert store.lists.append("s", "notes", [1, {"b": 1, "a": None}]) == 2
    assert store.lists.append("s", "notes", iter([None, "ü", 2.5])) == 5
    assert store.lists.read("s", "notes") == [1, {"b": 1, "a": None}, None, "ü", 2.5]
    assert list(store.lists.read("s", "notes")[1]) == ["b", "a"]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"last": 2}, [8, 9]), ({"last": 0}, []), ({"last": 99}, [*range(10)]), ({"limit": 3}, [0, 1, 2]),
        ({"limit": 0}, []), ({"after": 8}, [8, 9]), ({"after": 10}, []), ({"after": 3, "limit": 2}, [3, 4]),
        ({"after": 8, "last": 5}, [8, 9]), ({"after": 0}, [*range(10)]),
    ],
)  # fmt: skip
def test_a_part_of_a_list_is_read(store: Store, options: dict[str, int], expected: list[int]) -> None:
    store.lists.append("s", "n", range(10))
    assert store.lists.read("s", "n", **options) == expected


def test_lists_have_names_and_lengths(store: Store) -> None:
    store.lists.append("s", "b", [1, 2])
    store.lists.append("s", "ä", [1])
    store.lists.append("s", "a", [1, 2, 3])
    assert store.lists.names("s") == ["a", "b", "ä"]
    assert [store.lists.count("s", name) for name in ("a", "b", "c")] == [3, 2, 0]
    assert store.lists.read("s", "c") == []


def test_a_deleted_list_is_gone(store: Store, content: Content) -> None:
    store.lists.append("s", "a", [1, 2])
    store.lists.append("s", "b", [3])
    assert store.lists.delete("s", "a") is True
    assert store.lists.delete("s", "a") is False
    assert store.lists.names("s") == ["b"]
    assert store.lists.append("s", "a", [9]) == 1
    assert store.lists.read("s", "a") == [9]
    assert len(content.rows("session_list_items")) == 2


def test_no_items_make_no_list(store: Store) -> None:
    assert store.lists.append("s", "a", []) == 0
    assert store.lists.names("s") == []
    store.lists.append("s", "a", [1])
    assert store.lists.append("s", "a", []) == 1


def test_a_list_may_have_thousands_of_items(store: Store) -> None:
    items = [{"n": n, "text": "x" * 100} for n in range(2_000)]
    assert store.lists.append("s", "long", items) == 2_000
    assert store.lists.append("s", "long", [1]) == 2_001
    assert store.lists.read("s", "long", last=2) == [items[-1], 1]
    assert store.lists.read("s", "long", limit=2_000) == items


def test_a_list_belongs_to_one_session(store: Store, open_store: Callable[..., Store]) -> None:
    store.sessions.create("t")
    other = open_store(namespace="other")
    other.sessions.create("s")
    store.lists.append("s", "a", [1])
    assert store.lists.names("t") == other.lists.names("s") == []
    assert store.lists.append("t", "a", [2]) == other.lists.append("s", "a", [3]) == 1
    assert store.lists.read("s", "a") == [1]


CALLS: dict[str, Callable[[Store], Any]] = {
    "append": lambda store: store.lists.append("s", "a", [1]),
    "append nothing": lambda store: store.lists.append("s", "a", []),
    "read": lambda store: store.lists.read("s", "a"),
    "count": lambda store: store.lists.count("s", "a"),
    "names": lambda store: store.lists.names("s"),
    "delete": lambda store: store.lists.delete("s", "a"),
}


@pytest.mark.parametrize("name", CALLS)
def test_there_are_no_lists_without_a_session(store: Store, clock: MovableClock, name: str) -> None:
    store.sessions.delete("s")
    with pytest.raises(SessionNotFoundError):
        CALLS[name](store)
    store.sessions.create("s", ttl=timedelta(minutes=1))
    store.lists.append("s", "a", [1])
    clock.advance(minutes=1)
    with pytest.raises(SessionNotFoundError):
        CALLS[name](store)
    with store.transaction() as tx, pytest.raises(SessionNotFoundError):
        CALLS[name](tx)


@pytest.mark.parametrize(("name", "extends"), [("append", True), ("read", True), ("names", True), ("delete", True),
                                               ("count", False)])  # fmt: skip
def test_lists_extend_the_session(store: Store, clock: MovableClock, name: str, extends: bool) -> None:
    store.sessions.update("s", ttl=timedelta(minutes=10))
    clock.advance(minutes=9)
    CALLS[name](store)
    start = clock() if extends else NOON
    assert store.sessions.page().sessions[0].expires_at == start + timedelta(minutes=10)


def test_an_append_creates_the_session_if_that_is_wanted(store: Store) -> None:
    assert store.lists.append("new", "a", [1], create=NewSession(user_id="ada")) == 1
    assert store.lists.append("empty", "a", [], create=True) == 0
    assert store.sessions.get("new").user_id == "ada"
    assert store.sessions.exists("empty")


def test_a_transaction_has_all_or_nothing(store: Store) -> None:
    with store.transaction() as tx:
        assert tx.lists.append("s", "a", [1]) == 1
        assert tx.lists.append("s", "a", [2]) == 2
        assert tx.lists.read("s", "a") == [1, 2]
        assert tx.lists.count("s", "a") == 2

    def undone() -> None:
        with store.transaction() as tx:
            tx.lists.append("s", "a", [3])
            tx.lists.delete("s", "a")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        undone()
    assert store.lists.read("s", "a") == [1, 2]


def test_a_fork_has_lists_of_its_own(store: Store) -> None:
    store.lists.append("s", "a", [1, 2])
    store.sessions.fork("s", "f")
    assert store.lists.append("f", "a", [3]) == 3
    assert store.lists.append("s", "a", [4]) == 3
    store.lists.append("s", "b", [5])
    assert (store.lists.read("f", "a"), store.lists.read("s", "a")) == ([1, 2, 3], [1, 2, 4])
    assert store.lists.names("f") == ["a"]
    store.sessions.delete("s")
    assert store.lists.read("f", "a") == [1, 2, 3]


def test_lists_go_with_their_session(store: Store, clock: MovableClock, content: Content) -> None:
    store.sessions.create("expires", ttl=timedelta(minutes=1))
    store.sessions.create("erased", user_id="ada")
    for name in ("s", "expires", "erased"):
        store.lists.append(name, "a", [1, 2])
    store.sessions.delete("s")
    store.sessions.delete_user("ada")
    clock.advance(minutes=1)
    store.sweep()
    assert content.rows("session_lists") == content.rows("session_list_items") == []


def test_large_lists_are_swept_in_slices(store: Store, clock: MovableClock, content: Content) -> None:
    store.sessions.create("expires", ttl=timedelta(minutes=1))
    store.lists.append("expires", "a", ["item"] * 25)
    store.lists.append("expires", "b", ["item"] * 25)
    store.state.set("expires", "k", 1)
    clock.advance(minutes=1)
    due = store.sweep(dry_run=True)
    swept = store.sweep(batch_size=10)
    assert swept["expired_sessions"] == due["expired_sessions"]
    assert (swept["expired_sessions"].rows, swept["expired_sessions"].bytes) == (1, 50 * 6 + 1 + 2)
    assert content.rows("session_lists") == content.rows("session_list_items") == []


def test_lists_count_as_what_is_stored(store: Store) -> None:
    before, all_before = store.sessions.stats("s").stored_bytes, store.stats().stored_bytes
    store.lists.append("s", "a", ["ü", 12])
    assert store.sessions.stats("s").stored_bytes == before + 4 + 2
    assert store.stats().stored_bytes == all_before + 4 + 2


def test_lists_are_exported_and_imported(database_url: str, clock: MovableClock) -> None:
    with (
        StateStore.open(database_url, clock=clock) as store,
        StateStore.open(database_url, namespace="copy", clock=clock) as copy,
    ):
        store.lists.append("s", "a", [1, {"b": None}])
        clock.advance(minutes=1)
        store.lists.append("s", "a", [3])
        store.lists.append("s", "b", ["x"])
        file = io.BytesIO()
        exported = export_sessions(store, file)
        file.seek(0)
        imported = import_sessions(copy, file)
        assert exported == imported
        assert (exported.lists, exported.list_items) == (2, 4)
        assert copy.lists.read("s", "a") == [1, {"b": None}, 3]
        assert copy.lists.append("s", "a", [4]) == 4
        assert copy.lists.names("s") == ["a", "b"]
        file.seek(0)
        import_sessions(copy, file, replace=True)
        assert copy.lists.read("s", "a") == [1, {"b": None}, 3]


def test_a_file_from_before_lists_is_read(database_url: str, clock: MovableClock) -> None:
    with (
        StateStore.open(database_url, clock=clock) as store,
        StateStore.open(database_url, namespace="copy", clock=clock) as copy,
    ):
        store.state.set("s", "k", 1)
        file = io.BytesIO()
        export_sessions(store, file)
        old = file.getvalue().replace(b'"version":2', b'"version":1', 1)
        [state] = [line for line in old.splitlines() if b'"type":"state"' in line]
        before = state.replace(b',"created_at":"2026-01-01T12:00:00.000000Z"', b"")
        import_sessions(copy, io.BytesIO(old.replace(state, before)))
        assert copy.state.get("s", "k") == 1
        assert copy.lists.names("s") == []


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (lambda line: b'"position":2' in line, "item 3 of a list"),
        (lambda line: b'"position":3' in line, "items missing from the file"),
        (lambda line: b'"type":"list"' in line, "belongs to a list that no earlier line has"),
    ],
)
def test_a_damaged_list_is_refused(database_url: str, spoil: Callable[[bytes], bool], problem: str) -> None:
    with StateStore.open(database_url) as store, StateStore.open(database_url, namespace="copy") as copy:
        store.lists.append("s", "a", [1, 2, 3])
        file = io.BytesIO()
        export_sessions(store, file)
        kept = [line for line in file.getvalue().splitlines() if not spoil(line)]
        kept[-1] = kept[-1].replace(b'lines":5', b'lines":4')
        with pytest.raises(InvalidValueError, match=problem):
            import_sessions(copy, io.BytesIO(b"\n".join(kept) + b"\n"))
        assert copy.sessions.count() == 0


INVALID: dict[str, tuple[str, Callable[[Store], Any]]] = {
    "session_id": ("session_id", lambda store: store.lists.append("", "a", [1])),
    "name": ("name", lambda store: store.lists.append("s", "a\0", [1])),
    "text": ("items", lambda store: store.lists.append("s", "a", "abc")),
    "a mapping": ("items", lambda store: store.lists.append("s", "a", {"a": 1})),
    "a number": ("items", lambda store: store.lists.append("s", "a", 1)),
    "not a number": ("items\\[1\\]", lambda store: store.lists.append("s", "a", [1, float("nan")])),
    "create": ("create", lambda store: store.lists.append("s", "a", [1], create=1)),
    "last": ("last", lambda store: store.lists.read("s", "a", last=-1)),
    "after": ("after", lambda store: store.lists.read("s", "a", after="x")),
    "both": ("limit", lambda store: store.lists.read("s", "a", last=1, limit=1)),
}


@pytest.mark.parametrize("name", INVALID)
def test_what_cannot_be_asked_is_refused(store: Store, content: Content, name: str) -> None:
    argument, call = INVALID[name]
    with pytest.raises(InvalidValueError, match=rf"^{argument}"):
        call(store)
    assert content.rows("session_lists") == content.rows("session_list_items") == []


def test_many_who_append_at_once_lose_nothing(open_store: Callable[..., Store]) -> None:
    stores = [open_store(), open_store()]

    def append(number: int, store: Store) -> None:
        for n in range(10):
            store.lists.append("s", "a", [[number, n, 0], [number, n, 1]])
            store.lists.append("s", f"own {number}", [n])

    at_once(*(partial(append, number, store) for number, store in enumerate(stores * 3)))
    items = stores[0].lists.read("s", "a")
    assert len(items) == 120
    for first, second in zip(items[::2], items[1::2], strict=True):
        assert [*first[:2], 1] == second
    for number in range(6):
        assert [n for who, n, part in items if (who, part) == (number, 0)] == list(range(10))
        assert stores[0].lists.read("s", f"own {number}") == list(range(10))


@pytest.mark.parametrize("lost", ["request", "reply"])
def test_an_append_that_may_have_been_done_is_in_doubt(
    connect: Callable[..., Store], store: Store, proxy: Proxy, database_url: str, lost: Any
) -> None:
    if not database_url.startswith("postgresql"):
        pytest.skip("SQLite has no connection to lose")
    through = connect(proxy.url)
    proxy.lose(lost, "session_list_items")
    with pytest.raises(CommitUnknownError):
        through.lists.append("s", "a", [1])
    assert store.lists.count("s", "a") == (1 if lost == "reply" else 0)
