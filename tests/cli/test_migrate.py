import json
from pathlib import Path

import pytest
from sqlalchemy import text

from statestore.migrate import engine_for, history, upgrade
from statestore.partitioning import partition
from statestore.schema import HEAD_REVISION
from tests.cli.conftest import CommandLine
from tests.postgres import PostgresServer


def execute(url: str, statement: str) -> None:
    with engine_for(url).begin() as connection:
        connection.execute(text(statement))


def test_up_makes_the_tables_and_status_and_check_agree(empty_cli: CommandLine, tmp_path: Path) -> None:
    up = empty_cli.process("migrate", "up")
    assert up.returncode == 0, up.stderr
    assert [line.split(":")[0] for line in up.stdout.splitlines()[:-1]] == [f"applied {r.revision}" for r in history()]
    assert up.stdout.splitlines()[-1] == f"the schema is at revision {HEAD_REVISION}"
    status = empty_cli("migrate", "status").stdout
    assert status == f"current  {HEAD_REVISION}\nhead     {HEAD_REVISION}\npending  none\n"
    assert empty_cli("migrate", "check").stdout == f"the tables match revision {HEAD_REVISION}\n"
    assert empty_cli("migrate", "up").stdout == f"the schema is at revision {HEAD_REVISION}\n"


def test_up_stops_at_a_revision_and_status_lists_what_is_pending(empty_cli: CommandLine) -> None:
    assert json.loads(empty_cli("migrate", "up", "--revision", "0001", "--json").stdout) == {"revision": "0001"}
    status = json.loads(empty_cli("migrate", "status", "--json").stdout)
    later = [revision.revision for revision in history()[1:]]
    assert (status["current"], status["head"], status["ahead"]) == ("0001", HEAD_REVISION, False)
    assert [pending["revision"] for pending in status["pending"]] == later
    listed = empty_cli("migrate", "status").stdout.splitlines()[2:]
    assert [line[9:13] for line in listed] == (later or ["none"])


def test_down_asks_first(cli: CommandLine) -> None:
    with cli.store() as store:
        store.sessions.create("kept")
    for answer in ("n\n", ""):
        refused = cli("migrate", "down", "base", code=1, input=answer)
        assert "is lost for good" in refused.stderr
        cli("show", "kept")
    agreed = cli("migrate", "down", "base", input="y\n")
    assert "there is no schema left" in agreed.stdout
    assert "current  none" in cli("migrate", "status").stdout


def test_down_with_yes_does_not_ask(cli: CommandLine) -> None:
    result = cli("migrate", "down", "base", "--yes", "--json")
    assert json.loads(result.stdout) == {"revision": None}
    assert "lost" not in result.stderr


def test_down_does_not_show_the_password(postgres_url: str) -> None:
    from sqlalchemy import make_url

    cli = CommandLine(postgres_url)
    password = make_url(postgres_url).password
    assert password
    assert password not in cli("migrate", "down", "base", code=1, input="n\n").output


def test_an_unknown_revision_is_an_error(cli: CommandLine) -> None:
    assert "4711" in cli("migrate", "up", "--revision", "4711", code=1).stderr
    assert "4711" in cli("migrate", "down", "4711", "--yes", code=1).stderr


def test_check_lists_what_differs_and_fails(cli: CommandLine) -> None:
    schema = "statestore." if cli.url.startswith("postgresql") else ""
    execute(cli.url, f"DROP INDEX {schema}uq_history_entries_entry_id")
    execute(cli.url, f"ALTER TABLE {schema}sessions ADD COLUMN colour text")
    result = cli("migrate", "check", code=1)
    assert "uq_history_entries_entry_id: missing" in result.stdout
    assert "column sessions.colour: not expected" in result.stdout
    assert result.stderr.startswith("error: ")
    found = json.loads(cli("migrate", "check", "--json", code=1).stdout)
    assert found["revision"] == HEAD_REVISION
    assert len(found["differences"]) == 2


def test_a_newer_schema_is_told(cli: CommandLine) -> None:
    schema = "statestore." if cli.url.startswith("postgresql") else ""
    execute(cli.url, f"UPDATE {schema}statestore_alembic_version SET version_num = '9999', oldest_code = '9998'")
    status = cli("migrate", "status").stdout
    assert "current  9999  (newer than this version of statestore, which may not use it)" in status
    told = json.loads(cli("migrate", "status", "--json").stdout)
    assert (told["ahead"], told["usable"]) == (True, False)
    for arguments in (("migrate", "check"), ("migrate", "up"), ("sessions",)):
        assert "install a newer statestore" in cli(*arguments, code=1).stderr


def test_the_schema_option_names_where_the_tables_are(empty_postgres_url: str) -> None:
    cli = CommandLine(empty_postgres_url)
    cli("migrate", "up", "--schema", "agents")
    assert "current  none" in cli("migrate", "status").stdout
    assert f"current  {HEAD_REVISION}" in cli("migrate", "status", "--schema", "agents").stdout
    cli("sessions", "--schema", "agents")
    assert "migrate up" in cli("sessions", code=1).stderr


def test_tables_are_partitioned_and_what_was_begun_goes_on(postgres: PostgresServer, empty_postgres_url: str) -> None:
    # Without partitions, whatever STATESTORE_TEST_PARTITIONED says.
    upgrade(empty_postgres_url)
    cli = CommandLine(empty_postgres_url)
    with cli.store() as store:
        store.history.append("s", [{"role": "user", "content": "x"}], create=True)

    def stop(line: str) -> None:
        if "comparing" in line:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        partition(empty_postgres_url, partitions=3, tables=["history_entries"], progress=stop)
    history, cache = cli("migrate", "partition", "--check").stdout.splitlines()
    assert history.endswith(
        "is on its way to 3 partitions by hash of session_id; go on with --partitions 3, or --cancel"
    )
    assert cache.endswith("would get 32 partitions by hash of key, and needs as much free space")
    # Another number begins anew, and says so.
    other = cli("migrate", "partition", "--partitions", "2", "--table", "history_entries", "--json")
    assert "history_entries: dropping the unfinished copy of 3 partitions" in other.stderr
    found = json.loads(other.stdout)
    assert (found["table"], found["partitions"], found["state"]) == ("history_entries", 2, "partitioned")
    assert "given up: nothing" in cli("migrate", "partition", "--cancel").stdout
    done = cli("migrate", "partition", "--partitions", "4").stdout.splitlines()
    assert [line.rpartition(") ")[2] for line in done] == [
        "has 2 partitions by hash of session_id",
        "has 4 partitions by hash of key",
    ]
    assert "history_entries has 2 partitions" in cli("migrate", "check").output
    assert "cannot be combined" in cli("migrate", "partition", "--check", "--cancel", code=2).stderr


def test_only_postgresql_is_partitioned(sqlite_cli: CommandLine) -> None:
    assert "SQLite has no partitions" in sqlite_cli("migrate", "partition", code=1).stderr
