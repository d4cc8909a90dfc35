"""Operations of an event loop on the caller's own `AsyncEngine`."""

import asyncio
import math
import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, nullcontext, suppress
from functools import partial
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.pool import StaticPool

from statestore.engine import hosts, process_fork
from statestore.engine.async_database import AsyncRunner, abandon, finished, forked, give_up, locked, unseen
from statestore.engine.calls import Call, Mode
from statestore.engine.connections import Verify
from statestore.engine.driver_errors import (
    Retryable,
    classify,
    classify_or_raise,
    final_error,
    raise_again,
    raise_alone,
    raise_for,
)
from statestore.engine.execution import Borrowed, BoundRunner, Transaction, no_retry, perform, translated
from statestore.engine.orphans import BACKEND, Orphans
from statestore.engine.sql import Dialect, Settings
from statestore.engine.telemetry import BEGIN, LossLog, Telemetry, tell_retry
from statestore.engine.waits import GRACE, Waits, ends_at, out_of_time, tries
from statestore.engine.watchdog import Watch, cut, driver_of, watchdog
from statestore.engine.workers import until_done
from statestore.errors import StateStoreError, StoreClosedError


class EngineDatabase:
    """Runs operations on the caller's own `AsyncEngine`."""

    def __init__(
        self, engine: AsyncEngine, dialect: Dialect, settings: Settings, *, verify: Verify, waits: Waits
    ) -> None:
        self.engine = engine.execution_options(isolation_level="AUTOCOMMIT")
        self.dialect = dialect
        self._waits = waits
        self._settings = settings
        self.telemetry = Telemetry(settings.namespace, waits.slow_call)
        self._loss_log = LossLog()
        self._orphans = Orphans()
        self._verify = verify
        self._verified = False
        self._closed = False
        self._generation = process_fork.generation()
        self._writer = asyncio.Lock() if dialect.name == "sqlite" else None

    @property
    def settings(self) -> Settings:
        return self._settings

    @property
    def waits(self) -> Waits:
        return self._waits

    @property
    def url(self) -> str:
        return hosts.shown(self.engine.url)

    @property
    def closed(self) -> bool:
        return self._closed

    async def run(self, call: Call) -> Any:
        if self.telemetry.watchers:
            with self.telemetry.watching(call) as outcome:
                outcome.result = await self._run(call)
            return outcome.result
        return await self._run(call)

    async def _run(self, call: Call) -> Any:
        call.ends_at = ends_at(self._waits.timeout)
        try:
            return await self._run_tries(call)
        except StateStoreError as error:
            if not call.unsettled:
                raise
            unknown = final_error(error)
        raise unknown

    async def _run_tries(self, call: Call) -> Any:
        try:
            return await self._attempt(call)
        except Retryable as again:
            error = again.error
        if call.patience is not None:
            raise error
        for pause in tries(call.ends_at, self._waits):
            call.attempt += 1
            tell_retry(call.name, error, attempt=call.attempt, pause=pause)
            await asyncio.sleep(pause)
            try:
                return await self._attempt(call)
            except Retryable as again:
                error = again.error
        raise error

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncRunner]:
        """As `Database.transaction`."""
        until = ends_at(self._waits.timeout)
        async with self._writing(until), self._begun(until) as (connection, transaction, bound):
            yield EngineRunner(connection, bound)
            bound.check_process()
            bound.finish()
            with translated(committing=bound), bound.watched():
                await finished(connection.run_sync(lambda _: transaction.commit()), hurry=bound.hurry)

    @asynccontextmanager
    async def snapshot(self, *, read_only: bool = False) -> AsyncIterator[AsyncRunner]:
        """As `Database.snapshot`."""
        until = ends_at(self._waits.timeout)
        # If all share one connection, nobody may begin a transaction within this one.
        alone = self._writing(until) if isinstance(self.engine.pool, StaticPool) else nullcontext()
        async with alone, self._begun(until, snapshot=True, read_only=read_only) as (connection, transaction, bound):
            yield EngineRunner(connection, bound)
            bound.check_process()
            bound.end()
            with translated(), bound.watched():
                await finished(connection.run_sync(lambda _: transaction.commit()), hurry=bound.hurry)

    @asynccontextmanager
    async def _begun(
        self, until: float, *, snapshot: bool = False, read_only: bool = False
    ) -> AsyncIterator[tuple[AsyncConnection, Transaction, BoundRunner]]:
        with no_retry():
            stack, connection, transaction, bound = await self._begin(until, snapshot, read_only)
        async with stack:
            try:
                yield connection, transaction, bound
            except BaseException as exc:
                cause = exc
                bound.end()
                bound.check_process()
                with bound.watched():
                    await finished(connection.run_sync(lambda _: transaction.abandon(cause)), hurry=bound.hurry)
                raise
            finally:
                if bound.lost:
                    self._loss_log.note(bound.lost)
                if bound.given_up or bound.lost:
                    await self._forget(connection)

    async def _begin(
        self, until: float, snapshot: bool, read_only: bool
    ) -> tuple[AsyncExitStack, AsyncConnection, Transaction, BoundRunner]:
        # As `Database._begin`.
        try:
            return await self._begin_once(until, snapshot, read_only)
        except Retryable as again:
            failure = again
        for attempt, pause in enumerate(tries(until, self._waits), 2):
            tell_retry(BEGIN, failure.error, attempt=attempt, pause=pause)
            await asyncio.sleep(pause)
            try:
                return await self._begin_once(until, snapshot, read_only)
            except Retryable as again:
                failure = again
        raise failure

    async def _begin_once(
        self, until: float, snapshot: bool, read_only: bool
    ) -> tuple[AsyncExitStack, AsyncConnection, Transaction, BoundRunner]:
        async with AsyncExitStack() as stack:
            connection = await stack.enter_async_context(self._connect(until))
            borrowed = await finished(connection.run_sync(Borrowed), hurry=partial(_cut, connection))
            transaction = Transaction(borrowed, self.dialect)
            bound = BoundRunner(
                borrowed,
                self.dialect,
                self._settings,
                timeout=self._waits.timeout,
                holds_reads=not snapshot,
                read_only=read_only,
                elsewhere=hosts.several(self.engine.url),
            )
            lock_until = min(until, time.monotonic() + self._waits.lock)
            try:
                with bound.watched():

                    def begin(_: Connection) -> None:
                        if self._orphans:
                            self._orphans.end(borrowed, until)
                        transaction.begin(snapshot=snapshot, read_only=read_only, until=lock_until)

                    beginning = connection.run_sync(begin)
                    await finished(beginning, hurry=bound.hurry)
            except Exception as exc:
                failure = classify(exc)
                if failure is not None and failure.lost:
                    self._loss_log.note(failure.error)
                    await connection.invalidate()
                raise_again(exc, until)
            except asyncio.CancelledError:
                if bound.given_up:
                    await connection.invalidate()
                raise
            return stack.pop_all(), connection, transaction, bound
        raise AssertionError("unreachable")

    async def verify(self) -> None:
        with no_retry(), translated():
            async with self._connect(ends_at(self._waits.timeout)):
                pass

    async def close(self) -> None:
        self._closed = True

    async def _attempt(self, call: Call) -> Any:
        async with self._writing(call.waits_until(math.inf), call), self._connect(call.ends_at) as connection:
            assert connection.sync_connection is not None
            driver = driver_of(connection.sync_connection.connection)
            watch = call.watch = Watch(driver, call.ends_at)
            until = call.waits_until(self._waits.lock)
            try:
                try:
                    watchdog.begin(watch)
                    work = connection.run_sync(lambda sync: self._perform(Borrowed(sync), call, until))
                    # Not cancelled in the middle: psycopg would wait for the server then, for as long as it takes.
                    return await finished(work, hurry=partial(give_up, call))
                finally:
                    watchdog.watches.discard(watch)
                    call.watch = None
                    watchdog.end(watch)
            except StateStoreError:
                raise
            except Exception as exc:
                failure = classify(exc)
                if failure is not None and failure.lost:
                    self._loss_log.note(failure.error)
                if failure is not None and (failure.lost or failure.demoted):
                    await self._forget(connection)
                raise_for(exc, call, elsewhere=hosts.several(self.engine.url))
            finally:
                if watch.fired and self.dialect.name == "postgresql":
                    await self._forget(connection)

    def _perform(self, connection: Borrowed, call: Call, until: float) -> Any:
        if self._orphans:
            self._orphans.end(connection, call.ends_at)
        return perform(connection, call, self.dialect, self._settings, until=until)

    async def _forget(self, connection: AsyncConnection) -> None:
        sync = connection.sync_connection
        if sync is not None and not sync.closed and not sync.invalidated:
            self._orphans.note(sync.connection.info.get(BACKEND))
        await connection.invalidate()

    @asynccontextmanager
    async def _connect(self, until: float) -> AsyncIterator[AsyncConnection]:
        if self._generation != process_fork.generation():
            raise forked()
        if self._closed:
            raise StoreClosedError("the store is closed; open another")
        try:
            async with asyncio.timeout(None if until == math.inf else max(0.0, until - time.monotonic())):
                connection = await self._checked_out()
        except TimeoutError:
            raise_alone(out_of_time())
        except Exception as exc:
            failure = classify_or_raise(exc)
            raise_alone(Retryable(failure.error) if failure.lost and self._verified else failure.error)
        try:
            if not self._verified:
                await connection.run_sync(self._verify)
                self._verified = True
            yield connection
        finally:
            # To its end, also when cancelled: a connection that stays out is lost to the pool.
            await finished(connection.close())

    async def _checked_out(self) -> AsyncConnection:
        # Cancelled while a driver opens it, SQLAlchemy would lose the connection: it stays counted as taken.
        connecting = unseen(_connected(self.engine))
        try:
            return await asyncio.shield(connecting)
        except asyncio.CancelledError:
            giving_back = unseen(_close_when_open(connecting))
            # Opening takes milliseconds; waiting for a place in the pool may take longer than a cancelled task should.
            await until_done(giving_back, GRACE)
            abandon(giving_back)
            raise

    def _writing(self, until: float, call: Call | None = None) -> AbstractAsyncContextManager[None]:
        if self._writer is None or (call is not None and call.mode is Mode.READ):
            return nullcontext()
        return locked(self._writer, until)


class EngineRunner:
    """A `BoundRunner`, on an `AsyncConnection`."""

    def __init__(self, connection: AsyncConnection, bound: BoundRunner) -> None:
        self._connection = connection
        self._bound = bound
        self._one_at_a_time = asyncio.Lock()

    async def run(self, call: Call) -> Any:
        self._bound.check_process()
        async with self._one_at_a_time:
            work = self._connection.run_sync(lambda _: self._bound.run(call))
            return await finished(work, hurry=partial(give_up, call))


def _cut(connection: AsyncConnection) -> None:
    if connection.sync_connection is not None and connection.dialect.name == "postgresql":
        cut(driver_of(connection.sync_connection.connection))


async def _connected(engine: AsyncEngine) -> AsyncConnection:
    return await engine.connect()


async def _close_when_open(connecting: "asyncio.Future[AsyncConnection]") -> None:
    with suppress(Exception):
        await (await connecting).close()
