"""The log of a SQLite database stays small, and a new file can give space back."""

import sqlite3
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from statestore import NewEntry, StateStore, migrate
from statestore.engine import sqlite_files
from tests.support.clock import MovableClock

MEBIBYTE = 1 << 20
NEEDLE = "needle" * 20


@pytest.fixture
def path(empty_sqlite_url: str) -> Path:
    return Path(empty_sqlite_url.removeprefix("sqlite:///"))


@pytest.fixture
def connection(path: Path) -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(path, isolation_level=None)
    yield connection
    connection.close()


MAKERS: dict[str, Callable[[str], Any]] = {
    "open": lambda url: StateStore.open(url).close(),
    "migrate": migrate.upgrade,
}


@pytest.mark.parametrize("maker", MAKERS)
def test_a_new_file_can_give_space_back(empty_sqlite_url: str, path: Path, maker: str) -> None:
    MAKERS[maker](empty_sqlite_url)
    with StateStore.open(empty_sqlite_url) as store:
        store.history.append("s", [NewEntry("x" * MEBIBYTE) for _ in range(4)], create=True)
        store.sessions.delete("s")
    before = path.stat().st_size
    connection = sqlite3.connect(path, isolation_level=None)
    assert connection.execute("PRAGMA auto_vacuum").fetchone() == (2,)
    connection.executescript("PRAGMA incremental_vacuum")  # execute() would do a single step of it: a page.
    connection.close()
    assert path.stat().st_size < before - 3 * MEBIBYTE


def test_a_file_that_is_there_stays_as_it_is(empty_sqlite_url: str, path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE mine (n)")
    connection.close()
    StateStore.open(empty_sqlite_url, create=True).close()
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA auto_vacuum").fetchone() == (0,)
    connection.close()


def test_the_log_does_not_stay_as_long_as_it_was(empty_sqlite_url: str, path: Path) -> None:
    log = path.with_name(path.name + "-wal")
    with StateStore.open(empty_sqlite_url) as store:
        store.sessions.create("s")
        with store.transaction() as tx:  # One transaction's pages all have to be in the log.
            for _ in range(3):
                tx.history.append("s", [NewEntry("x" * (8 * MEBIBYTE))])
        assert log.stat().st_size > sqlite_files.LOG_LIMIT
        for n in range(3):
            store.state.set("s", "k", n)
        assert log.stat().st_size <= sqlite_files.LOG_LIMIT


def test_a_checkpoint_leaves_nothing_in_the_log(
    empty_sqlite_url: str, path: Path, connection: sqlite3.Connection
) -> None:
    log = path.with_name(path.name + "-wal")
    with StateStore.open(empty_sqlite_url) as store:
        store.history.append("s", [NewEntry(NEEDLE)], create=True)
        store.sessions.delete("s")
        assert NEEDLE.encode() in log.read_bytes()
        connection.execute("PRAGMA busy_timeout = 1234")
        assert sqlite_files.checkpoint(connection)
        assert log.stat().st_size == 0
        assert NEEDLE.encode() not in path.read_bytes()
        assert connection.execute("PRAGMA busy_timeout").fetchone() == (1234,)


def test_a_checkpoint_gives_way(empty_sqlite_url: str, path: Path, connection: sqlite3.Connection) -> None:
    reader = sqlite3.connect(path, isolation_level=None)
    with StateStore.open(empty_sqlite_url) as store:
        store.sessions.create("s")
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM sessions").fetchall()
        store.state.set("s", "k", 1)
        connection.execute("PRAGMA busy_timeout = 60000")
        assert not sqlite_files.checkpoint(connection)
        reader.execute("COMMIT")
        reader.execute("BEGIN IMMEDIATE")
        assert not sqlite_files.checkpoint(connection)
        reader.execute("ROLLBACK")
        assert sqlite_files.checkpoint(connection)
        assert store.state.get("s", "k") == 1
    reader.close()


@pytest.mark.parametrize("world", ["sync", "async"])
@pytest.mark.parametrize("how", ["erase", "sweep"])
def test_what_was_erased_is_in_no_file_of_a_store_that_is_still_open(
    connect: Callable[..., Any], clock: MovableClock, sqlite_url: str, world: str, how: str
) -> None:
    path = Path(sqlite_url.removeprefix("sqlite:///"))
    store = connect(sqlite_url, clock=clock)
    store.sessions.create("s", user_id="ada", ttl=timedelta(hours=1))
    store.history.append("s", [NewEntry(NEEDLE) for _ in range(50)])

    def files() -> list[str]:
        return [file.name for file in path.parent.iterdir() if NEEDLE.encode() in file.read_bytes()]

    assert files()
    if how == "erase":
        store.sessions.delete_user("ada")
    else:
        clock.advance(hours=2)
        store.sweep()
    assert not files()
