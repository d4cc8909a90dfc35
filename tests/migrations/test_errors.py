"""What is said when the schema is not what it should be, and what is never said."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import make_url

from statestore import errors, migrate, partitioning, schema
from statestore.schema import HEAD_REVISION, VERSION_TABLE
from tests.migrations import conftest
from tests.migrations.conftest import AddMigration
from tests.migrations.databases import connected, prefix

SECRET = "hunter2"


def stamp(url: str, revision: str) -> None:
    """Say that migrations of a day to come led there, and that code of this day may not use it any more."""
    with connected(url) as connection:
        values = f"version_num = '{revision}', oldest_code = '{revision}'"
        connection.exec_driver_sql(f"UPDATE {prefix(url)}{VERSION_TABLE} SET {values}")


def test_a_missing_schema_names_the_command(empty_database_url: str) -> None:
    with pytest.raises(errors.SchemaMissingError, match="statestore migrate up --url") as raised:
        migrate.check(empty_database_url)
    assert (raised.value.current, raised.value.expected) == (None, HEAD_REVISION)


def test_an_old_schema_names_the_command(
    database_url: str, add_migration: AddMigration, monkeypatch: pytest.MonkeyPatch
) -> None:
    revision = add_migration(conftest.ADD_COLUMN)
    monkeypatch.setattr(schema, "HEAD_REVISION", revision)
    with pytest.raises(errors.SchemaOutdatedError, match="statestore migrate up --url") as raised:
        migrate.check(database_url)
    assert (raised.value.current, raised.value.expected) == (HEAD_REVISION, revision)
    migrate.upgrade(database_url)
    migrate.check(database_url)


def test_a_schema_of_a_newer_version_is_left_alone(database_url: str) -> None:
    stamp(database_url, "9999")
    for operation in (migrate.check, migrate.upgrade, lambda url: migrate.downgrade(url, "base")):
        with pytest.raises(errors.SchemaAheadError, match="install a newer statestore") as raised:
            operation(database_url)
        assert (raised.value.current, raised.value.expected) == ("9999", HEAD_REVISION)
    assert migrate.current(database_url) == "9999"


def test_the_command_names_the_schema_where_it_is_not_the_usual_one(empty_postgres_url: str) -> None:
    with pytest.raises(errors.SchemaMissingError, match="--schema 'two words'"):
        migrate.check(empty_postgres_url, schema="two words")


def test_an_unknown_revision_is_refused(database_url: str) -> None:
    for operation in (migrate.upgrade, migrate.downgrade):
        with pytest.raises(errors.InvalidValueError, match="0815"):
            operation(database_url, "0815")


def test_several_revisions_at_once_are_reported(database_url: str) -> None:
    with connected(database_url) as connection:
        statement = f"INSERT INTO {prefix(database_url)}{VERSION_TABLE} (version_num) VALUES ('0000')"
        connection.exec_driver_sql(statement)
    with pytest.raises(errors.SchemaError, match="several revisions"):
        migrate.check(database_url)


@pytest.mark.parametrize("operation", [migrate.check, migrate.upgrade, migrate.differences, migrate.current])
def test_a_server_that_is_not_there_is_unavailable(operation: Callable[[str], object]) -> None:
    with pytest.raises(errors.UnavailableError) as raised:
        operation(f"postgresql://agent:{SECRET}@127.0.0.1:1/agents?connect_timeout=2")
    assert raised.value.retryable
    assert SECRET not in told(raised.value)


@pytest.mark.parametrize("operation", [migrate.check, migrate.upgrade])
def test_a_wrong_password_is_not_repeated(empty_postgres_url: str, operation: Callable[[object], object]) -> None:
    with pytest.raises(errors.UnavailableError) as raised:
        operation(make_url(empty_postgres_url).set(password=SECRET))
    assert SECRET not in told(raised.value)


def test_no_password_is_shown_wherever_the_url_has_it(empty_postgres_url: str) -> None:
    url = make_url(empty_postgres_url)
    in_query = url.set(password=None).update_query_dict({"password": str(url.password), "sslmode": "prefer"})
    for target in (url, in_query, url.render_as_string(hide_password=False)):
        with pytest.raises(errors.SchemaMissingError) as raised:
            migrate.check(target)
        assert str(url.password) not in told(raised.value)
        assert "***" in str(raised.value)


def test_a_folder_that_is_missing_makes_the_file_unavailable(tmp_path: object) -> None:
    with pytest.raises(errors.UnavailableError, match="missing"):
        migrate.upgrade(f"sqlite:///{tmp_path}/missing/statestore.db")


def test_a_bug_is_not_turned_into_a_database_error(empty_sqlite_url: str) -> None:
    def fail(_: str) -> None:
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        migrate.upgrade(empty_sqlite_url, progress=fail)
    assert migrate.current(empty_sqlite_url) is None


def test_a_file_that_is_no_database_is_reported(tmp_path: object) -> None:
    path = f"{tmp_path}/notes.txt"
    with open(path, "w") as file:
        file.write("not a database, and long enough to be sure of it\n" * 100)
    for operation in (migrate.check, migrate.upgrade):
        with pytest.raises(errors.DatabaseError) as raised:
            operation(f"sqlite:///{path}")
        assert raised.value.code == "SQLITE_NOTADB"


def test_the_database_is_not_waited_for_forever_while_another_migrates(empty_postgres_url: str) -> None:
    with connected(empty_postgres_url) as other:
        migrate.upgrade(other)
        with pytest.raises(errors.UnavailableError, match="another process is migrating"):
            migrate.upgrade(empty_postgres_url, wait=timedelta(milliseconds=50))


def told(error: BaseException) -> str:
    """All that a log could get to see of an error."""
    return f"{error} {error!r} {vars(error)}"


async def awaited(line: str) -> None:
    raise AssertionError(line)


NO_TIMES: dict[str, Any] = {"int": 5, "text": "5s", "None": None, "negative": timedelta(-1), "endless": timedelta.max}
NO_FUNCTIONS: dict[str, Any] = {"int": 5, "text": "print", "coroutine function": awaited}
NO_NAMES: dict[str, Any] = {"int": 9, "None": None, "bytes": b"head", "empty": "", "NUL": "a\0"}


def test_an_argument_of_the_wrong_kind_is_named_before_anything_is_done(
    empty_database_url: str, subtests: pytest.Subtests
) -> None:
    table: list[tuple[str, Callable[..., Any], dict[str, Any]]] = [
        ("revision", lambda v: migrate.upgrade(empty_database_url, v), NO_NAMES),
        ("revision", lambda v: migrate.downgrade(empty_database_url, v), NO_NAMES),
        ("target", lambda v: migrate.upgrade(v), {"int": 5, "None": None, "bytes": b"sqlite://"}),
        ("schema", lambda v: migrate.upgrade(empty_database_url, schema=v), NO_NAMES),
        ("table_prefix", lambda v: migrate.upgrade(empty_database_url, table_prefix=v), {"int": 5, "None": None}),
        ("lock_timeout", lambda v: migrate.upgrade(empty_database_url, lock_timeout=v), NO_TIMES),
        ("wait", lambda v: migrate.upgrade(empty_database_url, wait=v), NO_TIMES),
        ("progress", lambda v: migrate.upgrade(empty_database_url, progress=v), NO_FUNCTIONS),
        ("wait", lambda v: migrate.downgrade(empty_database_url, "base", wait=v), NO_TIMES),
        ("progress", lambda v: migrate.downgrade(empty_database_url, "base", progress=v), NO_FUNCTIONS),
        ("dry_run", lambda v: migrate.distribute(empty_database_url, dry_run=v), {"text": "no", "None": None}),
        ("lock_timeout", lambda v: migrate.distribute(empty_database_url, lock_timeout=v), NO_TIMES),
        ("progress", lambda v: partitioning.partition(empty_database_url, progress=v), NO_FUNCTIONS),
    ]
    for argument, call, kinds in table:
        for kind, value in kinds.items():
            with subtests.test(f"{argument}: {kind}"):
                with pytest.raises(errors.InvalidValueError) as raised:
                    call(value)
                assert raised.value.argument == argument
    assert migrate.current(empty_database_url) is None
