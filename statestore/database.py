"""Where operations meet the database: connections, transactions, retries and errors. Sync and async part ways here.

Everything that is decided about an operation is decided in blocking style, in `perform` and `Transaction`, on a
SQLAlchemy connection. `Database` calls them directly; `AsyncDatabase` calls them through `AsyncConnection.run_sync`,
where the same blocking calls await underneath. What differs is only how a connection is got, and how one waits.
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, nullcontext
from datetime import timedelta
from typing import Any, Protocol

import stamina
from sqlalchemy import Connection, Engine
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from statestore.driver_errors import understand
from statestore.errors import StateStoreError, StoreClosedError, UnavailableError
from statestore.execution import (
    Again,
    BoundRunner,
    Sent,
    Transaction,
    no_retry,
    perform,
    raise_for,
    translated,
    understood,
)
from statestore.repositories.base import Call, Mode
from statestore.sql import Dialect, Settings

Verify = Callable[[Connection], None]

_ATTEMPTS = 6
_RETRY_TIMEOUT = timedelta(seconds=20)
_RETRY_WAIT = timedelta(milliseconds=20)
_WRITER_TIMEOUT = timedelta(seconds=30)


class Runner(Protocol):
    """Runs a call, at once."""

    def run(self, call: Call) -> Any: ...


class AsyncRunner(Protocol):
    """Runs a call, when awaited."""

    async def run(self, call: Call) -> Any: ...


_RETRY: Any = {
    "on": Again,
    "attempts": _ATTEMPTS,
    "timeout": _RETRY_TIMEOUT,
    "wait_initial": _RETRY_WAIT,
    "wait_jitter": _RETRY_WAIT,
}


class Database:
    """Runs operations on a sync engine, each in a transaction of its own, and again where that may help."""

    def __init__(
        self,
        engine: Engine,
        dialect: Dialect,
        settings: Settings,
        *,
        owned: bool,
        verify: Verify,
    ) -> None:
        self.engine = engine if owned else engine.execution_options(isolation_level="AUTOCOMMIT")
        self.dialect = dialect
        self.settings = settings
        self._owned = owned
        self._verify = verify
        self._verified = False
        self._closed = False
        # SQLite lets one writer in at a time. Waiting here is fair, and wakes up at once; its own busy handler polls.
        self._writer = threading.Lock() if dialect.name == "sqlite" else None

    def run(self, call: Call) -> Any:
        try:
            return self._attempt(call)
        except Again:
            pass
        try:
            for attempt in stamina.retry_context(**_RETRY):
                with attempt:
                    call.attempt += 1
                    return self._attempt(call)
        except Again as again:
            raise again.error from None
        raise AssertionError("unreachable")

    @contextmanager
    def transaction(self) -> Iterator["BoundRunner"]:
        """One transaction for all that is run through the runner; committed at the end, undone on an exception."""
        with no_retry(), self._writing(), self._connect() as connection:
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

    def verify(self) -> None:
        """Connect, and check the tables."""
        with no_retry(), translated(), self._writing(), self._connect():
            pass

    @property
    def closed(self) -> bool:
        return self._closed

    def close(self) -> None:
        self._closed = True
        if self._owned:
            self.engine.dispose()

    def _attempt(self, call: Call) -> Any:
        sent = Sent()
        with self._writing(call), self._connect() as connection:
            try:
                return perform(connection, call, self.dialect, self.settings, sent)
            except StateStoreError:
                raise
            except Exception as exc:
                self._discard(connection, exc)
                raise_for(exc, call, sent)

    @contextmanager
    def _connect(self) -> Iterator[Connection]:
        if self._closed:
            raise StoreClosedError("the store is closed; open another")
        try:
            connection = self.engine.connect()
        except Exception as exc:
            failure = understood(exc)
            raise (Again(failure.error) if failure.lost else failure.error) from None
        with connection:
            if not self._verified:
                self._verify(connection)
                self._verified = True
            yield connection

    @contextmanager
    def _writing(self, call: Call | None = None) -> Iterator[None]:
        if self._writer is None or (call is not None and call.mode is Mode.READ):
            yield
            return
        if not self._writer.acquire(timeout=_WRITER_TIMEOUT.total_seconds()):
            raise _writer_timeout()
        try:
            yield
        finally:
            self._writer.release()

    def _discard(self, connection: Connection, exc: Exception) -> None:
        failure = understand(exc)
        if failure is not None and failure.lost:
            connection.invalidate()
            if self._owned:
                # Whatever ended this connection, a restart most likely, has ended its idle neighbours as well.
                self.engine.dispose(close=False)


class AsyncDatabase:
    """Runs operations on an async engine. The same as `Database`, awaited."""

    def __init__(
        self,
        engine: AsyncEngine,
        dialect: Dialect,
        settings: Settings,
        *,
        owned: bool,
        verify: Verify,
    ) -> None:
        self.engine = engine if owned else engine.execution_options(isolation_level="AUTOCOMMIT")
        self.dialect = dialect
        self.settings = settings
        self._owned = owned
        self._verify = verify
        self._verified = False
        self._closed = False
        self._writer = asyncio.Lock() if dialect.name == "sqlite" else None

    async def run(self, call: Call) -> Any:
        try:
            return await self._attempt(call)
        except Again:
            pass
        try:
            async for attempt in stamina.retry_context(**_RETRY):
                with attempt:
                    call.attempt += 1
                    return await self._attempt(call)
        except Again as again:
            raise again.error from None
        raise AssertionError("unreachable")

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator["AsyncBoundRunner"]:
        """As `Database.transaction`."""
        with no_retry():
            async with self._writing(), self._connect() as connection, self._transaction(connection) as runner:
                yield runner

    @asynccontextmanager
    async def _transaction(self, connection: AsyncConnection) -> AsyncIterator["AsyncBoundRunner"]:
        transaction = Transaction(_sync(connection), self.dialect)
        with translated():
            await connection.run_sync(lambda _: transaction.begin())
        runner = AsyncBoundRunner(connection, BoundRunner(_sync(connection), self.dialect, self.settings))
        try:
            yield runner
            runner.bound.finish()
            with translated(committing=True):
                await connection.run_sync(lambda _: transaction.commit())
        except BaseException as exc:
            cause = exc
            runner.bound.end()
            await _finished(connection.run_sync(lambda _: transaction.abandon(cause)))
            raise

    async def verify(self) -> None:
        """Connect, and check the tables."""
        with no_retry(), translated():
            async with self._writing(), self._connect():
                pass

    @property
    def closed(self) -> bool:
        return self._closed

    async def close(self) -> None:
        self._closed = True
        if self._owned:
            await self.engine.dispose()

    async def _attempt(self, call: Call) -> Any:
        sent = Sent()
        async with self._writing(call), self._connect() as connection:
            try:
                work = connection.run_sync(perform, call, self.dialect, self.settings, sent)
                # A statement that runs in aiosqlite's thread cannot be called back: wait for it, then be cancelled.
                return await (_finished(work) if self.dialect.name == "sqlite" else work)
            except StateStoreError:
                raise
            except Exception as exc:
                await self._discard(connection, exc)
                raise_for(exc, call, sent)

    @asynccontextmanager
    async def _connect(self) -> AsyncIterator[AsyncConnection]:
        if self._closed:
            raise StoreClosedError("the store is closed; open another")
        try:
            connection = await self.engine.connect()
        except Exception as exc:
            failure = understood(exc)
            raise (Again(failure.error) if failure.lost else failure.error) from None
        try:
            if not self._verified:
                await connection.run_sync(self._verify)
                self._verified = True
            yield connection
        finally:
            # To its end, also when cancelled: a connection that stays out is lost to the pool.
            await _finished(connection.close())

    def _writing(self, call: Call | None = None) -> AbstractAsyncContextManager[None]:
        if self._writer is None or (call is not None and call.mode is Mode.READ):
            return nullcontext()
        return _turn(self._writer)

    async def _discard(self, connection: AsyncConnection, exc: Exception) -> None:
        failure = understand(exc)
        if failure is not None and failure.lost:
            await connection.invalidate()
            if self._owned:
                await self.engine.dispose(close=False)


class AsyncBoundRunner:
    """As `BoundRunner`, awaited."""

    def __init__(self, connection: AsyncConnection, bound: BoundRunner) -> None:
        self._connection = connection
        self.bound = bound

    async def run(self, call: Call) -> Any:
        return await self._connection.run_sync(lambda _: self.bound.run(call))


@asynccontextmanager
async def _turn(lock: asyncio.Lock) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(_WRITER_TIMEOUT.total_seconds()):
            await lock.acquire()
    except TimeoutError:
        raise _writer_timeout() from None
    try:
        yield
    finally:
        lock.release()


def _writer_timeout() -> UnavailableError:
    return UnavailableError(
        "another transaction of this store held SQLite's only writer for too long; end it first, "
        "and do not call the store from within it but through what transaction() gave you"
    )


def _sync(connection: AsyncConnection) -> Connection:
    sync = connection.sync_connection
    assert sync is not None
    return sync


async def _finished(work: Any) -> Any:
    """Await *work* to its end, even if cancelled meanwhile; the cancellation is then passed on."""
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as exc:
            cancelled = exc
    if cancelled is not None:
        task.exception() if not task.cancelled() else None
        raise cancelled
    return task.result()
