"""How a call is carried out on a connection: transactions, and what a failure means for a second try.

All of it is blocking style; `database` calls it directly, `async_database` in a thread or through a greenlet.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from sqlalchemy import Connection

from statestore.driver_errors import Failure, understand
from statestore.errors import CommitUnknownError, InvalidValueError, StateStoreError, StoreClosedError
from statestore.repositories.base import Call, Mode
from statestore.sql import Connected, Dialect, Link, NeedsTransaction, Settings
from statestore.turnstile import ANY_TIME, Ticket


class Again(Exception):
    """A failure that may pass: what `stamina` retries on."""

    def __init__(self, error: StateStoreError) -> None:
        super().__init__(type(error).__name__)
        self.error = error


class Sent:
    """Whether the database may have done what it did not answer to."""

    __slots__ = ("unsettled",)

    def __init__(self) -> None:
        self.unsettled = False


class Borrowed:
    """A SQLAlchemy connection as a `Connected`. Engines of our own use the pool's connection, at half the cost."""

    __slots__ = ("close", "connection", "cursor", "invalidate")

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.cursor = connection.connection.cursor
        self.invalidate = connection.invalidate
        self.close = connection.close


class Transaction:
    """BEGIN, COMMIT and ROLLBACK on a connection whose driver commits each statement."""

    def __init__(self, connection: Connected, dialect: Dialect) -> None:
        self._connection = connection
        self._dialect = dialect

    def begin(self, *, snapshot: bool = False, patience: float | None = None) -> None:
        """Begin; with *snapshot* all that is read is of one moment. *patience*: seconds to wait for SQLite's writer."""
        if patience is not None and self._dialect.name == "sqlite":
            cursor = self._connection.cursor()
            cursor.execute("PRAGMA busy_timeout")
            (usual,) = cursor.fetchone()
            cursor.close()
            self._execute(f"PRAGMA busy_timeout = {int(patience * 1000)}")
            try:
                self._execute("BEGIN IMMEDIATE")
            finally:
                self._execute(f"PRAGMA busy_timeout = {usual}")
            return
        if self._dialect.name == "sqlite":
            # A deferred transaction that reads, and then wants to write, may find that another has written since.
            self._execute("BEGIN" if snapshot else "BEGIN IMMEDIATE")
        else:
            self._execute("BEGIN ISOLATION LEVEL REPEATABLE READ" if snapshot else "BEGIN")

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

    def _execute(self, sql: str) -> None:
        cursor = self._connection.cursor()
        try:
            cursor.execute(sql)
        finally:
            cursor.close()


def perform(
    connection: Connected, call: Call, dialect: Dialect, settings: Settings, sent: Sent, ticket: Ticket = ANY_TIME
) -> Any:
    """Run *call* on *connection*, in a transaction where it takes one.

    A *ticket* is given back before the commit: that waits for the disk, and others may go on meanwhile.
    """
    sent.unsettled = False
    if call.mode is Mode.READ or (call.mode.single and dialect.name == "postgresql"):
        sent.unsettled = call.mode is not Mode.READ
        try:
            return call(Link(connection, dialect, settings))
        except NeedsTransaction:
            pass
        except Exception as exc:
            # A single statement that lost a race is run again under the lock, where it sees who won.
            failure = understand(exc)
            if failure is None or not failure.duplicate:
                raise
        except BaseException:
            if dialect.name == "postgresql":
                connection.invalidate()
            raise
    sent.unsettled = False
    transaction = Transaction(connection, dialect)
    transaction.begin(snapshot=call.mode is Mode.SNAPSHOT, patience=call.patience)
    try:
        result = call(Link(connection, dialect, settings, in_transaction=True))
        sent.unsettled = True
        ticket.leave()
        transaction.commit()
    except BaseException as exc:
        transaction.abandon(exc)
        raise
    return result


def raise_for(exc: Exception, call: Call, sent: Sent) -> NoReturn:
    """Turn a driver's error into ours, or into `Again` where a second try is safe and may help."""
    failure = understand(exc)
    if failure is None:
        raise exc
    if failure.lost and sent.unsettled and not call.repeatable:
        raise CommitUnknownError(
            "the connection was lost while the write was under way, so it may or may not have been done; "
            "read before you repeat it",
            code=getattr(failure.error, "code", None),
        ) from None
    if failure.transient or failure.lost:
        raise Again(failure.error) from None
    raise failure.error from None


def understood(exc: Exception) -> Failure:
    failure = understand(exc)
    if failure is None:
        raise exc
    return failure


class BoundRunner:
    """Runs calls inside one transaction, which somebody else ends. Nothing is retried here."""

    def __init__(
        self, connection: Connected, dialect: Dialect, settings: Settings, *, holds_reads: bool = True
    ) -> None:
        self._connection = connection
        self._link = Link(connection, dialect, settings, in_transaction=True, holds_reads=holds_reads)
        self._failed: StateStoreError | None = None
        self._ended = False

    def run(self, call: Call) -> Any:
        if self._ended:
            raise StoreClosedError("the transaction has ended; begin another")
        if call.interruptible:
            call.may_be_cancelled(self._connection.driver_connection.cancel_safe)  # type: ignore[attr-defined]
        self._link.begin_operation()
        try:
            return call(self._link)
        except StateStoreError:
            raise
        except Exception as exc:
            self._failed = understood(exc).error
            raise self._failed from None
        finally:
            if call.interruptible:
                call.may_be_cancelled(None)

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
    return BoundRunner(Borrowed(connection), dialect, settings)


@contextmanager
def no_retry() -> Iterator[None]:
    """A transaction cannot be tried again from here: only its caller knows what it consists of."""
    try:
        yield
    except Again as again:
        raise again.error from None


@contextmanager
def translated(*, committing: bool = False) -> Iterator[None]:
    try:
        yield
    except (StateStoreError, Again):
        raise
    except Exception as exc:
        failure = understood(exc)
        if committing and failure.lost:
            raise CommitUnknownError(
                "the connection was lost while the transaction was committed, so it may or may not have been done; "
                "read before you repeat it",
                code=getattr(failure.error, "code", None),
            ) from None
        raise failure.error from None
