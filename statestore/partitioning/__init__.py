"""Partitioning the large tables of a PostgreSQL database, while they are in use.

For each table: an empty, partitioned copy is made beside it, and triggers note the keys of all rows that are written
from then on. The rows are copied in batches, in the order in which they are stored; then those that were noted are
brought up to date, again and again, until few are left. The swap is one short transaction: nobody uses the table, the
last noted rows follow, and the copy takes the table's place. Foreign keys are validated after that, in use.

How far it has come is recorded in the transaction that does it. So it may be killed at any point; called again, it goes
on. Writers only add a key to a table of notes: whatever happens to the copy, what they do does not fail.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import URL, Connection, Engine

from statestore import migrate
from statestore.checking import checks
from statestore.engine.migration_targets import Target, checked_target, engine_for, our_errors
from statestore.errors import InvalidValueError, SchemaError
from statestore.migrate import LOCK_TIMEOUT, WAIT, Progress
from statestore.partitioning.copies import Copy, Polling
from statestore.schema import DEFAULT_SCHEMA, revisions
from statestore.schema import partitions as existing

PARTITIONS = 32
MAX_PARTITIONS = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class TablePartitions:
    """A table that can be partitioned, and how far that has come.

    Attributes:
        table: Its name.
        by: The column whose hash says in which partition a row is.
        partitions: How many partitions it has; those planned, until it is partitioned.
        state: `plain`: it has none. `copying`: rows are being copied, or that was interrupted. `finishing`: it is
            partitioned, and its foreign keys are not validated yet. `partitioned`: all is done.
        rows: About how many rows it has.
        bytes: How much it takes on disk, with its indexes. As much is needed again while it is partitioned.
        problems: Why it cannot be partitioned; empty if it can.
    """

    table: str
    by: str
    partitions: int
    state: str
    rows: int
    bytes: int
    problems: tuple[str, ...] = ()


def partition(
    target: Target,
    *,
    by: str = "hash",
    partitions: int = PARTITIONS,
    tables: Iterable[str] = tuple(existing.KEYS),
    schema: str = DEFAULT_SCHEMA,
    lock_timeout: timedelta = LOCK_TIMEOUT,
    wait: timedelta = WAIT,
    progress: Progress | None = None,
) -> list[TablePartitions]:
    """Partition the histories and the cache of a PostgreSQL database while stores use them.

    Reads and writes go on, and find what they would find otherwise. For a moment at the beginning and at the end of
    each table, writers wait: for locks that are given up after *lock_timeout*, and tried again. It may be killed at any
    point, and goes on when it is called again, with the same arguments. A table that is partitioned already is left as
    it is. Migrations wait until it has ended.

    Args:
        target: The database, as a URL or an engine whose user owns the tables. It takes two connections.
        by: `hash`, of the session's id or of the cached value's key.
        partitions: How many, 2 to 1,024. They cannot be changed later.
        tables: Which: `history_entries`, `cache_entries`, or both.
        schema: The schema of the tables.
        lock_timeout: How long to wait for a lock on a table. Everybody else queues behind it meanwhile.
        wait: How long to wait for other migrators, and to repeat what did not get its locks.
        progress: Called with a line of text now and then.

    Returns:
        What was found afterwards, for each of the tables.

    Raises:
        InvalidValueError: An argument cannot be used, or the database is SQLite. Nothing was changed.
        SchemaError: The schema is not the one that this version works with, something depends on a table that would
            not survive, or the copy differs from the table, which then stays in use.
        UnavailableError: The database cannot be reached, or stayed busy. Called again, it goes on.
    """
    wanted = _checked(by, partitions, tables)
    checks.optional_function(progress, "progress")
    with _connected(target, schema, lock_timeout, wait) as (connection, poll):
        for found in _look(connection, schema, partitions, wanted):
            if found.problems:
                raise SchemaError(f"{found.table} cannot be partitioned: {'; '.join(found.problems)}")
        for table in wanted:
            Copy(connection, schema, table, poll, progress or (lambda line: None)).make(partitions)
        return _look(connection, schema, partitions, wanted)


def look(
    target: Target,
    *,
    by: str = "hash",
    partitions: int = PARTITIONS,
    tables: Iterable[str] = tuple(existing.KEYS),
    schema: str = DEFAULT_SCHEMA,
) -> list[TablePartitions]:
    """What `partition` would find and do, without changing anything. Arguments and errors are as for `partition`."""
    wanted = _checked(by, partitions, tables)
    with _connected(target, schema, LOCK_TIMEOUT, WAIT, alone=False) as (connection, _):
        return _look(connection, schema, partitions, wanted)


def cancel(
    target: Target,
    *,
    tables: Iterable[str] = tuple(existing.KEYS),
    schema: str = DEFAULT_SCHEMA,
    lock_timeout: timedelta = LOCK_TIMEOUT,
    wait: timedelta = WAIT,
) -> list[str]:
    """Give up a partitioning that was interrupted before its swap: drop the copies, and what notes changes for them.

    Returns:
        The tables of which there was a copy. They are as they were before.
    """
    wanted = _checked("hash", PARTITIONS, tables)
    with _connected(target, schema, lock_timeout, wait) as (connection, poll):
        return [table for table in wanted if Copy(connection, schema, table, poll, lambda line: None).drop()]


def _checked(by: Any, partitions: Any, tables: Any) -> list[str]:
    checks.one_of(by, ("hash",), "by")
    checks.count(partitions, "partitions", least=2, most=MAX_PARTITIONS)
    wanted = checks.keys(tables, "tables")
    if not wanted:
        raise InvalidValueError("tables", f"must name at least one of {', '.join(existing.KEYS)}")
    for table in wanted:
        checks.one_of(table, tuple(existing.KEYS), "tables")
    return wanted


def _look(connection: Connection, schema: str, partitions: int, tables: list[str]) -> list[TablePartitions]:
    with connection.begin():
        return [TablePartitions(**Copy(connection, schema, table).state(partitions)) for table in tables]


@contextmanager
def _connected(
    target: Target, schema: str, lock_timeout: timedelta, wait: timedelta, *, alone: bool = True
) -> Iterator[tuple[Connection, Polling]]:
    """A connection to a database whose tables we know, alone among migrators."""
    checks.schema_name(schema)
    checks.duration(lock_timeout, "lock_timeout")
    checks.duration(wait, "wait")
    if isinstance(target, Connection):
        raise InvalidValueError("target", "must be a URL or an engine: this takes two connections, and transactions")
    engine: Engine = engine_for(target) if isinstance(target, str | URL) else checked_target(target)
    if engine.dialect.name != "postgresql":
        raise InvalidValueError("target", "must be a PostgreSQL database; SQLite has no partitions")
    migrate.check(target, schema=schema)
    polling = Polling(lock_timeout, wait)
    with our_errors(target), _transactional(engine) as connection:
        if not alone:
            yield connection, polling
            return
        with _transactional(engine) as keeper:
            # As migrations do, and for the same reasons: an open transaction holds the lock, also behind a pooler.
            lock = f"SELECT pg_try_advisory_xact_lock({revisions.lock_key(schema)})"

            def locked() -> bool:
                keeper.begin()
                polling.set_timeouts(keeper)
                if keeper.exec_driver_sql(lock).scalar():
                    return True
                keeper.rollback()
                return False

            polling.until(locked, f"another process is migrating schema {schema!r}")
            yield connection, polling


@contextmanager
def _transactional(engine: Engine) -> Iterator[Connection]:
    """A connection with transactions, even if the engine commits each statement."""
    with engine.connect() as connection:
        yield connection.execution_options(isolation_level="READ COMMITTED")
