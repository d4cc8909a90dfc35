"""The databases that tests run on.

A test asks for `database_url` (once on each database), or for `sqlite_url` or `postgres_url`; the names with `empty_`
give a database without the schema. Each test has a database of its own, cloned from a template that the migrations
built once.
"""

import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.postgres import PostgresServer, start_server

POSTGRESQL = pytest.param("postgresql", marks=pytest.mark.postgresql)
SQLITE = pytest.param("sqlite", marks=pytest.mark.sqlite)

server_name = pytest.StashKey[str]()


@pytest.fixture(scope="session")
def postgres(pytestconfig: pytest.Config) -> Iterator[PostgresServer]:
    with start_server() as server:
        pytestconfig.stash[server_name] = f"PostgreSQL {server.version} ({server.host})"
        yield server


@pytest.fixture(scope="session")
def template_database(postgres: PostgresServer) -> Iterator[str]:
    from statestore.migrate import upgrade

    with postgres.database() as name:
        upgrade(postgres.url(name))
        yield name


@pytest.fixture
def postgres_url(postgres: PostgresServer, template_database: str) -> Iterator[str]:
    with postgres.database(template=template_database) as name:
        yield postgres.url(name)


@pytest.fixture
def empty_postgres_url(postgres: PostgresServer) -> Iterator[str]:
    with postgres.database() as name:
        yield postgres.url(name)


@pytest.fixture(scope="session")
def template_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from statestore.migrate import upgrade

    path = tmp_path_factory.mktemp("template") / "statestore.db"
    upgrade(f"sqlite:///{path}")
    assert list(path.parent.iterdir()) == [path], "a connection was left open; part of the schema may be in the log"
    return path


@pytest.fixture
def sqlite_url(template_sqlite: Path, tmp_path: Path) -> str:
    path = shutil.copyfile(template_sqlite, tmp_path / "statestore.db")
    return f"sqlite:///{path}"


@pytest.fixture
def empty_sqlite_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'statestore.db'}"


@pytest.fixture(params=[SQLITE, POSTGRESQL])
def database_url(request: pytest.FixtureRequest) -> str:
    fixture = {"sqlite": "sqlite_url", "postgresql": "postgres_url"}[request.param]
    return str(request.getfixturevalue(fixture))


@pytest.fixture(params=[SQLITE, POSTGRESQL])
def empty_database_url(request: pytest.FixtureRequest) -> str:
    fixture = {"sqlite": "empty_sqlite_url", "postgresql": "empty_postgres_url"}[request.param]
    return str(request.getfixturevalue(fixture))


def pytest_itemcollected(item: pytest.Item) -> None:
    fixtures = set(getattr(item, "fixturenames", ()))
    if "postgres" in fixtures:
        item.add_marker(pytest.mark.postgresql)
    if fixtures & {"sqlite_url", "empty_sqlite_url"}:
        item.add_marker(pytest.mark.sqlite)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say how many tests ran on which database: a run that left one out must not look like one that did not."""
    reports = [report for outcome in ("passed", "failed") for report in terminalreporter.stats.get(outcome, ())]
    on_postgresql = sum("postgresql" in report.keywords for report in reports)
    on_sqlite = sum("sqlite" in report.keywords for report in reports)
    postgresql = config.stash.get(server_name, "PostgreSQL (not started)")
    terminalreporter.write_line(
        f"{postgresql}: {on_postgresql} tests ran, SQLite {sqlite3.sqlite_version}: {on_sqlite} tests ran"
    )
