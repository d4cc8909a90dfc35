"""`statestore import` of another database: of the two that it uses, a message blames the one that is to blame."""

from pathlib import Path

import pytest
from sqlalchemy import make_url, text

from statestore.cli.frameworks import FRAMEWORKS
from statestore.migrate import engine_for
from tests.cli.conftest import CommandLine
from tests.importers.test_databases import TABLES
from tests.postgres import PostgresServer


def execute(url: str, *statements: str) -> None:
    with engine_for(url).connect() as connection, connection.begin():
        for statement in statements:
            connection.execute(text(statement))


def damaged(path: Path) -> str:
    path.write_text("Remember the milk. " * 300)
    return str(path)


def corrupt(path: Path) -> str:
    """A file that is a database until its tables are looked up."""
    execute(f"sqlite:///{path}", *TABLES)
    with path.open("r+b") as file:
        file.seek(100)
        file.write(b"\xff" * 200)
    return str(path)


@pytest.mark.parametrize("command", FRAMEWORKS)
def test_the_command_does_not_blame_its_database_for_a_source_that_is_broken(
    command: str, cli: CommandLine, tmp_path: Path
) -> None:
    path = tmp_path / "source.db"
    for broken, said in ((damaged, "SQLITE_NOTADB"), (corrupt, "SQLITE_CORRUPT")):
        path.unlink(missing_ok=True)
        failed = cli("import", command, broken(path), code=1).stderr
        assert failed == (
            f"error: sqlite:///{path}: is damaged, or is not a SQLite database ({said}); import a backup of it\n"
        )
    path.write_bytes(b"")
    assert f"error: sqlite:///{path}: has no table " in cli("import", command, str(path), code=1).stderr


def test_the_command_does_not_blame_its_database_for_a_table_that_may_not_be_read(
    cli: CommandLine, postgres: PostgresServer
) -> None:
    with postgres.database() as name:
        execute(postgres.url(name), *TABLES, f"CREATE ROLE of_{name} LOGIN PASSWORD 'x'")
        url = make_url(postgres.url(name)).set(username=f"of_{name}", password="x")
        failed = cli("import", "openai-agents", url.render_as_string(hide_password=False), code=1).stderr
        execute(postgres.url(name), f"DROP ROLE of_{name}")
    assert "(42501)" in failed
    assert "statestore doctor" not in failed


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("nowhere.db", "there is no SQLite file 'nowhere.db'"),
        ("mysql://host/agents", "mysql is not supported; use postgresql:// or sqlite://"),
        ("postgresql://a@b,c:x/d", "cannot be read; "),
        ("", "is empty; is a variable not set?"),
    ],
)
def test_the_command_says_that_the_source_is_wrong(source: str, problem: str, cli: CommandLine) -> None:
    assert cli("import", "langgraph", source, code=1).stderr.startswith(f"error: SOURCE: {problem}")


def test_a_store_that_is_broken_is_not_taken_for_the_source(tmp_path: Path) -> None:
    source = f"sqlite:///{tmp_path / 'source.db'}"
    execute(source, *TABLES, "INSERT INTO agent_sessions VALUES ('a', NULL, NULL)")
    cli = CommandLine(f"sqlite:///{damaged(tmp_path / 'store.db')}")
    failed = cli("import", "openai-agents", source, code=1).stderr
    assert f"the file '{tmp_path / 'store.db'}' is damaged" in failed


@pytest.mark.parametrize("command", FRAMEWORKS)
def test_the_help_says_which_times_messages_have(command: str, cli: CommandLine) -> None:
    said = " ".join(cli("import", command, "--help").stdout.split())
    kept = "Messages are kept as they are"
    langchain = f"{kept}. LangChain keeps no times, so theirs is that of the import. What they used"
    assert (langchain if command == "langchain" else f"{kept}, with their times. What they used") in said
