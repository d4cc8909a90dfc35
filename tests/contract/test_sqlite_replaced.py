"""A file that is taken away or replaced under an open store."""

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from statestore import DatabaseError, NewEntry
from tests.support.content import Content
from tests.support.crowd import at_once

OWN_ENGINE = pytest.mark.parametrize("world", ["sync", "async"], indirect=True)


def in_transaction(store: Any) -> None:
    with store.transaction() as tx:
        tx.state.set("s", "k", 1)


WRITES: dict[str, Callable[[Any], Any]] = {
    "append": lambda store: store.history.append("s", [NewEntry(1)]),
    "set": lambda store: store.state.set("s", "k", 1),
    "transaction": in_transaction,
    "appends": lambda store: at_once(*[lambda: store.history.append("s", [NewEntry(1)])] * 4),
}


def move_away(path: Path) -> None:
    path.rename(path.with_name("moved.db"))


def replace(path: Path) -> None:
    other = path.with_name("other.db")
    shutil.copyfile(path.with_name("copy.db"), other)
    os.replace(other, path)


CHANGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "deleted": (lambda path: path.unlink(), "was deleted or moved away"),
    "moved": (move_away, "was deleted or moved away"),
    "replaced": (replace, "was replaced by another file"),
}


@OWN_ENGINE
@pytest.mark.parametrize("change", CHANGES)
def test_nothing_is_written_to_a_file_that_is_not_there(
    connect: Callable[..., Any], sqlite_url: str, change: str
) -> None:
    path = Path(sqlite_url.removeprefix("sqlite:///"))
    shutil.copyfile(path, path.with_name("copy.db"))
    store = connect(sqlite_url)
    store.sessions.create("s")
    act, words = CHANGES[change]
    act(path)
    for write in WRITES.values():
        with pytest.raises(DatabaseError) as caught:
            write(store)
        assert f"{path} {words} while the store was open" in str(caught.value)
        assert not caught.value.retryable
    if change == "replaced":
        content = Content(sqlite_url)  # The session may be there: its log was left, and SQLite takes it up.
        assert content.rows("history_entries") == content.rows("state_entries") == []
        content.close()
    else:
        assert not path.exists(), "a connection has made another database"
    if change == "moved":
        path.with_name("moved.db").rename(path)
        store.history.append("s", [NewEntry("back")])
        assert store.history.count("s") == 1
        content = Content(sqlite_url)
        assert len(content.rows("history_entries")) == 1
        content.close()


@OWN_ENGINE
def test_who_only_reads_is_told_too(connect: Callable[..., Any], sqlite_url: str) -> None:
    store = connect(sqlite_url)
    store.sessions.create("s")
    Path(sqlite_url.removeprefix("sqlite:///")).unlink()
    patience = time.monotonic() + 20

    def read() -> None:
        while time.monotonic() < patience:
            store.sessions.get("s")

    with pytest.raises(DatabaseError, match="was deleted"):
        read()
