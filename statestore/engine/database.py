"""Runs calls on an engine, for threads: each in a transaction of its own, retried if that may help.

`threaded_database` wraps it for event loops.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any, Protocol

from sqlalchemy import Engine

from statestore.engine import process_fork, sqlite_files
from statestore.engine.batching import ThreadBatches, carry_out
from statestore.engine.calls import Batching, Call, Mode
from statestore.engine.connections import Connections
from statestore.engine.driver_errors import Retryable, final_error, raise_again, raise_for
from statestore.engine.execution import BoundRunner, Transaction, Waiter, local_timeouts, no_retry, perform, translated
from statestore.engine.listening import Listener, ListenStatements
from statestore.engine.schedule import PATIENCE
from statestore.engine.slots import Place
from statestore.engine.sql import Connected, Dialect, Link, Settings
from statestore.engine.telemetry import BEGIN, Telemetry, tell_retry
from statestore.engine.waits import (
    ANY_TIME,
    FairLock,
    OnlyWriter,
    PoolState,
    Ticket,
    Waits,
    ends_at,
    out_of_time,
    tries,
    writer_timeout,
)
from statestore.engine.watchdog import Watch, driver_of, watchdog
from statestore.errors import StateStoreError


class Runner(Protocol):
    """Runs a call, at once."""

    def run(self, call: Call) -> Any: ...


class Database:
    """Runs operations on an engine, each in a transaction of its own, and again if that may help."""

    def __init__(
        self,
        connections: Connections,
        dialect: Dialect,
        settings: Settings,
        waits: Waits,
        listening: ListenStatements,
    ) -> None:
        self._connections = connections
        self.dialect = dialect
        self.settings = settings
        self.waits = waits
        self.telemetry = Telemetry(settings.namespace, waits.slow_call)
        self._watchers = self.telemetry.watchers
        # For those who follow sessions; None if there is nothing to listen to.
        self.listener = Listener(connections, settings.namespace, listening) if dialect.name == "postgresql" else None
        self.renew_after_fork()
        process_fork.renew_in_child(self)

    def renew_after_fork(self) -> None:
        """Make the locks and batches of this process. Whoever held the parent's does not exist in a child."""
        sqlite = self.dialect.name == "sqlite"
        # SQLite lets one writer in at a time. Waiting here wakes up at once; its own busy handler polls.
        self._writer = OnlyWriter() if sqlite else None
        self._fair_lock = FairLock() if sqlite else ANY_TIME
        self._batches: dict[Batching[Any], ThreadBatches] = {}

    @property
    def engine(self) -> Engine:
        return self._connections.engine

    @property
    def closed(self) -> bool:
        return self._connections.closed

    def pool(self) -> PoolState | None:
        """See `Connections.pool`."""
        return self._connections.pool()

    @property
    def shared_url(self) -> str | None:
        """By which other processes open the same database; None for a caller's engine, or a database in memory."""
        if not (self._connections.owned and self._connections.lasts):
            return None
        return self.engine.url.render_as_string(hide_password=False)

    @property
    def where(self) -> dict[str, str]:
        """In which schema its tables are, or under which names: options with which another store has the same."""
        if self.dialect.name == "sqlite":
            return {"table_prefix": self.dialect.table_prefix}
        schema = self.dialect.schema_prefix[1:-2].replace('""', '"').replace("%%", "%")
        return {"schema": schema}

    def verify(self) -> None:
        """Connect, and check the tables: once."""
        self._connections.verify()

    def connected(self) -> AbstractContextManager[Connected]:
        """One connection, without a transaction and without a second try."""
        return self._connections.connected(ends_at(self.waits.timeout))

    def empty_log(self) -> None:
        """Let SQLite write its log back into the file, if nobody has to be waited for. PostgreSQL sees to itself."""
        if self._writer is not None:
            with no_retry(), self.connected() as connection:
                sqlite_files.checkpoint(connection)

    def close(self) -> None:
        self._connections.close()
        if self.listener is not None:
            self.listener.close()

    def run(self, call: Call) -> Any:
        # Comes back here when it is watched. Another function in between would cost every call.
        if self._watchers and not call.watched:
            with self.telemetry.watching(call) as outcome:
                outcome.result = self.run(call)
            return outcome.result
        call.ends_at = ends_at(self.waits.timeout)
        batching = call.batching
        # SQLite takes any number of readers at once.
        if batching is not None and (self._writer is None or batching.writes):
            key = batching.key(call, self.settings)
            if key is not None:
                return self._batches_of(batching).run(call, key)
        return self.run_alone(call)

    def _batches_of(self, batching: Batching[Any]) -> ThreadBatches:
        found = self._batches.get(batching)
        if found is None:
            # SQLite's only writer cannot be overtaken.
            patience = PATIENCE if self._writer is None else None
            made = ThreadBatches(self.run_alone, partial(carry_out, batching, self), patience=patience)
            found = self._batches.setdefault(batching, made)  # Another thread may have been quicker.
        return found

    def run_alone(self, call: Call) -> Any:
        """Run a call that is not in a batch."""
        try:
            return self._run_alone(call)
        except StateStoreError as error:
            if not call.unsettled:
                raise
            unknown = final_error(error)
        raise unknown

    def _run_alone(self, call: Call) -> Any:
        try:
            return self._attempt(call)
        except Retryable as again:
            error = again.error
        if call.patience is not None:
            raise error
        for pause in tries(call.ends_at, self.waits):
            call.attempt += 1
            tell_retry(call.name, error, attempt=call.attempt, pause=pause)
            time.sleep(pause)
            try:
                return self._attempt(call)
            except Retryable as again:
                error = again.error
        raise error

    @contextmanager
    def transaction(self, waiter: Waiter | None = None) -> Iterator[BoundRunner]:
        """One transaction for all that is run through the runner; committed at the end, undone on an exception."""
        waiter = waiter or Waiter(ends_at(self.waits.timeout))
        with self._writing(waiter.until), self._begun(waiter) as (transaction, runner):
            yield runner
            runner.check_process()
            runner.finish()
            with translated(committing=runner), runner.watched():
                transaction.commit()

    @contextmanager
    def snapshot(self, waiter: Waiter | None = None, *, read_only: bool = False) -> Iterator[BoundRunner]:
        """A transaction that reads everything as of one moment.

        With *read_only* the database refuses writes; without it a read may extend a TTL.
        """
        waiter = waiter or Waiter(ends_at(self.waits.timeout))
        with self._begun(waiter, snapshot=True, read_only=read_only) as (transaction, runner):
            yield runner
            runner.check_process()
            runner.end()
            with translated(), runner.watched():
                transaction.commit()

    def for_snapshots(self) -> "Database":
        """Where several connections are to see one moment, beginning with `own_snapshot`."""
        return self

    def own_snapshot(self) -> AbstractContextManager[BoundRunner]:
        """A snapshot of this very database."""
        return self.snapshot()

    @contextmanager
    def _begun(
        self, waiter: Waiter, *, snapshot: bool = False, read_only: bool = False
    ) -> Iterator[tuple[Transaction, BoundRunner]]:
        """A transaction that has begun; undone on an exception."""
        generation, slots = process_fork.generation(), self._connections.slots
        begun: tuple[Place, Transaction, BoundRunner] | None = None
        try:
            with no_retry():
                begun = self._begin(waiter, snapshot, read_only)
            yield begun[1:]
        except BaseException as exc:
            if begun is not None:
                _, transaction, runner = begun
                runner.end()
                runner.check_process()
                with runner.watched():
                    transaction.abandon(exc)
            raise
        finally:
            if begun is not None:
                place, _, runner = begun
                try:
                    if generation != process_fork.generation():
                        process_fork.keep(place)
                    else:
                        if runner.lost:
                            self._connections.note_loss(place.connection, runner.lost)
                        if runner.demoted:
                            self._connections.leave_server()
                        if runner.given_up or runner.lost:
                            self._connections.forget(place.connection)
                        self._connections.put_away(place)
                finally:
                    slots.free.append(place)  # As in `_attempt`.
                    slots.wake()

    def _begin(self, waiter: Waiter, snapshot: bool, read_only: bool) -> tuple[Place, Transaction, BoundRunner]:
        # Nothing can have been done before it began, so that may be tried again on another connection.
        try:
            return self._begin_once(waiter, snapshot, read_only)
        except Retryable as again:
            failure = again
        for attempt, pause in enumerate(tries(waiter.until, self.waits), 2):
            tell_retry(BEGIN, failure.error, attempt=attempt, pause=pause)
            time.sleep(pause)
            try:
                return self._begin_once(waiter, snapshot, read_only)
            except Retryable as again:
                failure = again
        raise failure

    def _begin_once(self, waiter: Waiter, snapshot: bool, read_only: bool) -> tuple[Place, Transaction, BoundRunner]:
        until, slots = waiter.until, self._connections.slots
        place = self._connections.take(until)
        connection = place.connection
        try:  # From here on: Ctrl-C may come at the beginning of any function.
            transaction = Transaction(connection, self.dialect)
            runner = BoundRunner(
                connection,
                self.dialect,
                self.settings,
                timeout=self.waits.timeout,
                holds_reads=not snapshot,
                read_only=read_only,
                elsewhere=self._connections.elsewhere,
            )
            with runner.watched():
                transaction.begin(
                    snapshot=snapshot,
                    read_only=read_only,
                    until=min(until, time.monotonic() + self.waits.lock),
                    call=waiter,
                )
        except BaseException as exc:
            if isinstance(exc, Exception):
                self._connections.discard(connection, exc)
            self._connections.give_back(place, slots)
            if not isinstance(exc, Exception):
                raise
            raise_again(exc, until)
        return place, transaction, runner

    def run_batch(self, work: Callable[[Link], None], until: float) -> None:
        """Run *work* for several callers at once: one statement on PostgreSQL, one transaction on SQLite.

        It is tried once, *until* then on the monotonic clock. A driver's error comes out as it is, since it is nobody's
        in particular.
        """
        if self.dialect.name == "postgresql":
            with self._connections.connected(until) as connection, self._watched(connection, until):
                if local_timeouts(connection):
                    self._in_transaction(connection, work, until)
                else:
                    work(Link(connection, self.dialect, self.settings))
            return
        with self._writing(until):
            ticket: Ticket = ANY_TIME
            try:
                # Before the connection, as everywhere: one of few may be with somebody who waits here.
                ticket = self._fair_lock.enter()
                with self._connections.connected(until) as connection, self._watched(connection, until):
                    self._in_transaction(connection, work, until, ticket)
            finally:
                ticket.leave()

    def _in_transaction(
        self, connection: Connected, work: Callable[[Link], None], until: float, ticket: Ticket = ANY_TIME
    ) -> None:
        transaction = Transaction(connection, self.dialect)
        transaction.begin(until=min(until, time.monotonic() + self.waits.lock))
        try:
            work(Link(connection, self.dialect, self.settings, in_transaction=True))
            ticket.leave()
            transaction.commit()
        except BaseException as exc:
            transaction.abandon(exc)
            raise

    def _attempt(self, call: Call) -> Any:
        # Written out instead of nested context managers: this is the way of every operation.
        if time.monotonic() >= call.ends_at:
            raise out_of_time()
        writer = None if call.mode is Mode.READ else self._writer
        place = None if writer is None else writer.enter(call.waits_until(self.waits.lock))
        if writer is not None and place is None:
            raise writer_timeout()
        ticket: Ticket = ANY_TIME
        try:
            ticket = self._fair_lock.enter()
            slots = self._connections.slots
            taken = self._connections.take(call.ends_at)
            connection = taken.connection
            given_up = False
            try:
                watch = call.watch = Watch(driver_of(connection), call.ends_at)
                try:
                    watchdog.begin(watch)
                    if call.given_up:  # Its caller has left while it waited.
                        raise out_of_time()
                    until = call.ends_at if writer is None else call.waits_until(self.waits.lock)
                    return perform(connection, call, self.dialect, self.settings, ticket, until)
                finally:
                    watchdog.watches.discard(watch)  # First, as a step of C: a signal handler may raise behind it.
                    call.watch = None
                    given_up = watchdog.end(watch) and self._writer is None
            except StateStoreError:
                raise
            except Exception as exc:
                self._connections.discard(connection, exc)
                raise_for(exc, call, elsewhere=self._connections.elsewhere)
            finally:
                try:
                    if given_up:
                        self._connections.forget(connection)
                    self._connections.put_away(taken)
                finally:
                    slots.free.append(taken)  # One step of C, before which no signal handler can raise.
                    if slots.queue:
                        slots.wake()
        finally:
            try:
                ticket.leave()
            finally:  # Ctrl-C may come here, too.
                if writer is not None and place is not None:
                    try:
                        writer.leave(place)
                    except BaseException:
                        writer.leave(place)
                        raise

    @contextmanager
    def _watched(self, connection: Connected, until: float) -> Iterator[None]:
        watch = Watch(driver_of(connection), until)
        try:
            try:
                watchdog.begin(watch)
                yield
            finally:
                watchdog.watches.discard(watch)
                watchdog.end(watch)
        except Exception as exc:
            self._connections.discard(connection, exc)
            raise
        finally:
            if watch.fired and self._writer is None:
                self._connections.forget(connection)

    @contextmanager
    def _writing(self, until: float) -> Iterator[None]:
        writer = self._writer
        if writer is None:
            yield
            return
        place = writer.enter(min(until, time.monotonic() + self.waits.lock))
        if place is None:
            raise writer_timeout()
        try:
            yield
        finally:
            try:
                writer.leave(place)
            except BaseException:  # As in `_attempt`.
                writer.leave(place)
                raise
