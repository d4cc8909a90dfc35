"""Distributing the tables over a Citus cluster. What takes one runs where STATESTORE_TEST_CITUS_URL names it."""

import json
import re
import shlex
from pathlib import Path

import pytest
from sqlalchemy import text

from statestore import StateStore
from statestore.errors import InvalidValueError, SchemaError, SchemaMissingError, SchemaOutdatedError
from statestore.migrate import check, current, differences, distribute, downgrade, engine_for, upgrade
from statestore.schema import distribution
from tests.citus import CitusCluster
from tests.cli.conftest import CommandLine
from tests.postgres import PostgresServer

PAGE = (Path(__file__).parents[2] / "docs" / "citus.md").read_text()


def commands() -> list[list[str]]:
    """The commands of docs/citus.md, without the URL."""
    found = [line for line in PAGE.splitlines() if line.startswith("statestore ")]
    return [re.split(r" --url ", line)[0].split()[1:] for line in found]


@pytest.fixture
def cluster(postgres: PostgresServer) -> CitusCluster:
    if not isinstance(postgres, CitusCluster):
        pytest.skip("STATESTORE_TEST_CITUS_URL names no cluster")
    return postgres


@pytest.fixture
def plain(postgres: PostgresServer) -> None:
    if isinstance(postgres, CitusCluster):
        pytest.skip("this is a cluster")


@pytest.mark.usefixtures("plain")
def test_a_database_without_the_extension_is_refused(postgres_url: str) -> None:
    for dry_run in (False, True):
        with pytest.raises(SchemaError, match="CREATE EXTENSION citus"):
            distribute(postgres_url, dry_run=dry_run)
    cli = CommandLine(postgres_url)
    for options in ([], ["--check"]):
        assert "does not have the extension citus" in cli("migrate", "distribute", *options, code=1).stderr
    assert not check(postgres_url).distributed


def test_sqlite_is_refused(sqlite_url: str) -> None:
    with pytest.raises(InvalidValueError, match="only PostgreSQL"):
        distribute(sqlite_url)
    assert "only PostgreSQL" in CommandLine(sqlite_url)("migrate", "distribute", code=1).stderr


def test_the_schema_has_to_be_that_of_this_version(empty_postgres_url: str) -> None:
    with pytest.raises(SchemaMissingError):
        distribute(empty_postgres_url)
    upgrade(empty_postgres_url, "0001")
    with pytest.raises(SchemaOutdatedError):
        distribute(empty_postgres_url, dry_run=True)


def test_every_table_has_a_place() -> None:
    from statestore.schema import metadata

    assert sorted(distribution.tables()) == sorted([*metadata.tables, "statestore_alembic_version"])


def test_the_page_names_only_commands_that_there_are(sqlite_url: str) -> None:
    cli = CommandLine(sqlite_url)
    assert len(commands()) == 4
    for command in commands():
        cli(*command, "--help")
    assert shlex.join(commands()[1]) == "migrate distribute --check"


def test_a_schema_with_rows_is_distributed_once(cluster: CitusCluster, empty_postgres_url: str) -> None:
    name = empty_postgres_url.rpartition("/")[2]
    upgrade(empty_postgres_url)
    with StateStore.open(empty_postgres_url, namespace="acme") as store:
        store.sessions.create("kept")
        store.history.append("kept", [{"role": "user", "content": "Hi"}])
    cluster.connect_nodes(name)
    cli = CommandLine(empty_postgres_url)
    planned = cli("migrate", "distribute", "--check", code=1).stdout
    assert planned.splitlines() == [str(distribution.Step(table)) for table in distribution.tables()]
    assert not check(empty_postgres_url).distributed
    assert cli("migrate", "distribute").stdout == planned
    assert cli("migrate", "distribute").stdout == "the tables are distributed\n"
    assert json.loads(cli("migrate", "distribute", "--check", "--json").stdout) == {"missing": []}
    assert check(empty_postgres_url).distributed
    assert differences(empty_postgres_url) == []
    with StateStore.open(empty_postgres_url, namespace="acme") as store:
        assert [entry.content for entry in store.history.read("kept")] == [{"role": "user", "content": "Hi"}]
        store.cache.set("key", 1, tags=["tag"])
        assert store.cache.invalidate_tag("tag") == 1


def test_a_table_that_came_later_is_distributed_by_an_upgrade(cluster: CitusCluster, postgres_url: str) -> None:
    with engine_for(postgres_url).begin() as connection:
        connection.execute(text("SELECT undistribute_table('statestore.cache_claims')"))
    assert differences(postgres_url) == ["table cache_claims: distributed by namespace: missing"]
    upgrade(postgres_url)
    assert differences(postgres_url) == []


def test_a_table_that_is_distributed_otherwise_is_named(cluster: CitusCluster, postgres_url: str) -> None:
    with engine_for(postgres_url).begin() as connection:
        connection.execute(text("SELECT undistribute_table('statestore.cache_claims')"))
        connection.execute(text("SELECT create_reference_table('statestore.cache_claims')"))
    with pytest.raises(SchemaError, match=r"cache_claims.*undistribute_table"):
        distribute(postgres_url)


def test_a_distributed_schema_goes_down_and_up(cluster: CitusCluster, postgres_url: str) -> None:
    downgrade(postgres_url, "0007")
    upgrade(postgres_url)
    assert check(postgres_url).distributed
    downgrade(postgres_url, "base")
    upgrade(postgres_url)
    assert not check(postgres_url).distributed
    distribute(postgres_url)
    assert check(postgres_url).distributed


def test_a_distributed_schema_before_the_triggers_is_undistributed_first(
    cluster: CitusCluster, postgres_url: str
) -> None:
    with StateStore.open(postgres_url) as store:
        store.sessions.create("kept")
    downgrade(postgres_url, "0005")
    upgrade(postgres_url, "0006")
    for revision in ("head", "0007"):
        with pytest.raises(SchemaError, match="First undistribute them"):
            upgrade(postgres_url, revision)
    assert current(postgres_url) == "0006"
    [undistribute] = re.findall(r"```postgresql\n(.*?)```", PAGE, re.DOTALL)
    with engine_for(postgres_url).begin() as connection:
        connection.exec_driver_sql(undistribute)
    upgrade(postgres_url)
    assert differences(postgres_url) == []
    assert distribute(postgres_url)
    assert differences(postgres_url) == []
    with StateStore.open(postgres_url) as store:
        assert store.sessions.get("kept")
