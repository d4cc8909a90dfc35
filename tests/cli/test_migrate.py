import json
from pathlib import Path

from sqlalchemy import text

from statestore.migrate import engine_for, history
from statestore.schema import HEAD_REVISION
from tests.cli.conftest import CommandLine


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
