"""Each kind of target: what becomes of a transaction, and in what state a connection comes back."""

import asyncio
import sqlite3
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, NullPool, StaticPool, create_engine, event, make_url
from sqlalchemy.ext.asyncio import create_async_engine

from statestore import errors, migrate
from statestore.schema import HEAD_REVISION, VERSION_TABLE
from tests.migrations import conftest
from tests.migrations.conftest import AddMigration
from tests.migrations.databases import CONVERSATION, TABLES, driver_url, insert_conversation, row_counts, rows, tables

SQLITE_PRAGMAS = ("foreign_keys", "busy_timeout", "legacy_alter_table")


def legacy(url: str) -> Engine:
    """SQLAlchemy's default: the driver begins a transaction before some statements and not before others."""
    return create_engine(url, poolclass=NullPool)


def autocommit(url: str) -> Engine:
    return create_engine(driver_url(url), isolation_level="AUTOCOMMIT", poolclass=NullPool)


def autocommitting_driver(url: str) -> Engine:
    return create_engine(url, connect_args={"isolation_level": None}, poolclass=NullPool)


def explicit_begin(url: str) -> Engine:
    engine = autocommitting_driver(url)
    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN"))
    return engine


SQLITE_ENGINES = [legacy, autocommit, autocommitting_driver, explicit_begin]


@pytest.fixture(params=SQLITE_ENGINES, ids=lambda make: make.__name__)
def sqlite_engine(request: pytest.FixtureRequest, empty_sqlite_url: str) -> Engine:
    engine: Engine = request.param(empty_sqlite_url)

    @event.listens_for(engine, "connect")
    def switch_foreign_keys_on(connection: Any, _: Any) -> None:
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA busy_timeout = 1234")

    return engine


def settings(connection: Connection) -> list[Any]:
    cursor = connection.connection.cursor()
    found = [cursor.execute(f"PRAGMA {name}").fetchone()[0] for name in SQLITE_PRAGMAS]
    cursor.close()
    return found


def test_a_fresh_sqlite_connection_is_migrated_and_committed(sqlite_engine: Engine, empty_sqlite_url: str) -> None:
    with sqlite_engine.connect() as connection:
        migrate.upgrade(connection)
        assert not connection.in_transaction()
        assert tables(empty_sqlite_url) == {*TABLES, VERSION_TABLE}
        assert settings(connection) == [1, 1234, 0]
        migrate.check(connection)
        assert migrate.differences(connection) == []
        assert not connection.in_transaction()


def test_the_revision_is_read_in_a_transaction_that_nobody_else_can_write_in(sqlite_engine: Engine) -> None:
    # A reading one, as an engine may begin it, would fail when two processes find an empty database.
    statements: list[str] = []
    with sqlite_engine.connect() as connection:
        connection.connection.driver_connection.set_trace_callback(statements.append)
        migrate.upgrade(connection)
        connection.connection.driver_connection.set_trace_callback(None)
    first_look = next(i for i, statement in enumerate(statements) if VERSION_TABLE in statement)
    begun = [statement for statement in statements[:first_look] if statement.startswith("BEGIN")]
    assert begun[-1] == "BEGIN IMMEDIATE"


def test_a_sqlite_engine_is_migrated_with_children_kept(
    sqlite_engine: Engine, empty_sqlite_url: str, add_migration: AddMigration
) -> None:
    migrate.upgrade(sqlite_engine)
    insert_conversation(empty_sqlite_url)
    add_migration(conftest.ADD_COLUMN)
    migrate.upgrade(sqlite_engine)
    assert row_counts(empty_sqlite_url) == CONVERSATION
    migrate.downgrade(sqlite_engine, "base")
    assert tables(empty_sqlite_url) == set()


def test_a_failure_on_a_sqlite_connection_leaves_no_transaction(
    sqlite_engine: Engine, empty_sqlite_url: str, add_migration: AddMigration
) -> None:
    migrate.upgrade(sqlite_engine)
    add_migration(conftest.FAIL_HALFWAY)
    with sqlite_engine.connect() as connection:
        with pytest.raises(errors.DatabaseError, match="no_such_table"):
            migrate.upgrade(connection)
        assert not connection.in_transaction()
        assert connection.connection.driver_connection.in_transaction is False
        assert settings(connection) == [1, 1234, 0]
    assert "halfway" not in tables(empty_sqlite_url)


def test_a_sqlite_transaction_with_foreign_keys_on_is_refused(sqlite_engine: Engine, empty_sqlite_url: str) -> None:
    with sqlite_engine.begin() as connection:
        driver = connection.connection.driver_connection
        if not driver.in_transaction:
            connection.exec_driver_sql("BEGIN")
        connection.exec_driver_sql("CREATE TABLE mine (id INTEGER)")
        with pytest.raises(errors.InvalidValueError, match="foreign_keys"):
            migrate.upgrade(connection)
        assert driver.in_transaction
    assert tables(empty_sqlite_url) == {"mine"}


@pytest.mark.parametrize("keep", [True, False])
def test_a_sqlite_transaction_is_joined(empty_sqlite_url: str, keep: bool) -> None:
    with legacy(empty_sqlite_url).connect() as connection, connection.begin() as transaction:
        migrate.upgrade(connection)
        assert tables(empty_sqlite_url) == set()
        assert transaction.is_active
        if not keep:
            transaction.rollback()
    assert tables(empty_sqlite_url) == ({*TABLES, VERSION_TABLE} if keep else set())


def test_a_sqlite_transaction_that_is_joined_keeps_children_and_views(
    sqlite_url: str, add_migration: AddMigration
) -> None:
    insert_conversation(sqlite_url)
    add_migration(conftest.ADD_COLUMN)
    with legacy(sqlite_url).begin() as connection:
        connection.exec_driver_sql("CREATE VIEW titles AS SELECT title FROM sessions")
        migrate.upgrade(connection)
    assert row_counts(sqlite_url) == CONVERSATION
    assert rows(sqlite_url, "SELECT count(*) FROM titles") == [(2,)]


@pytest.mark.parametrize("isolation_level", [None, "DEFERRED"])
def test_a_database_in_memory_is_migrated_through_its_connection(isolation_level: Any) -> None:
    keeper = sqlite3.connect(":memory:", isolation_level=isolation_level)
    engine = create_engine("sqlite://", creator=lambda: keeper, poolclass=StaticPool)
    with engine.connect() as connection:
        connection.exec_driver_sql("CREATE TABLE mine (id INTEGER)")
        connection.exec_driver_sql("SELECT * FROM mine")
        if isolation_level is not None:
            connection.commit()
        migrate.upgrade(connection)
        migrate.check(connection)
        assert migrate.differences(connection) == []
        assert keeper.in_transaction is False
        migrate.downgrade(connection, "base")
        assert migrate.current(connection) is None
        connection.rollback()
    assert keeper.execute("SELECT name FROM sqlite_master").fetchall() == [("mine",)]
    engine.dispose()
    keeper.close()


def test_an_async_sqlite_connection_is_migrated() -> None:
    async def main() -> None:
        engine = create_async_engine("sqlite+aiosqlite://", poolclass=StaticPool)
        async with engine.connect() as connection:
            await connection.run_sync(migrate.upgrade)
            await connection.run_sync(migrate.check)
            assert await connection.run_sync(migrate.differences) == []
        await engine.dispose()

    asyncio.run(main())


def test_connections_of_one_event_loop_take_turns() -> None:
    async def migrated() -> None:
        engine = create_async_engine("sqlite+aiosqlite://", poolclass=StaticPool)
        async with engine.connect() as connection:
            await connection.run_sync(migrate.upgrade)
            await connection.run_sync(migrate.check)
        await engine.dispose()

    async def main() -> None:
        async with asyncio.timeout(30), asyncio.TaskGroup() as group:
            for _ in range(4):
                group.create_task(migrated())

    asyncio.run(main())


def test_an_async_postgresql_connection_is_migrated(empty_postgres_url: str) -> None:
    async def main() -> None:
        engine = create_async_engine(driver_url(empty_postgres_url), poolclass=NullPool)
        async with engine.connect() as connection:
            await connection.run_sync(migrate.upgrade)
            await connection.run_sync(migrate.check)

    asyncio.run(main())
    migrate.check(empty_postgres_url)


@pytest.fixture(params=[None, "AUTOCOMMIT"], ids=["transactional", "autocommit"])
def postgres_engine(request: pytest.FixtureRequest, empty_postgres_url: str) -> Iterator[Engine]:
    level = {} if request.param is None else {"isolation_level": request.param}
    engine = create_engine(driver_url(empty_postgres_url), pool_size=2, max_overflow=0, **level)
    yield engine
    engine.dispose()


def test_a_postgresql_engine_is_migrated(postgres_engine: Engine, empty_postgres_url: str) -> None:
    migrate.upgrade(postgres_engine)
    migrate.check(postgres_engine)
    assert tables(empty_postgres_url) == {*TABLES, VERSION_TABLE}
    assert postgres_engine.pool.checkedout() == 0  # type: ignore[attr-defined]
    with postgres_engine.connect() as one, postgres_engine.connect() as other:
        for connection in (one, other):
            assert connection.exec_driver_sql("SHOW lock_timeout").scalar() == "0"
            autocommits = postgres_engine.get_execution_options().get("isolation_level") == "AUTOCOMMIT"
            assert connection.connection.driver_connection.autocommit in (autocommits, True)


def test_a_postgresql_connection_is_migrated_and_committed(postgres_engine: Engine, empty_postgres_url: str) -> None:
    with postgres_engine.connect() as connection:
        migrate.upgrade(connection)
        assert not connection.in_transaction()
        assert tables(empty_postgres_url) == {*TABLES, VERSION_TABLE}
        left = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"
        assert rows(empty_postgres_url, left) == [(0,)]
        assert connection.exec_driver_sql("SHOW lock_timeout").scalar() == "0"


def test_a_failure_on_a_postgresql_connection_leaves_nothing(
    postgres_engine: Engine, empty_postgres_url: str, add_migration: AddMigration
) -> None:
    add_migration(conftest.FAIL_HALFWAY)
    with postgres_engine.connect() as connection:
        with pytest.raises(errors.DatabaseError):
            migrate.upgrade(connection)
        assert not connection.in_transaction()
        assert tables(empty_postgres_url) == set()
        assert connection.exec_driver_sql("SELECT 1").scalar() == 1


def test_a_failure_on_a_postgresql_engine_leaves_nothing_of_that_migration(
    postgres_engine: Engine, empty_postgres_url: str, add_migration: AddMigration
) -> None:
    add_migration(conftest.FAIL_HALFWAY)
    with pytest.raises(errors.DatabaseError):
        migrate.upgrade(postgres_engine)
    assert tables(empty_postgres_url) == {*TABLES, VERSION_TABLE}


def test_an_autocommit_connection_that_was_used_is_migrated_in_one_transaction(
    empty_postgres_url: str, add_migration: AddMigration
) -> None:
    engine = autocommit(empty_postgres_url)
    with engine.connect() as connection:
        connection.exec_driver_sql("SELECT 1")
        add_migration(conftest.FAIL_HALFWAY)
        with pytest.raises(errors.DatabaseError):
            migrate.upgrade(connection)
        assert tables(empty_postgres_url) == set()
        migrate.upgrade(connection, HEAD_REVISION)
        assert tables(empty_postgres_url) == {*TABLES, VERSION_TABLE}


@pytest.mark.parametrize("keep", [True, False])
def test_a_postgresql_transaction_is_joined(empty_postgres_url: str, keep: bool) -> None:
    engine = create_engine(driver_url(empty_postgres_url), poolclass=NullPool)
    with engine.connect() as connection, connection.begin() as transaction:
        connection.exec_driver_sql("SET LOCAL lock_timeout = '7s'")
        migrate.upgrade(connection)
        assert connection.exec_driver_sql("SHOW lock_timeout").scalar() == "7s"
        migrate.check(connection)
        assert transaction.is_active
        assert tables(empty_postgres_url) == set()
        if not keep:
            transaction.rollback()
    assert migrate.current(empty_postgres_url) == (HEAD_REVISION if keep else None)


def test_a_schema_that_exists_needs_no_right_to_create_schemas(empty_postgres_url: str) -> None:
    name, password = "limited_" + make_url(empty_postgres_url).database.rpartition("_")[2], "secret"  # type: ignore[union-attr]
    owner = create_engine(driver_url(empty_postgres_url), poolclass=NullPool)
    with owner.begin() as connection:
        connection.exec_driver_sql(f"CREATE ROLE {name} LOGIN PASSWORD '{password}'")
        connection.exec_driver_sql(f"CREATE SCHEMA statestore AUTHORIZATION {name}")
    limited = make_url(empty_postgres_url).set(username=name, password=password)
    try:
        migrate.upgrade(limited)
        migrate.check(limited)
        with pytest.raises(errors.ReadOnlyError) as raised:
            migrate.upgrade(limited, schema="another")
        assert raised.value.code == "42501"
    finally:
        with owner.begin() as connection:
            connection.exec_driver_sql(f"DROP OWNED BY {name}")
            connection.exec_driver_sql(f"DROP ROLE {name}")


@pytest.mark.parametrize(
    "spelling",
    ["postgres://", "postgresql://", "postgresql+psycopg://", "postgresql+asyncpg://", "postgresql+psycopg_async://"],
)
def test_a_postgresql_url_can_be_spelled_in_each_usual_way(postgres_url: str, spelling: str) -> None:
    url = postgres_url.replace("postgresql://", spelling)
    migrate.check(url)
    migrate.upgrade(url)


@pytest.mark.parametrize("spelling", ["sqlite", "sqlite+pysqlite", "sqlite+aiosqlite"])
def test_a_sqlite_url_can_be_spelled_in_each_usual_way(sqlite_url: str, spelling: str) -> None:
    url = sqlite_url.replace("sqlite", spelling, 1)
    migrate.check(url)
    migrate.upgrade(make_url(url))


def test_what_is_no_target_is_refused() -> None:
    for target in ("nonsense", "mysql://localhost/x", create_async_engine("sqlite+aiosqlite://"), 7, None):
        for operation in (migrate.upgrade, migrate.check, migrate.differences):
            with pytest.raises(errors.InvalidValueError):
                operation(target)  # type: ignore[arg-type]
