"""Exports and imports take as many statements as they have pages, and as much memory as a page."""

import io
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import event

from statestore import NewEntry, StateStore
from statestore.portable import export_sessions, import_sessions
from statestore.repositories.portable import portable_pages
from tests.support import worlds


@contextmanager
def statements(store: StateStore) -> Iterator[list[str]]:
    """The statements of a store, as they are executed."""
    seen: list[str] = []

    def note(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        seen.append(statement)

    event.listen(store._database.engine, "before_cursor_execute", note)
    try:
        yield seen
    finally:
        event.remove(store._database.engine, "before_cursor_execute", note)


def filled(store: Any, sessions: int) -> None:
    for start in range(0, sessions, 500):
        with store.transaction() as tx:
            for n in range(start, min(start + 500, sessions)):
                tx.sessions.create(f"s{n:05}", user_id="ada")
                tx.history.append(f"s{n:05}", [NewEntry("x")])
                tx.state.set(f"s{n:05}", "k", n)


def test_statements_are_as_many_as_pages(database_url: str) -> None:
    counts = {}
    for sessions in 1_000, 2_000:
        with StateStore.open(database_url, namespace=f"n{sessions}") as store:
            filled(store, sessions)
            file = io.BytesIO()
            with statements(store) as seen:
                export_sessions(store, file)
            exported = len(seen)
            with statements(store) as seen:
                export_sessions(store, io.BytesIO(), user_id="ada")
            of_user = len(seen)
        with StateStore.open(database_url, namespace=f"copy{sessions}") as store:
            file.seek(0)
            with statements(store) as seen:
                import_sessions(store, file)
            counts[sessions] = exported, of_user, len(seen)
    small, large = counts[1_000], counts[2_000]
    # For 500 sessions: their page, what there is of them, in two statements, and a page of entries and one of state.
    assert [more - fewer for more, fewer in zip(large, small, strict=True)][:2] == [10, 10]
    # 2,000 lines are written together: a statement for each kind, and one that makes room.
    assert large[2] - small[2] <= 8


def exported(store: Any, **which: Any) -> bytes:
    file = io.BytesIO()
    worlds.export_sessions(store, file, **which)
    return file.getvalue()


def lines_of(file: bytes, kind: str) -> list[dict[str, Any]]:
    return [line for line in map(json.loads, file.splitlines()) if line["type"] == kind]


@pytest.mark.parametrize(("rows", "room"), [(3, 2**20), (500, 1), (4, 60), (1, 2**20)])
def test_pages_of_any_size_give_the_same_file(
    database_url: str, connect: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, rows: int, room: int
) -> None:
    store = connect(database_url)
    for name in "abcdefg":
        store.sessions.create(name, user_id="ada", metadata={"n": "x" * 50})
        store.history.append(name, [NewEntry(f"{name}{n}" * n) for n in range(ord(name) - ord("a"))])
        for key in "klmno"[: ord(name) % 6]:
            store.state.set(name, key, {"v": key * 20})
            store.lists.append(name, f"list {key}", [key] * 5)
        store.history.add_summary(name, "s", start_seq=1, end_seq=1) if name > "a" else None
    store.sessions.fork("g", "h", at_seq=4)
    store.history.append("h", [NewEntry("own")])
    store.sessions.fork("h", "i")
    store.sessions.create("gone", user_id="bob")
    store.history.append("gone", [NewEntry("x", cost_usd=1), NewEntry("y")])
    store.sessions.fork("gone", "left", at_seq=1)
    store.history.pop_last("left")
    store.history.trim("gone", keep_last=1)
    whiches: list[dict[str, Any]] = [{}, {"user_id": "ada"}, {"session_ids": ["h", "i"]}]
    whole = [exported(store, **which) for which in whiches]
    assert len(lines_of(whole[0], "list_item")) == sum(5 * (ord(name) % 6) for name in "abcdefg") + 2 * 5 * (
        ord("g") % 6
    )
    monkeypatch.setattr(portable_pages, "PAGE", rows)
    monkeypatch.setattr("statestore.portable.exports.PAGE", rows)
    monkeypatch.setattr(portable_pages, "ROOM", room)
    assert [exported(store, **which) for which in whiches] == whole
