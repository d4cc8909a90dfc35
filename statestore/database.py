"""Where operations meet the database, for threads. `async_database` does the same for event loops."""

import logging
import select
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from typing import Any, Protocol

import stamina
from sqlalchemy import Connection, Engine, PoolProxiedConnection

from statestore import group_calls
from statestore.driver_errors import understand
from statestore.errors import StateStoreError, StoreClosedError, UnavailableError
from statestore.execution import (
    Again,
    Borrowed,
    BoundRunner,
    Sent,
    Transaction,
    no_retry,
    perform,
    raise_for,
    translated,
    understood,
)
from statestore.grouping import PATIENCE, ThreadGroups
from statestore.repositories import group_appending, group_reading
from statestore.repositories.base import Call, Mode
from statestore.sql import Connected, Dialect, Link, Settings
from statestore.turnstile import ANY_TIME, Ticket, Turnstile

# A library does not print: without a handler of the application's, stamina's warnings would go to standard error.
logging.getLogger("stamina").addHandler(logging.NullHandler())

Verify = Callable[[Connection], None]

RETRY: Any = {
    "on": Again,
    "attempts": 6,
    "timeout": timedelta(seconds=20),
    "wait_initial": timedelta(milliseconds=20),
    "wait_jitter": timedelta(milliseconds=20),
}
WRITER_TIMEOUT = timedelta(seconds=30)


class Runner(Protocol):
    """Runs a call, at once."""

    def run(self, call: Call) -> Any: ...


class Database:
    """Runs operations on an engine, each in a transaction of its own, and again where that may help."""

    def __init__(self, engine: Engine, dialect: Dialect, settings: Settings, *, owned: bool, verify: Verify) -> None:
        self.engine = engine if owned else engine.execution_options(isolation_level="AUTOCOMMIT")
        self.dialect = dialect
        self.settings = settings
        self._owned = owned
        self._verify = verify
        self._verified = False
        self._closed = False
        self._lost_at = 0.0
        # SQLite lets one writer in at a time. Waiting here wakes up at once; its own busy handler polls.
        self._writer = threading.Lock() if dialect.name == "sqlite" else None
        self._turnstile = Turnstile() if dialect.name == "sqlite" else ANY_TIME
        # SQLite's only writer cannot be overtaken, and reads are no trouble to it.
        patience = None if self._writer else PATIENCE
        self._appends = ThreadGroups(self.run_alone, partial(group_calls.commit, self), patience=patience)
        self._reads = None if self._writer else ThreadGroups(self.run_alone, partial(group_calls.read, self))

    def run(self, call: Call) -> Any:
        session_id = group_appending.session_of(call)
        if session_id is not None:
            return self._appends.run(call, session_id)
        if self._reads is not None and group_reading.is_small(call, self.settings.forks):
            return self._reads.run(call, call)
        return self.run_alone(call)

    def run_alone(self, call: Call) -> Any:
        """Run a call that is in no group."""
        try:
            return self._attempt(call)
        except Again as again:
            if call.patience is not None:
                raise again.error from None
        try:
            for attempt in stamina.retry_context(**RETRY):
                with attempt:
                    call.attempt += 1
                    return self._attempt(call)
        except Again as again:
            raise again.error from None
        raise AssertionError("unreachable")

    @contextmanager
    def transaction(self) -> Iterator[BoundRunner]:
        """One transaction for all that is run through the runner; committed at the end, undone on an exception."""
        with no_retry(), self._writing(), self._connected() as connection:
            transaction = Transaction(connection, self.dialect)
            with translated():
                transaction.begin()
            runner = BoundRunner(connection, self.dialect, self.settings)
            try:
                yield runner
                runner.finish()
                with translated(committing=True):
                    transaction.commit()
            except BaseException as exc:
                runner.end()
                transaction.abandon(exc)
                raise

    def run_group(self, work: Callable[[Link], None]) -> None:
        """Run *work* for several callers at once: one statement on PostgreSQL, one transaction on SQLite.

        It is tried once. A driver's error comes out as it is, since it is nobody's in particular.
        """
        if self.dialect.name == "postgresql":
            with self._connected() as connection:
                try:
                    work(Link(connection, self.dialect, self.settings))
                except Exception as exc:
                    self._discard(connection, exc)
                    raise
            return
        with self._writing():
            ticket: Ticket = ANY_TIME
            try:
                # Before the connection, as everywhere: one of few may be with somebody who waits for his turn.
                ticket = self._turnstile.enter()
                with self._connected() as connection:
                    transaction = Transaction(connection, self.dialect)
                    transaction.begin()
                    try:
                        work(Link(connection, self.dialect, self.settings, in_transaction=True))
                        ticket.leave()
                        transaction.commit()
                    except BaseException as exc:
                        transaction.abandon(exc)
                        raise
            finally:
                ticket.leave()

    @contextmanager
    def snapshot(self) -> Iterator[BoundRunner]:
        """A transaction, not to be written in, in which everything that is read is of one moment."""
        with no_retry(), self._connected() as connection:
            transaction = Transaction(connection, self.dialect)
            with translated():
                transaction.begin(snapshot=True)
            runner = BoundRunner(connection, self.dialect, self.settings, holds_reads=False)
            try:
                yield runner
            except BaseException as exc:
                runner.end()
                transaction.abandon(exc)
                raise
            runner.end()
            with translated():
                transaction.commit()

    def verify(self) -> None:
        """Connect, and check the tables: once."""
        if self._verified:
            return
        with no_retry(), translated(), self.engine.connect() as connection:
            self._verify(connection)
        self._verified = True

    @property
    def closed(self) -> bool:
        return self._closed

    def close(self) -> None:
        self._closed = True
        if self._owned:
            # Not the engine's `dispose`, which takes a new pool: what is in use now comes back to this one.
            self.engine.pool.dispose()

    def _attempt(self, call: Call) -> Any:
        # Written out instead of nested context managers: this is the way of every operation.
        writer = None if call.mode is Mode.READ else self._writer
        if writer is not None and not writer.acquire(timeout=writer_patience(call)):
            raise writer_timeout()
        ticket: Ticket = ANY_TIME
        try:
            ticket = self._turnstile.enter()
            connection = self._checkout()
            sent = Sent()
            if call.interruptible:
                call.may_be_cancelled(connection.driver_connection.cancel_safe)  # type: ignore[attr-defined]
            try:
                return perform(connection, call, self.dialect, self.settings, sent, ticket)
            except StateStoreError:
                raise
            except Exception as exc:
                self._discard(connection, exc)
                raise_for(exc, call, sent)
            finally:
                if call.interruptible:
                    call.may_be_cancelled(None)
                self._give_back(connection)
        finally:
            ticket.leave()
            if writer is not None:
                writer.release()

    def _checkout(self) -> Connected:
        if self._closed:
            raise StoreClosedError("the store is closed; open another")
        if not self._verified:
            self.verify()
        try:
            if not self._owned:
                return Borrowed(self.engine.connect())
            connection = self.engine.raw_connection()
            if self.dialect.name == "postgresql":
                now = time.monotonic()
                while self._suspect(connection, now) and _has_ended(connection.driver_connection):
                    self._forget(connection)
                    connection = self.engine.raw_connection()
                connection.info["used_at"] = now
            return connection
        except Exception as exc:
            failure = understood(exc)
            if failure.lost:
                url = self.engine.url
                raise Again(
                    UnavailableError(
                        f"PostgreSQL cannot be reached at {url.host or 'the local socket'}, port {url.port or 5432}, "
                        f"database {url.database!r}; check that it runs and that the address is right"
                    )
                ) from None
            raise failure.error from None

    def _suspect(self, connection: PoolProxiedConnection, now: float) -> bool:
        """Whether to ask a connection if it still stands.

        Only after a pause, or when another one was lost since its last use, in a restart most likely: asking gives up
        the interpreter's lock, which other threads then hold.
        """
        used_at: float = connection.info.get("used_at", now)
        return used_at < self._lost_at or now - used_at > _PAUSE

    def _give_back(self, connection: Connected) -> None:
        connection.close()
        if self._closed and self._owned:
            self.engine.pool.dispose()

    @contextmanager
    def _connected(self) -> Iterator[Connected]:
        connection = self._checkout()
        try:
            yield connection
        finally:
            self._give_back(connection)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        if self._writer is None:
            yield
            return
        if not self._writer.acquire(timeout=WRITER_TIMEOUT.total_seconds()):
            raise writer_timeout()
        try:
            yield
        finally:
            self._writer.release()

    def _discard(self, connection: Connected, exc: Exception) -> None:
        failure = understand(exc)
        if failure is not None and failure.lost:
            self._forget(connection)

    def _forget(self, connection: Connected) -> None:
        if getattr(connection, "is_valid", True):  # It may have been given up already, when its transaction was.
            connection.invalidate()
        connection.close()
        self._lost_at = time.monotonic()


_PAUSE = 0.5


def _has_ended(driver: Any) -> bool:
    """Whether the server has said something on an idle connection, which can only be its end.

    A write that is sent on a dead connection is a write of which nobody knows whether it was done.
    """
    if driver.closed:
        return True
    poll = select.poll()
    poll.register(driver.pgconn.socket, select.POLLIN)
    return bool(poll.poll(0))


def writer_patience(call: Call | None) -> float:
    return WRITER_TIMEOUT.total_seconds() if call is None or call.patience is None else call.patience


def writer_timeout() -> UnavailableError:
    return UnavailableError(
        "another transaction of this store held SQLite's only writer for too long; end it first, "
        "and do not call the store from within it but through what transaction() gave you"
    )
