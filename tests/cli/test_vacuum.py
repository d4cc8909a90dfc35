import json
import os
import sqlite3
import threading
from pathlib import Path

import pytest
from sqlalchemy import make_url

from statestore import StateStore, vacuuming
from tests.cli.conftest import CommandLine

MEGABYTE = 1 << 20


def file_of(cli: CommandLine) -> Path:
    return Path(str(make_url(cli.url).database))


def fill_and_delete(cli: CommandLine, megabytes: int = 8) -> None:
    with cli.store() as store:
        for name in ("kept", "gone"):
            store.sessions.create(name)
        for _ in range(megabytes):
            store.history.append("gone", [{"role": "user", "content": "x" * 8192} for _ in range(128)])
        store.history.append("kept", [{"role": "user", "content": "kept"}])
        store.sessions.delete("gone")


@pytest.mark.parametrize("made", ["by upgrade", "by open"])
def test_the_space_of_what_was_deleted_comes_back(empty_cli: CommandLine, made: str, empty_database_url: str) -> None:
    if empty_database_url.startswith("postgresql"):
        pytest.skip("PostgreSQL does this by itself")
    if made == "by upgrade":
        empty_cli("migrate", "up")
    fill_and_delete(empty_cli)
    file = file_of(empty_cli)
    assert file.stat().st_size > 8 * MEGABYTE
    done = json.loads(empty_cli("vacuum", "--json").stdout)
    assert done["before"] > 8 * MEGABYTE > 1 * MEGABYTE > done["after"]
    assert done["complete"] is True
    assert file.stat().st_size < MEGABYTE
    assert not Path(f"{file}-wal").exists() or os.stat(f"{file}-wal").st_size == 0
    with empty_cli.store() as store:
        assert [entry.content["content"] for entry in store.history.read("kept")] == ["kept"]
    assert empty_cli("vacuum").stderr == ""


def test_a_file_of_an_older_version_is_written_anew_when_asked_for(sqlite_cli: CommandLine) -> None:
    file = file_of(sqlite_cli)
    with sqlite3.connect(file, isolation_level=None) as old:
        old.execute("PRAGMA auto_vacuum = NONE")
        old.execute("VACUUM")
        assert old.execute("PRAGMA auto_vacuum").fetchone() == (0,)
    old.close()
    sqlite_cli("vacuum")  # Nothing is free, so nothing is wrong.
    fill_and_delete(sqlite_cli)
    before = file.stat().st_size
    assert "--full" in sqlite_cli("vacuum", code=1).stderr
    assert file.stat().st_size == before
    sqlite_cli("vacuum", "--full")
    assert file.stat().st_size < MEGABYTE
    # From then on it is done in steps.
    with sqlite_cli.store() as store:
        store.sessions.create("more")
        store.history.append("more", [{"role": "user", "content": "x" * 2 * MEGABYTE}])
        store.sessions.delete("more")
    sqlite_cli("vacuum")
    assert file.stat().st_size < MEGABYTE


def test_others_write_between_its_steps(sqlite_cli: CommandLine) -> None:
    fill_and_delete(sqlite_cli)
    steps: list[int] = []
    with sqlite_cli.store() as other, sqlite_cli.store() as store:

        def write(pages: int) -> None:
            steps.append(pages)
            other.history.append("kept", [{"role": "user", "content": "meanwhile"}])

        report = vacuuming.vacuum(store, progress=write)
        assert 4 <= len(steps) < 20
        assert max(steps) <= 500
        assert report.after < MEGABYTE
        assert other.history.count("kept") == 1 + len(steps)
        # Another who reads keeps it from emptying the log, and from nothing else.
        reading = sqlite3.connect(file_of(sqlite_cli))
        reading.execute("BEGIN")
        reading.execute("SELECT count(*) FROM sessions").fetchone()
        other.history.append("kept", [{"role": "user", "content": "more"}])
        assert vacuuming.vacuum(store).complete is False
        reading.close()
        assert vacuuming.vacuum(store).complete is True


def test_many_writers_lose_nothing_meanwhile(sqlite_cli: CommandLine) -> None:
    fill_and_delete(sqlite_cli)
    stop = threading.Event()
    written = [0] * 4

    def write(number: int, store: StateStore) -> None:
        while not stop.is_set():
            store.history.append("kept", [{"role": "user", "content": str(number)}])
            written[number] += 1

    with sqlite_cli.store() as store:
        threads = [threading.Thread(target=write, args=(number, store)) for number in range(4)]
        for thread in threads:
            thread.start()
        done = sqlite_cli.process("vacuum")
        stop.set()
        for thread in threads:
            thread.join()
        assert done.returncode == 0, done.stderr
        assert store.history.count("kept") == 1 + sum(written)
    with sqlite3.connect(file_of(sqlite_cli)) as found:
        assert found.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert found.execute("PRAGMA freelist_count").fetchone()[0] < 500
    found.close()


def test_postgresql_is_left_alone(postgres_url: str) -> None:
    done = CommandLine(postgres_url)("vacuum", "--full")
    assert "autovacuum" in done.stdout
