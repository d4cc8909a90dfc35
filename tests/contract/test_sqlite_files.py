"""A SQLite file is touched by SQLite alone.

POSIX drops all locks of a process on a file as soon as any descriptor of the file is closed. Then SQLite is wrong about
its locks: another process that comes and goes deletes the log, and what is written after that is lost.
"""

import errno
import json
import os
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import make_url

from statestore import ReadOnlyError, StateStore, StateStoreError, StorageFullError, UnavailableError, migrate
from statestore.engine import engines, sqlite_files
from tests.support.crowd import at_once
from tests.support.sqlite_writer import WAYS

CHECKOUT = Path(__file__).parents[2]
ENTRIES_A_ROUND = 12


def run_module(name: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", f"tests.support.{name}", *arguments]


def test_nothing_opens_a_database_file_beside_sqlite(sqlite_url: str) -> None:
    command = run_module("watched_files", sqlite_url.removeprefix("sqlite:///"))
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False, timeout=110)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found.pop("open(), which is to be seen")
    assert len(found) > 30
    assert {step: files for step, files in found.items() if files} == {}


@pytest.mark.parametrize("way", WAYS)
def test_what_was_acknowledged_outlives_visitors_and_a_kill(sqlite_url: str, way: str) -> None:
    path = sqlite_url.removeprefix("sqlite:///")
    with StateStore.open(sqlite_url) as store:
        store.sessions.create("s")
    acknowledged = 0
    for _ in range(2):  # The second writer finds what the first one left when it was killed.
        with subprocess.Popen(
            run_module("sqlite_writer", way, sqlite_url), cwd=CHECKOUT, stdout=subprocess.PIPE
        ) as writer:
            assert writer.stdout is not None
            for _ in range(5):
                for _ in range(ENTRIES_A_ROUND):
                    assert writer.stdout.readline(), "the writer gave up"
                    acknowledged += 1
                visit(path)
            writer.kill()
            acknowledged += len(writer.stdout.read().splitlines())
    visitor = sqlite3.connect(path)
    assert visitor.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    visitor.close()
    with StateStore.open(sqlite_url) as store:
        stored = store.history.read("s")
    assert len(stored) >= acknowledged
    assert [entry.seq for entry in stored] == list(range(1, len(stored) + 1))


def visit(path: str) -> None:
    """Come, look and go, as a command line does. Whoever believes to be the last one takes the log along."""
    visitor = sqlite3.connect(path)
    visitor.execute("SELECT count(*) FROM sessions").fetchone()
    visitor.close()


@pytest.fixture
def no_umask() -> Any:
    before = os.umask(0)
    yield
    os.umask(before)


OPENERS: dict[str, Callable[[str], Any]] = {
    "open": lambda url: StateStore.open(url).close(),
    "migrate": migrate.upgrade,
}


@pytest.mark.usefixtures("no_umask")
@pytest.mark.parametrize("opener", OPENERS)
@pytest.mark.parametrize("form", ["{}", "file:{}?uri=true", "file:{}?mode=rwc&uri=true", "file://{}?uri=true"])
def test_a_new_file_is_its_owners_alone(tmp_path: Path, opener: str, form: str) -> None:
    path = tmp_path / "new.db"
    OPENERS[opener]("sqlite:///" + form.format(path))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.usefixtures("no_umask")
def test_a_link_that_leads_nowhere_yet_leads_to_a_private_file(tmp_path: Path) -> None:
    (tmp_path / "link.db").symlink_to(tmp_path / "target.db")
    StateStore.open(f"sqlite:///{tmp_path / 'link.db'}").close()
    assert stat.S_IMODE((tmp_path / "target.db").stat().st_mode) == 0o600


@pytest.mark.usefixtures("no_umask")
def test_where_mknod_is_not_for_everybody_a_new_file_is_private_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "mknod", refuse)
    path = tmp_path / "new.db"
    for _ in range(2):
        StateStore.open(f"sqlite:///{path}").close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("code", "kind", "said"),
    [
        *((code, ReadOnlyError, "check the permissions of its directory") for code in (errno.EACCES, errno.EROFS)),
        *((code, StorageFullError, "the disk or the quota is full") for code in (errno.ENOSPC, errno.EDQUOT)),
        (errno.ENOTDIR, UnavailableError, "check that its directory exists"),
    ],
    ids=["EACCES", "EROFS", "ENOSPC", "EDQUOT", "ENOTDIR"],
)
def test_a_file_that_cannot_be_made_is_named_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, kind: type[StateStoreError], said: str
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "mknod", refuse)
    for opener in OPENERS.values():
        with pytest.raises(kind) as caught:
            opener(f"sqlite:///{tmp_path / 'new.db'}")
        assert f"the SQLite file {tmp_path / 'new.db'} cannot be made" in str(caught.value)
        assert said in str(caught.value)
        assert caught.value.__cause__ is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("opener", OPENERS)
def test_where_there_is_no_directory_there_is_no_file(tmp_path: Path, opener: str) -> None:
    with pytest.raises(UnavailableError, match="cannot be made; check that its directory exists"):
        OPENERS[opener](f"sqlite:///{tmp_path / 'missing' / 'new.db'}")


@pytest.mark.parametrize("mode", ["ro", "rw"])
def test_a_uri_that_says_not_to_make_a_file_makes_none(tmp_path: Path, mode: str) -> None:
    for opener in OPENERS.values():
        with pytest.raises(StateStoreError):
            opener(f"sqlite:///file:{tmp_path / 'new.db'}?mode={mode}&uri=true")
    assert list(tmp_path.iterdir()) == []


def test_many_threads_that_find_no_file_make_one(tmp_path: Path) -> None:
    for round_ in range(20):
        url = f"sqlite:///{tmp_path / str(round_)}.db"
        stores = at_once(*[lambda url=url: StateStore.open(url)] * 8)
        stores[0].sessions.create("s")
        for store in stores:
            assert store.sessions.exists("s")
            store.close()


def test_a_url_says_which_file_it_means() -> None:
    from sqlalchemy import make_url

    expected = {
        "sqlite://": None,
        "sqlite:///:memory:": None,
        "sqlite:///file::memory:?uri=true": None,
        "sqlite:///file:name?mode=memory&cache=shared&uri=true": None,
        "sqlite:///a.db": "a.db",
        "sqlite:////tmp/a.db": "/tmp/a.db",
        "sqlite:///file:/tmp/a%20b.db?uri=true": "/tmp/a b.db",
        "sqlite:///file:/tmp/a.db": "file:/tmp/a.db",
    }
    found = {url: sqlite_files.path_of(make_url(url)) for url in expected}
    assert {url: None if path is None else str(path) for url, path in found.items()} == expected


def test_a_file_that_another_puts_into_wal_mode_is_asked_again(sqlite_url: str) -> None:
    connection = sqlite3.connect(str(make_url(sqlite_url).database))
    asked: list[str] = []

    class Refusing(sqlite3.Cursor):
        def execute(self, sql: str, *parameters: Any) -> Any:
            asked.append(sql)
            if len(asked) == 1:
                refused = sqlite3.OperationalError("database is locked")
                refused.sqlite_errorname = "SQLITE_BUSY"
                raise refused
            return super().execute(sql, *parameters)

    engines._keep_log(connection.cursor(Refusing), time.monotonic() + 10)
    assert asked == ["PRAGMA journal_mode"] * 2
    connection.close()
