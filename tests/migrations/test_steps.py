"""Up, down, and what happens to the rows."""

import ast
import os
import stat
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from statestore import errors, migrate
from statestore.schema import HEAD_REVISION, VERSION_TABLE
from tests.migrations import conftest
from tests.migrations.conftest import AddMigration
from tests.migrations.databases import (
    CONVERSATION,
    TABLES,
    connected,
    driver_url,
    insert_conversation,
    prefix,
    row_counts,
    rows,
    structure,
    tables,
)


def test_an_empty_database_goes_to_the_head_and_back(empty_database_url: str) -> None:
    lines: list[str] = []
    migrate.upgrade(empty_database_url, progress=lines.append)
    assert tables(empty_database_url) == {*TABLES, VERSION_TABLE}
    assert migrate.current(empty_database_url) == HEAD_REVISION
    before = structure(empty_database_url)

    migrate.downgrade(empty_database_url, "base", progress=lines.append)
    assert tables(empty_database_url) == set()
    assert migrate.current(empty_database_url) is None

    migrate.upgrade(empty_database_url)
    assert structure(empty_database_url) == before
    all_ = [revision.revision for revision in migrate.history()]
    expected = [f"applied {revision}" for revision in all_] + [f"took back {revision}" for revision in all_[::-1]]
    assert [line.partition(":")[0] for line in lines] == expected


def test_a_second_upgrade_finds_nothing_to_do(database_url: str) -> None:
    before = structure(database_url)
    lines: list[str] = []
    migrate.upgrade(database_url, progress=lines.append)
    assert structure(database_url) == before
    assert lines == []


def test_rows_are_kept_up_and_down(database_url: str, add_migration: AddMigration) -> None:
    insert_conversation(database_url)
    with connected(database_url) as connection:
        connection.exec_driver_sql(f"CREATE VIEW titles AS SELECT title FROM {prefix(database_url)}sessions")
    before = structure(database_url)
    add_migration(conftest.ADD_COLUMN)

    migrate.upgrade(database_url)
    assert row_counts(database_url) == CONVERSATION
    assert rows(database_url, f"SELECT DISTINCT colour FROM {prefix(database_url)}sessions") == [("blue",)]

    migrate.downgrade(database_url, HEAD_REVISION)
    assert row_counts(database_url) == CONVERSATION
    assert structure(database_url) == before

    migrate.upgrade(database_url)
    assert row_counts(database_url) == CONVERSATION


def test_a_migration_that_fails_leaves_nothing(database_url: str, add_migration: AddMigration) -> None:
    revision = add_migration(conftest.ADD_COLUMN)
    migrate.upgrade(database_url)
    before = structure(database_url)
    add_migration(conftest.FAIL_HALFWAY)
    with pytest.raises(errors.DatabaseError, match="no_such_table"):
        migrate.upgrade(database_url)
    assert structure(database_url) == before
    assert migrate.current(database_url) == revision


def test_a_failed_first_migration_leaves_no_tables(
    empty_database_url: str, scripts: Path, add_migration: AddMigration
) -> None:
    [first] = (scripts / "versions").glob("0001_*.py")
    first.write_text(
        first.read_text().replace("def downgrade", "    op.drop_table('no_such_table')\n\n\ndef downgrade")
    )
    with pytest.raises(errors.DatabaseError):
        migrate.upgrade(empty_database_url)
    assert tables(empty_database_url) == set()
    with pytest.raises(errors.SchemaMissingError):
        migrate.check(empty_database_url)


def test_on_postgresql_what_came_before_a_failure_stays(empty_postgres_url: str, add_migration: AddMigration) -> None:
    revision = add_migration(conftest.ADD_COLUMN)
    add_migration(conftest.FAIL_HALFWAY)
    with pytest.raises(errors.DatabaseError, match="no_such_table"):
        migrate.upgrade(empty_postgres_url)
    assert migrate.current(empty_postgres_url) == revision


def test_on_sqlite_migrations_are_applied_together(empty_sqlite_url: str, add_migration: AddMigration) -> None:
    add_migration(conftest.FAIL_HALFWAY)
    with pytest.raises(errors.DatabaseError, match="no_such_table"):
        migrate.upgrade(empty_sqlite_url)
    assert tables(empty_sqlite_url) == set()


def test_sqlite_refuses_to_commit_orphans(sqlite_url: str, add_migration: AddMigration) -> None:
    insert_conversation(sqlite_url)
    add_migration(conftest.LOSE_PARENTS)
    with pytest.raises(errors.SchemaError, match="without a parent"):
        migrate.upgrade(sqlite_url)
    assert row_counts(sqlite_url) == CONVERSATION
    assert migrate.current(sqlite_url) == HEAD_REVISION


def test_an_index_is_built_concurrently(postgres_url: str, add_migration: AddMigration) -> None:
    add_migration(conftest.ADD_INDEX_CONCURRENTLY)
    revision = add_migration(conftest.ADD_COLUMN)
    migrate.upgrade(postgres_url)
    assert migrate.current(postgres_url) == revision
    assert any("ix_later" in row[0] for row in structure(postgres_url)["indexes"])
    migrate.downgrade(postgres_url, HEAD_REVISION)
    assert not any("ix_later" in row[0] for row in structure(postgres_url)["indexes"])


def test_a_table_in_use_is_not_queued_for_longer_than_the_lock_timeout(
    postgres_url: str, add_migration: AddMigration
) -> None:
    add_migration(conftest.ADD_COLUMN)
    with connected(postgres_url) as reader:
        reader.exec_driver_sql("SELECT count(*) FROM statestore.sessions")
        with pytest.raises(errors.UnavailableError) as raised:
            migrate.upgrade(postgres_url, lock_timeout=timedelta(milliseconds=50))
    assert raised.value.code == "55P03"
    migrate.upgrade(postgres_url, lock_timeout=timedelta(milliseconds=50))


@pytest.mark.timeout(15)
def test_a_busy_sqlite_file_is_not_waited_for_forever(sqlite_url: str) -> None:
    with connected(sqlite_url) as writer:
        writer.exec_driver_sql("BEGIN IMMEDIATE")
        with pytest.raises(errors.UnavailableError) as raised:
            migrate.upgrade(sqlite_url, wait=timedelta(milliseconds=50))
    assert raised.value.code == "SQLITE_BUSY"


def test_a_new_sqlite_file_is_private_and_has_a_write_ahead_log(empty_sqlite_url: str) -> None:
    path = driver_url(empty_sqlite_url).database
    before = os.umask(0)
    try:
        migrate.upgrade(empty_sqlite_url)
    finally:
        os.umask(before)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    assert rows(empty_sqlite_url, "PRAGMA journal_mode") == [("wal",)]


@pytest.mark.parametrize("query", ["", "?mode=rwc&uri=true"])
def test_a_sqlite_file_can_be_named_by_a_file_uri(tmp_path: Path, query: str) -> None:
    path = tmp_path / "some agent.db"
    migrate.upgrade(f"sqlite:///file:{tmp_path}/some%20agent.db{query or '?uri=true'}")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_looking_at_a_missing_sqlite_file_does_not_make_it(empty_sqlite_url: str, tmp_path: Path) -> None:
    assert migrate.current(empty_sqlite_url) is None
    assert len(migrate.differences(empty_sqlite_url)) == len(TABLES)
    for look in (migrate.check, lambda url: migrate.downgrade(url, "base")):
        with pytest.raises(errors.SchemaMissingError):
            look(empty_sqlite_url)
    assert list(tmp_path.iterdir()) == []


def test_the_head_is_the_revision_that_the_code_works_with() -> None:
    assert migrate.history()[-1].revision == HEAD_REVISION


def test_the_history_is_one_line_of_numbers() -> None:
    numbers = [int(revision.revision) for revision in migrate.history()]
    assert numbers == list(range(1, len(numbers) + 1))


@pytest.mark.parametrize(
    "path", sorted((conftest.CHECKOUT / "migrations" / "versions").glob("*.py")), ids=lambda path: path.name
)
def test_a_version_file_imports_nothing_from_statestore(path: Path) -> None:
    imported = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            imported |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add((node.module or ".").partition(".")[0])
    # What Python itself brings does not change under a migration either.
    assert imported <= {"sqlalchemy", "alembic", *sys.stdlib_module_names}


@pytest.mark.timeout(20)
def test_looking_at_a_busy_sqlite_file_does_not_wait(sqlite_url: str) -> None:
    with connected(sqlite_url) as writer:
        writer.exec_driver_sql("BEGIN IMMEDIATE")
        migrate.check(sqlite_url)
        assert migrate.differences(sqlite_url) == []


def test_a_new_sqlite_file_can_give_space_back(sqlite_url: str) -> None:
    assert rows(sqlite_url, "PRAGMA auto_vacuum") == [(2,)]
