"""How a call is carried out on a connection: transactions, and what a failure means for a second try.

All of it is blocking style: `database` calls it directly, `threaded_database` in a thread, `engine_database` through a
greenlet.
"""

import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from sqlalchemy import Connection

from statestore.engine import forking
from statestore.engine.calls import Call, Mode
from statestore.engine.deadlines import ends_at, out_of_time
from statestore.engine.driver_errors import Failure, classify, classify_or_raise, moved, raise_alone
from statestore.engine.fair_lock import ANY_TIME, Ticket
from statestore.engine.sql import Connected, Dialect, Link, NeedsTransaction, Settings
from statestore.engine.telemetry import tell_undone
from statestore.engine.transactions import Borrowed, Transaction, local_timeouts
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


class Retryable(Exception):
    """A failure that may pass: the call is tried again."""

    def __init__(self, error: StateStoreError) -> None:
        super().__init__(type(error).__name__)
        self.error = error


def perform(
    connection: Connected,
    call: Call,
    dialect: Dialect,
    settings: Settings,
    ticket: Ticket = ANY_TIME,
    until: float = math.inf,
) -> Any:
    """Run *call* on *connection*, in a transaction where it takes one.

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
        call.sent = call.mode not in (Mode.READ, Mode.SNAPSHOT)
        ticket.leave()
        transaction.commit()
    except BaseException as exc:
        transaction.abandon(exc)
        raise
    return result


def raise_for(exc: Exception, call: Call, *, elsewhere: bool = False) -> NoReturn:
    """Turn a driver's error into ours, or into `Retryable` where a second try is safe and may help.

    *elsewhere*: a new connection may lead to another server.

    What may have been done stays so until an attempt finds out: see `settled`.
    """
    failure = classify(exc)
    if failure is None:
        raise exc
    if failure.lost and call.sent:
        call.unsettled = True
    if call.unsettled and not call.repeatable:
        raise_alone(commit_unknown(failure.error))
    if call.given_up or time.monotonic() >= call.ends_at:
        raise_alone(out_of_time())
    if failure.demoted and elsewhere:
        raise_alone(Retryable(moved(failure.error)))
    if failure.transient or failure.lost:
        raise_alone(Retryable(failure.error))
    raise_alone(failure.error)


def raise_again(exc: Exception, until: float) -> NoReturn:
    """As `raise_for`, for what cannot have done anything."""
    if isinstance(exc, StateStoreError | Retryable):
        raise exc
    failure = classify_or_raise(exc)
    if time.monotonic() >= until:
        raise_alone(out_of_time())
    raise_alone(Retryable(failure.error) if failure.lost else failure.error)


def final_error(error: StateStoreError, call: Call) -> StateStoreError:
    """The error that *call* ends with: one that says nothing was written only if that is certain."""
    if not call.unsettled or isinstance(error, CommitUnknownError):
        return error
    return commit_unknown(error)


def commit_unknown(error: StateStoreError) -> CommitUnknownError:
    """That a write may have been done, where *error* is what came of finding out."""
    return CommitUnknownError(
        "the connection was lost while the write was under way, so it may or may not have been done "
        f"({type(error).__name__} since); read before you repeat it",
        code=getattr(error, "code", None),
    )


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

        *elsewhere* says that the URL names other hosts, one of which may take writes. *host* is the connection whose
        transaction was joined.
        """
        self._connection = connection
        self._link = Link(
            connection, dialect, settings, in_transaction=True, holds_reads=holds_reads, read_only=read_only
        )
        self._timeout = timeout
        self._read_only = read_only
        self._elsewhere = elsewhere
        self._generation = forking.generation()
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
        tables = f"SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = '{VERSION_TABLE}'"
        if self._host.exec_driver_sql(tables).first() is not None:
            return None
        return SchemaMissingError(
            "the connection's database has no statestore tables; make them with statestore.migrate.upgrade(connection)",
            current=None,
        )

    def _run(self, call: Call) -> Any:
        if self._ended:
            raise StoreClosedError("the transaction has ended; begin another")
        if self._host is not None and (self._host.closed or not self._host.in_transaction()):
            raise StoreClosedError("the transaction that was joined has ended; join another")
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
                failure = classify_or_raise(exc)
                error = self._without_tables(failure.error) or failure.error
                self._note_lost(failure)
                tell_undone(call.name, error)
                if failure.demoted and self._elsewhere:
                    self.given_up = self.demoted = True
                    error = moved(error)
                late = call.given_up or time.monotonic() >= call.ends_at
                self._failed = out_of_time() if late else error
                raise_alone(self._failed)

    def _note_lost(self, failure: Failure) -> None:
        if failure.lost:
            self.lost = failure.error

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
        watch = self._watch = watchdog.watch(driver_of(self._connection), due)
        if call is not None:
            call.watch = watch
        try:
            yield
        finally:
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
    """Whether the server takes no writes any more, and another one may."""

    def hurry(self) -> None:
        """Somebody waits no longer for what is under way."""
        watch = self._watch
        if watch is not None:
            watchdog.hurry(watch)

    def check_process(self) -> None:
        if self._generation != forking.generation():
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
        commits_alone = driver.autocommit
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
    """Turn a driver's error into ours. *committing*: whose commit it is, which may have been done."""
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
                    "the connection was lost while the transaction was committed, so it may or may not have been done; "
                    "read before you repeat it",
                    code=getattr(failure.error, "code", None),
                )
            )
        raise_alone(failure.error)
