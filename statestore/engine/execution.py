"""How a call is carried out on a connection: alone, in a transaction of its own, or in one that spans several calls.

All of it is blocking style: `database` calls it directly, `threaded_database` in a thread, `engine_database` through a
greenlet.
"""

import math
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from sqlalchemy import Connection

from statestore.engine import cursor_events, host_drivers, pooler, process_fork, sqlite_files
from statestore.engine.calls import READING, Call, Mode
from statestore.engine.driver_errors import Retryable, classify, classify_or_raise, moved, raise_alone
from statestore.engine.orphans import BACKEND
from statestore.engine.sql import Connected, Dialect, Link, NeedsTransaction, Settings
from statestore.engine.telemetry import tell_undone
from statestore.engine.waits import ANY_TIME, Ticket, ends_at, out_of_time
from statestore.engine.watchdog import Watch, driver_of, watchdog
from statestore.errors import (
    CommitUnknownError,
    InvalidValueError,
    ReadOnlyError,
    SchemaMissingError,
    StateStoreError,
    StoreClosedError,
)
from statestore.schema import VERSION_TABLE


def perform(
    connection: Connected,
    call: Call,
    dialect: Dialect,
    settings: Settings,
    ticket: Ticket = ANY_TIME,
    until: float = math.inf,
) -> Any:
    """Run *call* on *connection*, in a transaction if it needs one.

    A *ticket* is given back before the commit: that waits for the disk, and others may go on meanwhile. *until* is how
    long SQLite's writer is waited for.
    """
    call.sent = False
    single = call.mode is Mode.READ or (call.mode.single and dialect.name == "postgresql")
    if single and (dialect.name == "sqlite" or not local_timeouts(connection)):
        call.sent = call.mode is not Mode.READ
        try:
            return call(Link(connection, dialect, settings))
        except NeedsTransaction:
            pass
        except Exception as exc:
            # A single statement that lost a race is run again under the lock, where it sees who won.
            failure = classify(exc)
            if failure is None or not failure.duplicate:
                raise
        except BaseException:
            if dialect.name == "postgresql":
                connection.invalidate()
            raise
    call.sent = False
    transaction = Transaction(connection, dialect)
    transaction.begin(snapshot=call.mode is Mode.SNAPSHOT, until=until, call=call)
    try:
        result = call(Link(connection, dialect, settings, in_transaction=True))
        call.sent = call.mode not in READING
        ticket.leave()
        transaction.commit()
    except BaseException as exc:
        transaction.abandon(exc)
        raise
    return result


class BoundRunner:
    """Runs calls inside one transaction, which somebody else ends. Nothing is retried here."""

    def __init__(
        self,
        connection: Connected,
        dialect: Dialect,
        settings: Settings,
        *,
        timeout: float = math.inf,
        holds_reads: bool = True,
        read_only: bool = False,
        elsewhere: bool = False,
        host: Connection | None = None,
    ) -> None:
        """*timeout* is how long each call may take, in seconds. With *read_only* no call may write.

        *elsewhere* says that the URL names other hosts, one of which may accept writes. *host* is the connection whose
        transaction was joined.
        """
        self._connection = connection
        self._link = Link(
            connection, dialect, settings, in_transaction=True, holds_reads=holds_reads, read_only=read_only
        )
        self._timeout = timeout
        self._read_only = read_only
        self._elsewhere = elsewhere
        self._generation = process_fork.generation()
        self._host = host
        # Operations of several statements must not mix, whoever calls them at once.
        self._one_at_a_time = threading.RLock()
        self._failed: StateStoreError | None = None
        self._ended = False
        self._watch: Watch | None = None

    def run(self, call: Call) -> Any:
        self.check_process()
        with self._one_at_a_time:
            return self._run(call)

    def _without_tables(self, error: StateStoreError) -> SchemaMissingError | None:
        """What SQLite says of any wrong statement, if it is because nobody has checked the host's database."""
        if self._host is None or getattr(error, "code", None) != "SQLITE_ERROR":
            return None
        prefix = self._link.dialect.table_prefix
        tables = f"SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = '{prefix}{VERSION_TABLE}'"
        if self._host.exec_driver_sql(tables).first() is not None:
            return None
        upgrade = f"upgrade(connection{f', table_prefix={prefix!r}' if prefix else ''})"
        return SchemaMissingError(
            f"the connection's database has no statestore tables; make them with statestore.migrate.{upgrade}",
            current=None,
        )

    def _run(self, call: Call) -> Any:
        if self._ended:
            raise StoreClosedError("the transaction has ended; begin another")
        if self._host is not None and (self._host.closed or not self._host.in_transaction()):
            raise StoreClosedError("the transaction that was joined has ended; join another")
        if self._host is not None and self._host.invalidated:
            # Lost, by one of our calls or by a statement of the host's.
            raise self._failed or StoreClosedError("the connection that was joined is lost; join another transaction")
        if self._read_only and call.mode not in (Mode.READ, Mode.SNAPSHOT):
            raise ReadOnlyError("the transaction was begun with read_only=True, and nothing was written; begin another")
        if self._failed is not None and self._is_undone():
            raise self._failed
        self._link.begin_operation()
        if self._host is not None:
            self._link.held.clear()  # A savepoint of the host's may have been undone, and its locks with it.
        call.ends_at = ends_at(self._timeout)
        with self._watched(call):
            try:
                return call(self._link)
            except StateStoreError:
                raise
            except Exception as exc:
                # What holds the rows that it reads locks them, and that needs another right.
                reading = call.mode in READING and not self._link.holds_reads
                failure = classify_or_raise(exc, reading=reading)
                error = self._without_tables(failure.error) or failure.error
                if failure.lost:
                    self.lost = failure.error
                tell_undone(call.name, error)
                if failure.demoted and self._elsewhere:
                    self.given_up = self.demoted = True
                    error = moved(error)
                late = call.given_up or time.monotonic() >= call.ends_at
                self._failed = out_of_time() if late else error
                if (failure.lost or late) and self._host is not None:
                    host_drivers.leave(self._host, lost=failure.lost)
                raise_alone(self._failed)

    def _is_undone(self) -> bool:
        """Whether SQLite has rolled back by itself, after which each statement would be committed at once."""
        return self._link.dialect.name == "sqlite" and not driver_of(self._connection).in_transaction

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Bound what the transaction does besides calls: its commit, and its rollback."""
        with self._watched(None):
            yield

    @contextmanager
    def _watched(self, call: Call | None) -> Iterator[None]:
        due = ends_at(self._timeout) if call is None else call.ends_at
        if due == math.inf and call is None:
            yield
            return
        watch = self._watch = Watch(driver_of(self._connection), due)
        if call is not None:
            call.watch = watch
        try:
            watchdog.begin(watch)
            yield
        finally:
            watchdog.watches.discard(watch)
            self._watch = None
            if call is not None:
                call.watch = None
            if watchdog.end(watch) and self._link.dialect.name == "postgresql":
                self.given_up = True

    lost: StateStoreError | None = None
    """The error that the connection was lost with."""

    given_up = False
    """Whether the connection is not to be used again after the transaction."""

    demoted = False
    """Whether the server no longer accepts writes, and another one may."""

    def hurry(self) -> None:
        """The caller no longer waits for what is under way: cut it short."""
        watch = self._watch
        if watch is not None:
            watchdog.hurry(watch)

    def check_process(self) -> None:
        if self._generation != process_fork.generation():
            raise StoreClosedError(
                "the transaction was begun before this process was forked, and belongs to the parent; begin another"
            )

    def finish(self) -> None:
        """Nothing more is to come; a failure is raised again.

        PostgreSQL would answer the COMMIT of a failed transaction with a silent ROLLBACK.
        """
        self._ended = True
        if self._failed is not None:
            raise self._failed

    def end(self) -> None:
        self._ended = True


def join(connection: Connection, dialect: Dialect, settings: Settings) -> BoundRunner:
    """A runner inside the caller's own transaction on *connection*, which the caller commits."""
    if connection.closed:
        raise InvalidValueError("connection", "is closed")
    if not connection.in_transaction():
        connection.begin()
    driver: Any = connection.connection.driver_connection
    if dialect.name == "sqlite":
        commits_alone = not driver.in_transaction and driver.isolation_level is None
    else:
        pooled: Any = connection.connection
        commits_alone = pooled.dbapi_connection.autocommit
    if commits_alone:
        raise InvalidValueError(
            "connection", "commits each statement by itself; take one without isolation_level='AUTOCOMMIT'"
        )
    if dialect.name == "sqlite" and not driver.in_transaction:
        # The driver would begin at the first write only: what is read before could be overwritten unseen.
        connection.exec_driver_sql("BEGIN IMMEDIATE")
    return BoundRunner(Borrowed(connection), dialect, settings, host=connection)


@contextmanager
def no_retry() -> Iterator[None]:
    """A transaction cannot be tried again from here: only its caller knows what it consists of."""
    try:
        yield
    except Retryable as again:
        raise_alone(again.error)


@contextmanager
def translated(*, committing: BoundRunner | None = None) -> Iterator[None]:
    """Turn a driver's error into ours. *committing*: the runner that commits, whose commit may have been done."""
    try:
        yield
    except (StateStoreError, Retryable):
        raise
    except Exception as exc:
        failure = classify_or_raise(exc)
        if committing is not None and failure.lost:
            committing.lost = failure.error
            raise_alone(
                CommitUnknownError(
                    "the connection was lost during the transaction's commit, which may or may not have been applied; "
                    "read before you repeat it",
                    code=getattr(failure.error, "code", None),
                )
            )
        raise_alone(failure.error)


class Borrowed:
    """A SQLAlchemy connection as a `Connected`. Engines of our own use the pool's connection, at half the cost."""

    __slots__ = ("backend", "close", "connection", "cursor", "driver_connection", "invalidate", "is_read_only")

    def __init__(self, connection: Connection) -> None:
        # None: to be asked of the driver. On those that only join it is known in another way, and nothing to protect.
        self.is_read_only = host_drivers.is_read_only(connection)
        if connection.dialect.name == "postgresql" and self.is_read_only is None:
            pooler.protect(connection.connection)
        self.backend = connection.connection.info.get(BACKEND)
        self.connection = connection
        self.cursor = host_drivers.cursors(connection, cursor_events.cursors(connection))
        self.driver_connection = connection.connection.driver_connection
        self.invalidate = connection.invalidate
        self.close = connection.close


class Waiter:
    """A caller that waits for a transaction to begin, *until* then on the monotonic clock, and may have left."""

    def __init__(self, until: float) -> None:
        self.until = until
        self.given_up = False

    def give_up(self) -> None:
        self.given_up = True


class Transaction:
    """BEGIN, COMMIT and ROLLBACK on a connection whose driver commits each statement."""

    def __init__(self, connection: Connected, dialect: Dialect) -> None:
        self._connection = connection
        self._dialect = dialect

    def begin(
        self,
        *,
        snapshot: bool = False,
        read_only: bool = False,
        until: float = math.inf,
        call: Call | Waiter | None = None,
    ) -> None:
        """Begin; with *snapshot* all that is read is of one moment.

        SQLite's writer is waited for *until* then, on the monotonic clock, or until *call* is given up.
        """
        if self._dialect.name == "sqlite":
            if snapshot:
                self._execute("BEGIN")
            else:
                file = getattr(self._connection, "info", {}).get(sqlite_files.FILE)
                if file is not None:
                    file.check()
                self._begin_writing(until, call)
        else:
            level = " ISOLATION LEVEL REPEATABLE READ" if snapshot else ""
            begin = f"BEGIN{level}{' READ ONLY' if read_only else ''}"
            timeouts = local_timeouts(self._connection)
            if timeouts:
                self._execute(begin + timeouts, prepare=False)  # Several statements cannot be prepared as one.
            else:
                self._execute(begin)

    def _begin_writing(self, until: float, call: Call | Waiter | None) -> None:
        # A deferred transaction that reads, and then wants to write, may find that another has written since. SQLite's
        # own wait cannot be interrupted, so it is a short one, again and again.
        own = not isinstance(self._connection, Borrowed)
        while True:
            try:
                # Our own connections have a short wait already; a caller's gets back the one that it had.
                with nullcontext() if own else self._short_wait():
                    self._execute("BEGIN IMMEDIATE")
                    return
            except sqlite3.OperationalError as exc:
                if not (exc.sqlite_errorname or "").startswith("SQLITE_BUSY"):
                    raise
                if time.monotonic() >= until or (call is not None and call.given_up):
                    failure = classify_or_raise(exc)
                    break
        raise failure.error

    @contextmanager
    def _short_wait(self) -> Iterator[None]:
        cursor = self._connection.cursor()
        cursor.execute("PRAGMA busy_timeout")
        [(usual,)] = cursor.fetchall()
        cursor.close()
        self._execute(f"PRAGMA busy_timeout = {min(usual, sqlite_files.WAIT)}")
        try:
            yield
        finally:
            self._execute(f"PRAGMA busy_timeout = {usual}")

    def commit(self) -> None:
        self._execute("COMMIT")

    def abandon(self, exc: BaseException) -> None:
        """Undo, whatever state the connection is in."""
        if isinstance(exc, Exception) or self._dialect.name == "sqlite":
            try:
                self._execute("ROLLBACK")
                return
            except Exception as failure:
                # SQLite has rolled back by itself after some errors, and then has nothing left to undo.
                if getattr(failure, "sqlite_errorname", None) == "SQLITE_ERROR":
                    return
        # Interrupted in the middle of an exchange with the server: what comes next on this connection is uncertain.
        self._connection.invalidate()

    def _execute(self, sql: str, **options: bool) -> None:
        cursor = self._connection.cursor()
        try:
            cursor.execute(sql, **options)
        finally:
            cursor.close()


def local_timeouts(connection: Connected) -> str:
    """What a transaction on *connection* is to begin with; empty unless timeouts were asked for behind a pooler.

    A single statement has to have a transaction there.
    """
    found: str = getattr(connection, "info", {}).get(pooler.LOCAL_TIMEOUTS, "")
    return found
