"""A row that was damaged outside of the store is named, and nothing of what it holds is told."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import make_url

from statestore import DatabaseError, NewEntry, StateStore
from tests.support.content import Content
from tests.support.worlds import entering

Store = Any

CANARY = "canary"
# PostgreSQL sees to it that it is JSON, but takes half a character for one.
DAMAGED = {True: f"[{CANARY}", False: f'"\\ud800 {CANARY}"'}

COLUMNS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "content": ("history_entries", "position 2 of session 's'", {"seq": 2}),
    "metadata": ("history_entries", "position 2 of session 's'", {"seq": 2}),
    "value": ("state_entries", "key 'k' of session 's'", {"key": "k"}),
    "metadata of a session": ("sessions", "the metadata of session 's'", {}),
}
READS: dict[str, list[Callable[[Store], Any]]] = {
    "history_entries": [
        lambda store: store.history.read("s"),
        lambda store: store.history.read("s", last=1),
        lambda store: store.history.get("s", 2),
        lambda store: store.history.window("s", max_tokens=100),
        lambda store: store.history.pop_last("s"),
        lambda store: store.sessions.load("s"),
    ],
    "state_entries": [
        lambda store: store.state.get("s", "k"),
        lambda store: store.state.entry("s", "k"),
        lambda store: store.state.get_all("s"),
        lambda store: store.sessions.load("s"),
        lambda store: entering(store, store.turn("s")).__enter__(),
    ],
    "sessions": [
        lambda store: store.sessions.get("s"),
        lambda store: store.sessions.page(),
        lambda store: store.sessions.load("s"),
        lambda store: store.sessions.update("s", title="t"),
    ],
}


@pytest.fixture(params=COLUMNS)
def damaged(request: pytest.FixtureRequest, store: Store, content: Content) -> str:
    store.sessions.create("s")
    store.history.append("s", [NewEntry("a"), NewEntry("b", metadata={"k": 1})])
    store.state.set("s", "k", 1)
    table = COLUMNS[request.param][0]
    where = {"history_entries": " WHERE seq = 2"}.get(table, "")
    column = request.param.partition(" ")[0]
    content.query(f"UPDATE {table} SET {column} = :text{where}", text=DAMAGED[content.is_sqlite])
    return str(request.param)


def test_damaged_json_is_named_and_not_told(store: Store, damaged: str) -> None:
    table, place, facts = COLUMNS[damaged]
    for read in READS[table]:
        with pytest.raises(DatabaseError) as caught:
            read(store)
        error = caught.value
        assert type(error) is DatabaseError
        assert f"a row of {table} is damaged: its content at {place} is not JSON" in str(error)
        assert vars(error) == {"table": table, "session_id": "s"} | facts
        chain: BaseException | None = error
        while chain is not None:
            assert CANARY not in f"{chain!s} {chain!r} {vars(chain)}"
            assert not hasattr(chain, "doc")
            chain = chain.__cause__ or chain.__context__


def test_what_is_sound_can_be_read_beside_it(store: Store, damaged: str) -> None:
    if damaged != "metadata of a session":
        assert store.history.read("s", before=2)[0].content == "a"
        assert store.sessions.get("s").next_seq == 3
    assert store.history.count("s") == 2


@pytest.mark.parametrize("stored", [f"' {CANARY}'", f"CAST(' {CANARY}' AS blob)", "''"])
def test_content_that_only_sqlite_can_hold_is_damaged_too(store: Store, content: Content, stored: str) -> None:
    if not content.is_sqlite:
        pytest.skip("PostgreSQL checks what its column takes")
    store.sessions.create("s")
    store.history.append("s", [NewEntry("a")])
    content.query(f"UPDATE history_entries SET content = {stored}")
    with pytest.raises(DatabaseError, match="at position 1 of session 's' is not JSON") as caught:
        store.history.read("s")
    assert CANARY not in str(caught.value)


def test_a_schema_that_is_no_text_is_our_error(sqlite_url: str) -> None:
    """SQLite's message quotes it, and the driver fails to decode that."""
    StateStore.open(sqlite_url).close()
    path = Path(str(make_url(sqlite_url).database))
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute("UPDATE sqlite_schema SET name = CAST(x'4182ff' AS TEXT), sql = 'CREATE nothing'")
    with pytest.raises(DatabaseError, match=r"is damaged, or not a SQLite database \(SQLITE_CORRUPT\)") as caught:
        StateStore.open(sqlite_url)
    assert caught.value.__context__ is None
