"""Runs Alembic on the database: on which connection, in which transaction, one migrator at a time.

Both ways to migrate come through here. `statestore.migrate` passes a target; the `alembic` command of a checkout names
it:

    alembic [-x url=postgresql://…] [-x schema=statestore] [-x table_prefix=app_] upgrade head [--sql]

Without a url it is that of STATESTORE_URL, or else sqlite:///statestore.db, as everywhere.
"""

import logging.config
import os
import random
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TextIO

from alembic import context
from sqlalchemy import (
    DDL,
    Connection,
    Engine,
    MetaData,
    RootTransaction,
    Table,
    column,
    event,
    inspect,
    literal_column,
    table,
    text,
)
from sqlalchemy.schema import CreateSchema, DropSchema, DropTable

from statestore import migrate
from statestore.checking import checks
from statestore.engine import engines, host_drivers, migration_targets, sqlite_files
from statestore.errors import InvalidValueError, SchemaError, UnavailableError
from statestore.schema import DEFAULT_SCHEMA, VERSION_TABLE, comparison, metadata, prefixes, revisions

config = context.config
arguments = context.get_x_argument(as_dictionary=True)
schema = checks.schema_name(config.attributes.get("schema") or arguments.get("schema") or DEFAULT_SCHEMA)
table_prefix: str = prefixes.check(config.attributes.get("table_prefix") or arguments.get("table_prefix") or "")
lock_timeout: timedelta = config.attributes.get("lock_timeout", migrate.LOCK_TIMEOUT)
wait: timedelta = config.attributes.get("wait", migrate.WAIT)
progress: migrate.Progress | None = config.attributes.get("progress")

# Revisions whose version table does not have the column `oldest_code`.
BEFORE_THE_MARK = {"0001", "0002", "0003"}

# Without it Citus refuses to drop triggers of a distributed table, even those that it does not have. 0007 drops some.
DROPPING = "citus.enable_unsafe_triggers"

# This comment marks a schema that statestore made and may drop.
SCHEMA_COMMENT = "Made by statestore, which drops it with its last table"


def main() -> None:
    target: Engine | Connection | None = config.attributes.get("target")
    if target is None:
        if config.config_file_name is not None:
            logging.config.fileConfig(config.config_file_name, disable_existing_loggers=False)
        target = migration_targets.engine_for(named_url())
    if context.is_offline_mode():
        write_sql(target)
    elif isinstance(target, Connection):
        migrate_connection(target)
    elif target.dialect.name == "postgresql" and is_writing():
        migrate_postgresql(target)
    else:
        if target.dialect.name == "sqlite" and is_writing():
            sqlite_files.make_private(target.url)
        with target.connect() as connection:
            migrate_connection(connection)


def named_url() -> str:
    named = arguments.get("url") or os.environ.get("STATESTORE_URL") or config.get_main_option("sqlalchemy.url")
    return str(named or engines.DEFAULT_URL)


def is_writing() -> bool:
    """Whether the command moves to a revision, as upgrade, downgrade and stamp do."""
    try:
        context.get_revision_argument()
    except KeyError:
        return False
    return True


# The three ways to migrate, and the SQL for doing it by hand


def migrate_connection(connection: Connection) -> None:
    """Do everything in one transaction, the caller's if there is one. A command that only looks changes nothing."""
    if not is_writing():
        with transaction(connection, keep=False):
            create_schema(connection)
            run(connection)
    elif connection.dialect.name == "sqlite":
        migrate_sqlite(connection)
    else:
        with transaction(connection):
            poll(connection, lambda: try_lock(connection), f"another process is migrating schema {schema!r}")
            before = timeouts(connection)
            set_timeouts(connection)
            create_schema(connection)
            run(connection)
            set_timeouts(connection, before)


def migrate_postgresql(engine: Engine) -> None:
    """Use a transaction for each migration, as CREATE INDEX CONCURRENTLY and VALIDATE CONSTRAINT need it.

    An open transaction on a second connection holds the lock. The lock outlasts the transactions of the migrations, is
    always released with the connection, and also works behind a pooler in transaction mode, where a session lock would
    be left on a connection that others use. It is polled: a migrator that waits inside a statement has a snapshot, and
    an index that is built CONCURRENTLY waits for that.
    """
    with transactional(engine) as keeper, transactional(engine) as connection:

        def lock() -> bool:
            keeper.begin()
            set_timeouts(keeper)
            locked = try_lock(keeper)
            if not locked:
                keeper.rollback()
            return locked

        poll(keeper, lock, f"another process is migrating schema {schema!r}")
        event.listen(connection, "begin", set_timeouts)
        with connection.begin():
            create_schema(connection)
        run(connection, transaction_per_migration=True)
        connection.commit()


def migrate_sqlite(connection: Connection) -> None:
    """Migrate SQLite, where a table is altered by replacing it with a copy.

    This must not delete rows in child tables or break views. So foreign keys are off until they are checked at the end,
    and dropping the old table and renaming the new one do not touch references to the name.
    """
    if is_callers(connection):
        if pragma(connection, "foreign_keys"):
            problem = "foreign_keys is on and cannot be switched in a transaction; switch it off before you begin one"
            raise InvalidValueError("target", problem)
        with pragmas(connection, legacy_alter_table=1), transaction(connection):
            refuse_names_of_others(connection)
            run(connection)
            check_foreign_keys(connection)
        return
    with pragmas(connection, busy_timeout=milliseconds(wait)):
        poll(connection, lambda: try_write_ahead_log(connection), "the file is in use by another process")
        with pragmas(connection, foreign_keys=0, legacy_alter_table=1), transaction(connection):
            refuse_names_of_others(connection)
            run(connection)
            check_foreign_keys(connection)


def refuse_names_of_others(connection: Connection) -> None:
    """Refuse a file that has no schema of ours, and tables called as ours would be; SQLite takes `Sessions` for one."""
    if config.attributes.get("command") == "downgrade":
        return
    if revisions.read(connection, schema, table_prefix) is not None:
        return
    tables = text("SELECT name FROM sqlite_master WHERE type IN ('table', 'view') AND lower(name) <> :versions")
    names = connection.scalars(tables, {"versions": table_prefix + VERSION_TABLE})
    taken = sorted(name for name in names if prefixes.base_name(name.lower(), table_prefix) is not None)
    if taken:
        raise InvalidValueError(
            "table_prefix",
            f"the file has a table {taken[0]!r} of something else already; give the tables of statestore "
            f"{'another' if table_prefix else 'a'} prefix, such as 'statestore_'",
        )


def write_sql(target: Engine | Connection) -> None:
    """The SQL of `--sql`, for a database administrator to review and run."""
    on_postgresql = target.dialect.name == "postgresql"
    prefixes.check_for(target.dialect.name, table_prefix)
    context.configure(
        url=target.engine.url,
        output_buffer=Prefixing(config.output_buffer or sys.stdout),
        literal_binds=True,
        dialect_opts={"paramstyle": "named"},
        transactional_ddl=True,
        transaction_per_migration=on_postgresql,
        on_version_apply=mark,
        **comparison.alembic_options(target.dialect, schema),
    )
    if not on_postgresql:
        context.execute("PRAGMA foreign_keys = OFF")
        context.execute("PRAGMA legacy_alter_table = ON")
    else:
        context.execute(f"SET lock_timeout = {milliseconds(lock_timeout)}")
        context.execute("SET statement_timeout = 0")
        if context.get_starting_revision_argument() is None:
            create = f"CREATE SCHEMA {quoted()}; COMMENT ON SCHEMA {quoted()} IS '{SCHEMA_COMMENT}'"
            context.execute(block(f"NOT EXISTS (SELECT FROM pg_namespace WHERE nspname = {literal(schema)})", create))
    with context.begin_transaction():
        context.run_migrations()
    if context.get_starting_revision_argument() is not None and context.get_revision_argument() is None:
        versions = Table(VERSION_TABLE, MetaData(), schema=schema if on_postgresql else None)
        context.execute(DropTable(versions))
        if on_postgresql:
            droppable = DROPPABLE.format(schema=literal(schema), comment=literal(SCHEMA_COMMENT))
            context.execute(block(f"EXISTS ({droppable})", f"DROP SCHEMA {quoted()}"))
    if not on_postgresql:
        context.static_output("-- The next statement lists rows without a parent; there should be none.")
        context.execute("PRAGMA foreign_key_check")
        context.execute("PRAGMA legacy_alter_table = OFF")
        context.execute("PRAGMA foreign_keys = ON")


class Prefixing:
    """Writes SQL as it is for tables with the prefix."""

    def __init__(self, buffer: TextIO) -> None:
        self.flush = buffer.flush
        self._write = buffer.write

    def write(self, sql: str) -> int:
        return self._write(prefixes.prefixed(sql, table_prefix))


def run(connection: Connection, **options: Any) -> None:
    prefixes.check_for(connection.dialect.name, table_prefix)
    with prefixes.naming(connection, table_prefix), host_drivers.taking_comments(connection):
        _run(connection, **options)


def _run(connection: Connection, **options: Any) -> None:
    options |= comparison.alembic_options(connection.dialect, schema)
    hooks = (mark, report, *([Triggers(connection).restore] if connection.dialect.name == "sqlite" else []))
    context.configure(connection=connection, transactional_ddl=True, on_version_apply=hooks, **options)
    migration = context.get_context()
    before = migration.get_current_heads()
    with context.begin_transaction():
        context.run_migrations()
    if before and not migration.get_current_heads():
        remove_traces(connection)


class Triggers:
    """SQLite drops a table's triggers with it, also where a table is altered by replacing it with a copy."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._before = self._now()

    def restore(self, ctx: Any, step: Any, heads: set[str], run_args: Any) -> None:
        """Make those anew that a migration has lost so. What notes changes for the sums of usage is there from 0007."""
        now = self._now()
        for name, (of, made) in self._before.items():
            is_lost = name not in now and (
                not name.startswith(f"{table_prefix}usage_rollup_") or max(heads, default="") >= "0007"
            )
            if is_lost and inspect(self._connection).has_table(of):
                driver_execute(self._connection, made)  # It has its names already.
        self._before = self._now()

    def _now(self) -> dict[str, tuple[str, str]]:
        found = self._connection.exec_driver_sql("SELECT name, tbl_name, sql FROM sqlite_master WHERE type = 'trigger'")
        return {name: (of, made) for name, of, made in found}


def mark(ctx: Any, step: Any, heads: set[str], run_args: Any) -> None:
    """Record beside the revision which older code its migration allows; see script.py.mako."""
    for head in heads - BEFORE_THE_MARK:
        versions = table(VERSION_TABLE, column("oldest_code"), schema=ctx.version_table_schema)
        oldest_code = getattr(context.script.get_revision(head).module, "oldest_code", head)
        ctx.execute(versions.update().values(oldest_code=literal_column(f"'{oldest_code}'")))


def report(ctx: Any, step: Any, heads: Any, run_args: Any) -> None:
    if progress is not None:
        script = step.up_revision
        progress(f"{'applied' if step.is_upgrade else 'took back'} {script.revision}: {script.doc}")


# Transactions


@contextmanager
def transaction(connection: Connection, *, keep: bool = True) -> Iterator[None]:
    """A transaction around the block, even if the driver commits each statement; the caller's if there is one."""
    on_sqlite = connection.dialect.name == "sqlite"
    if is_callers(connection):
        if on_sqlite and not is_open(connection):
            driver_execute(connection, "BEGIN IMMEDIATE")
        yield
        return
    begun = None if connection.in_transaction() else connection.begin()
    try:
        if on_sqlite:
            if is_open(connection):  # begun by the engine, perhaps for reading
                driver_execute(connection, "ROLLBACK")
            driver_execute(connection, "BEGIN IMMEDIATE")
        elif commits_statements(connection):
            driver_execute(connection, "BEGIN")
        yield
        finish(connection, begun, "COMMIT" if keep else "ROLLBACK")
    except BaseException:
        finish(connection, begun, "ROLLBACK")
        raise


def finish(connection: Connection, begun: RootTransaction | None, how: str) -> None:
    if begun is not None and begun.is_active:
        begun.commit() if how == "COMMIT" else begun.rollback()
    # If the driver commits each statement, we have to end what we began.
    if not connection.invalidated and is_open(connection):
        driver_execute(connection, how)


@contextmanager
def transactional(engine: Engine) -> Iterator[Connection]:
    """A connection with transactions, even if the engine commits each statement."""
    with engine.connect() as connection:
        yield connection.execution_options(isolation_level="READ COMMITTED")


def is_callers(connection: Connection) -> bool:
    return is_open(connection) or (connection.in_transaction() and not commits_statements(connection))


def is_open(connection: Connection) -> bool:
    """Whether the driver is in a transaction. SQLAlchemy claims so from the first statement on, even if it is not."""
    driver: Any = connection.connection.driver_connection
    if connection.dialect.name == "sqlite":
        return bool(driver.in_transaction)
    if hasattr(driver, "is_in_transaction"):  # asyncpg
        return bool(driver.is_in_transaction())
    return bool(driver.info.transaction_status)


def commits_statements(connection: Connection) -> bool:
    driver: Any = connection.connection.dbapi_connection
    if connection.dialect.name == "sqlite":
        return driver.isolation_level is None
    return bool(driver.autocommit)


def driver_execute(connection: Connection, statement: str) -> Any:
    """Run a statement behind SQLAlchemy's back, which would begin a transaction first."""
    cursor = connection.connection.cursor()
    try:
        cursor.execute(statement)
        return cursor.fetchone() if cursor.description else None
    finally:
        cursor.close()


# One migrator at a time


def poll(connection: Connection, attempt: Callable[[], bool], problem: str) -> None:
    deadline = time.monotonic() + wait.total_seconds()
    while not attempt():
        if time.monotonic() > deadline:
            raise UnavailableError(f"{problem}, and it took longer than {wait}; try again later")
        migrate.pause(connection, random.uniform(0.02, 0.1))


def try_lock(connection: Connection) -> bool:
    return bool(connection.scalar(text(f"SELECT pg_try_advisory_xact_lock({revisions.lock_key(schema)})")))


def timeouts(connection: Connection) -> dict[str, str]:
    # PostgreSQL has transaction_timeout since version 17.
    names = "'lock_timeout', 'statement_timeout', 'transaction_timeout', 'idle_in_transaction_session_timeout'"
    found = f"SELECT name, setting FROM pg_settings WHERE name IN ({names})"
    if config.attributes.get("command") == "downgrade":
        found += (
            f" UNION ALL SELECT '{DROPPING}', current_setting('{DROPPING}') FROM pg_extension WHERE extname = 'citus'"
        )
    rows = connection.execute(text(found))
    return {row.name: row.setting for row in rows}


def set_timeouts(connection: Connection, values: dict[str, str] | None = None) -> None:
    """Set timeouts for the rest of the transaction; by default those of a migration, which limit only lock waits.

    What has to be set to take back a migration of distributed tables is set with them.
    """
    if connection.get_execution_options().get("isolation_level") == "AUTOCOMMIT":
        return  # a migration that has left the transaction
    if values is None:
        chosen = {"lock_timeout": str(milliseconds(lock_timeout)), DROPPING: "on"}
        values = {name: chosen.get(name, "0") for name in timeouts(connection)}
    for name, value in values.items():
        connection.execute(text("SELECT set_config(:name, :value, true)"), {"name": name, "value": value})


def milliseconds(duration: timedelta) -> int:
    return round(duration.total_seconds() * 1000)


# PostgreSQL's schema


def create_schema(connection: Connection) -> None:
    if connection.dialect.name != "postgresql":
        return
    # Checked first: CREATE SCHEMA IF NOT EXISTS needs the right to create schemas even if there is nothing to do.
    if connection.scalar(text("SELECT 1 FROM pg_namespace WHERE nspname = :schema"), {"schema": schema}):
        return
    connection.execute(CreateSchema(schema, if_not_exists=True))
    connection.execute(DDL(f"COMMENT ON SCHEMA {quoted()} IS {literal(SCHEMA_COMMENT)}".replace("%", "%%")))


# The schema, if we made it and nothing is left in it.
DROPPABLE = """
    SELECT 1 FROM pg_namespace AS namespace
    WHERE nspname = {schema} AND obj_description(oid, 'pg_namespace') = {comment}
      AND NOT EXISTS (SELECT FROM pg_depend
                      WHERE refclassid = 'pg_namespace'::regclass AND refobjid = namespace.oid)
"""


def block(condition: str, then: str) -> DDL:
    """A statement that does something on a condition, for `--sql`."""
    return DDL(f"DO $statestore$ BEGIN IF {condition} THEN {then}; END IF; END $statestore$".replace("%", "%%"))


def quoted() -> str:
    return '"' + schema.replace('"', '""') + '"'


def literal(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def remove_traces(connection: Connection) -> None:
    """Remove what the last downgrade leaves: Alembic's table, and the schema if we made it and it is empty."""
    on_postgresql = connection.dialect.name == "postgresql"
    connection.execute(DropTable(Table(VERSION_TABLE, MetaData(), schema=schema if on_postgresql else None)))
    if not on_postgresql:
        return
    droppable = DROPPABLE.format(schema=":schema", comment=":comment")
    if connection.scalar(text(droppable), {"schema": schema, "comment": SCHEMA_COMMENT}):
        connection.execute(DropSchema(schema))


# SQLite's file


def pragma(connection: Connection, statement: str) -> Any:
    row = driver_execute(connection, f"PRAGMA {statement}")
    return None if row is None else row[0]


@contextmanager
def pragmas(connection: Connection, **values: int) -> Iterator[None]:
    before = {name: pragma(connection, name) for name in values}
    try:
        for name, value in values.items():
            pragma(connection, f"{name} = {value}")
        yield
    finally:
        for name, value in before.items():
            pragma(connection, f"{name} = {value}")


def try_write_ahead_log(connection: Connection) -> bool:
    """Switch to the write-ahead log for good. If others have it open, this fails at once, whatever the timeout."""
    try:
        return pragma(connection, "journal_mode") == "wal" or bool(pragma(connection, "journal_mode = WAL"))
    except sqlite3.OperationalError as error:
        if error.sqlite_errorname.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
            return False
        raise


def check_foreign_keys(connection: Connection) -> None:
    for name in {table_prefix + name for name in metadata.tables} & set(inspect(connection).get_table_names()):
        if driver_execute(connection, f"PRAGMA foreign_key_check({name})"):
            raise SchemaError(f"the migration would leave rows in {name} without a parent; nothing was changed")


main()
