"""Code beside a schema of another version: which may go on, which may not, and what is said."""

import pytest

from statestore import StateStore, errors, migrate
from statestore.schema import HEAD_REVISION, VERSION_TABLE
from tests.cli.conftest import CommandLine
from tests.migrations import conftest
from tests.migrations.conftest import AddMigration
from tests.migrations.databases import CONVERSATION, connected, insert_conversation, prefix, row_counts, rows

ADDITIVE = f'\noldest_code = "{HEAD_REVISION}"\n' + conftest.ADD_MORE


def oldest_code(url: str) -> list[tuple[str, str]]:
    return rows(url, f"SELECT version_num, oldest_code FROM {prefix(url)}{VERSION_TABLE}")


@pytest.fixture
def newer(database_url: str, add_migration: AddMigration, monkeypatch: pytest.MonkeyPatch) -> "Newer":
    return Newer(database_url, add_migration, monkeypatch)


class Newer:
    """A version of a day to come, which migrates the database; and the present one, which comes to it afterwards."""

    def __init__(self, url: str, add_migration: AddMigration, monkeypatch: pytest.MonkeyPatch) -> None:
        self.url = url
        self.add_migration = add_migration
        self._monkeypatch = monkeypatch

    def migrates(self, *bodies: str) -> str:
        revisions = [self.add_migration(body) for body in bodies]
        migrate.upgrade(self.url)
        self._monkeypatch.undo()  # The present code has its own migrations alone.
        return revisions[-1]


def test_each_migration_says_which_code_may_use_its_result(empty_database_url: str) -> None:
    for path in sorted((conftest.CHECKOUT / "migrations" / "versions").glob("*.py"))[3:]:
        revision = path.name[:4]
        [line] = [line for line in path.read_text().splitlines() if line.startswith("oldest_code = ")]
        oldest = line.split('"')[1]
        assert "0004" <= oldest <= revision
        migrate.upgrade(empty_database_url, revision)
        assert oldest_code(empty_database_url) == [(revision, oldest)]


def test_a_migration_that_says_nothing_is_for_newer_code_alone(database_url: str, add_migration: AddMigration) -> None:
    additive, silent = add_migration(ADDITIVE), add_migration(conftest.NOTHING)
    migrate.upgrade(database_url, additive)
    assert oldest_code(database_url) == [(additive, HEAD_REVISION)]
    migrate.upgrade(database_url)
    assert oldest_code(database_url) == [(silent, silent)]
    migrate.downgrade(database_url, additive)
    assert oldest_code(database_url) == [(additive, HEAD_REVISION)]


def test_code_goes_on_with_a_newer_schema_that_only_has_more(newer: Newer) -> None:
    revision = newer.migrates(ADDITIVE)
    migrate.check(newer.url)
    # As processes do that bring the schema up when they start.
    migrate.upgrade(newer.url)
    migrate.upgrade(newer.url, HEAD_REVISION)
    assert migrate.current(newer.url) == revision
    assert migrate.differences(newer.url) == []
    with StateStore.open(newer.url) as store:
        store.history.append("s", [{"role": "user", "content": "Hi"}], create=True)
    with pytest.raises(errors.SchemaAheadError):
        migrate.downgrade(newer.url, "base")
    cli = CommandLine(newer.url)
    status = cli("migrate", "status").stdout
    assert f"current  {revision}  (newer than this version of statestore, which may use it)" in status
    assert f"revision {revision}, which this version may use" in cli("migrate", "check").stdout
    assert f"revision {revision}" in cli("migrate", "up").stdout
    cli("sessions")


def test_what_a_newer_schema_lacks_is_still_told(newer: Newer) -> None:
    newer.migrates(ADDITIVE)
    with connected(newer.url) as connection:
        connection.exec_driver_sql(f"DROP INDEX {prefix(newer.url)}uq_history_entries_entry_id")
    assert migrate.differences(newer.url) == ["index history_entries.uq_history_entries_entry_id: missing"]


def test_code_refuses_a_newer_schema_that_breaks_it_and_says_what_to_deploy_first(newer: Newer) -> None:
    breaking = f"{int(HEAD_REVISION) + 1:04d}"
    second = f'\noldest_code = "{breaking}"\n' + conftest.NOTHING
    revision = newer.migrates(conftest.ADD_COLUMN, second)
    for refused in (migrate.check, migrate.upgrade, StateStore.open, lambda url: migrate.downgrade(url, "base")):
        with pytest.raises(errors.SchemaAheadError, match="install a newer statestore") as raised:
            refused(newer.url)
        assert f"at revision {revision}" in str(raised.value)
        assert f"knows revision {breaking} or a later one; this version knows {HEAD_REVISION}" in str(raised.value)
        facts = raised.value
        assert (facts.current, facts.expected, facts.oldest_code) == (revision, HEAD_REVISION, breaking)
    cli = CommandLine(newer.url)
    assert "(newer than this version of statestore, which may not use it)" in cli("migrate", "status").stdout
    assert "install a newer statestore" in cli("migrate", "check", code=1).stderr


def test_what_version_0_1_made_is_brought_up_with_what_it_holds(empty_database_url: str) -> None:
    url = empty_database_url
    migrate.upgrade(url, "0003")
    insert_conversation(url)
    with pytest.raises(errors.SchemaOutdatedError, match="upgrade the schema with: statestore migrate up"):
        StateStore.open(url)
    migrate.upgrade(url)
    assert row_counts(url) == CONVERSATION
    with StateStore.open(url, namespace="n") as store:
        assert {row.session_id: row.depth for row in store.usage.lineage()} == {"s": 0, "f": 1}
