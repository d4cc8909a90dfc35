"""Commands on tables with a prefix, in the SQLite file of an application that has a table `sessions` of its own."""

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from statestore import StateStore, migrate
from tests.migrations.databases import rows
from tests.support.command_line import Ran, invoke

Run = Callable[..., Ran]


@pytest.fixture
def run(empty_sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a command on a file of somebody else's, on tables with the prefix `app_`."""
    with closing(sqlite3.connect(empty_sqlite_url.removeprefix("sqlite:///"))) as connection:
        connection.executescript("CREATE TABLE sessions (id INTEGER); CREATE TABLE history_entries (id INTEGER)")
    Path(empty_sqlite_url.removeprefix("sqlite:///")).chmod(0o600)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STATESTORE_URL", empty_sqlite_url)
    monkeypatch.setenv("STATESTORE_TABLE_PREFIX", "app_")

    def run(*arguments: str, code: int = 0) -> Ran:
        done = invoke(*arguments)
        assert done.exit_code == code, done.output
        return done

    return run


def test_commands_are_about_the_tables_with_the_prefix(run: Run, empty_sqlite_url: str) -> None:
    assert run("sessions", code=1).stderr.endswith("make them with: statestore migrate up\n")
    other = ("--table-prefix", "other_")
    assert run("sessions", *other, code=1).stderr.endswith(": statestore migrate up --table-prefix other_\n")
    run("migrate", "up")
    run("migrate", "check")
    with StateStore.open(empty_sqlite_url, table_prefix="app_") as store:
        store.sessions.create("chat-7")
        store.history.append("chat-7", [{"role": "user", "content": "Hello there"}])
    assert "chat-7" in run("sessions").stdout
    assert "Hello there" in run("show", "chat").stdout
    assert "1" in run("report", "usage_by_day").stdout
    run("report", "--html", "page")
    run("export", "all.jsonl", "--jobs", "2")
    run("delete", "chat-7", "--yes")
    run("import", "statestore", "all.jsonl")
    assert "Hello there" in run("show", "chat-7").stdout
    run("sweep")
    run("vacuum", "--full")
    examined = json.loads(run("doctor", "--json").stdout)["findings"]
    assert {one["check"]: one["message"] for one in examined if one["verdict"] != "ok"} == {}
    assert {"tables", "indexes", "orphans", "positions"} <= {one["check"] for one in examined}
    run("migrate", "down", "base", "--yes")
    assert migrate.current(empty_sqlite_url, table_prefix="app_") is None
    assert rows(empty_sqlite_url, "SELECT name FROM sqlite_master") == [("sessions",), ("history_entries",)]


def test_on_postgresql_the_option_for_a_schema_is_named(run: Run) -> None:
    told = run("sessions", "--url", "postgresql://nobody@192.0.2.1/nowhere", code=1).stderr
    assert told.startswith("error: --table-prefix: is for SQLite;")
    assert "--schema app" in told


def test_a_wrong_prefix_is_told_by_its_option(run: Run) -> None:
    assert "--table-prefix: " in run("sessions", "--table-prefix", "A b", code=1).stderr
