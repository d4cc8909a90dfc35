"""Where operations meet the database, for event loops. The decisions are those of `execution`; here is the waiting.

Engines of our own run in worker threads over a `Database`: measured, a thread's hand-over costs less than SQLAlchemy's
asyncio bridge with the async driver underneath, on SQLite by a factor of four. An `AsyncEngine` of the caller's is
used as it is, through `run_sync`.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager, nullcontext, suppress
from functools import partial
from typing import Any, Protocol

import stamina
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.pool import StaticPool

from statestore import group_calls
from statestore.database import RETRY, Database, Verify, writer_patience, writer_timeout
from statestore.driver_errors import understand
from statestore.errors import StateStoreError, StoreClosedError
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
from statestore.grouping import PATIENCE, TaskGroups
from statestore.repositories import group_appending, group_reading
from statestore.repositories.base import Call, Mode
from statestore.sql import Dialect, Settings
from statestore.workers import Workers


class AsyncRunner(Protocol):
    """Runs a call, when awaited."""

    async def run(self, call: Call) -> Any: ...


class AsyncDatabase(AsyncRunner, Protocol):
    """What an `AsyncStateStore` runs on."""

    @property
    def settings(self) -> Settings: ...
    @property
    def closed(self) -> bool: ...
    @property
    def url(self) -> str: ...
    def transaction(self) -> AbstractAsyncContextManager[AsyncRunner]: ...
    def snapshot(self) -> AbstractAsyncContextManager[AsyncRunner]: ...
    async def verify(self) -> None: ...
    async def close(self) -> None: ...


class ThreadedDatabase:
    """Runs operations on a `Database`, in worker threads."""

    def __init__(self, database: Database, *, threads: int, one_connection: bool) -> None:
        self.database = database
        self._workers = Workers(threads, "statestore")
        # SQLite has one writer. Tasks take turns here, so that none of them blocks a thread that another one needs;
        # readers too, where the database is a single connection.
        self._turn = asyncio.Lock() if database.dialect.name == "sqlite" else None
        self._one_connection = one_connection
        # A transaction has its connection, and must not wait for a thread that waits for just that, or for its locks.
        self._steps = self._workers if self._turn else Workers(threads, "statestore-transaction")
        commit, read = partial(group_calls.commit, database), partial(group_calls.read, database)
        patience = None if self._turn else PATIENCE
        self._appends = TaskGroups(self._run, commit, self._workers, self._in_turn, to_the_end=True, patience=patience)
        self._reads = None if self._turn else TaskGroups(self._run, read, self._workers, nullcontext, to_the_end=False)

    @property
    def settings(self) -> Settings:
        return self.database.settings

    @property
    def url(self) -> str:
        return repr(self.database.engine.url)

    @property
    def closed(self) -> bool:
        return self.database.closed

    async def run(self, call: Call) -> Any:
        session_id = group_appending.session_of(call)
        if session_id is not None:
            return await self._appends.run(call, session_id)
        if self._reads is not None and group_reading.is_small(call, self.settings.forks):
            return await self._reads.run(call, call)
        return await self._run(call)

    async def _run(self, call: Call) -> Any:
        if self._turn is None or (call.mode is Mode.READ and not self._one_connection):
            call.interruptible = self.database.dialect.name == "postgresql"
            return await self._workers.run(self.database.run_alone, call, give_up=call.cancel)
        async with _taking_turn(self._turn, call):
            return await self._workers.run(self.database.run_alone, call)

    def _in_turn(self) -> AbstractAsyncContextManager[None]:
        return nullcontext() if self._turn is None else _taking_turn(self._turn)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncRunner]:
        """As `Database.transaction`."""
        async with self._in_turn(), self._inside(self.database.transaction()) as runner:
            yield runner

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[AsyncRunner]:
        """As `Database.snapshot`."""
        turn = self._in_turn() if self._one_connection else nullcontext()
        async with turn, self._inside(self.database.snapshot()) as runner:
            yield runner

    @asynccontextmanager
    async def _inside(self, context: AbstractContextManager[BoundRunner]) -> AsyncIterator[AsyncRunner]:
        entered: list[BoundRunner] = []
        try:
            await self._workers.run(lambda: entered.append(context.__enter__()))
            interruptible = self.database.dialect.name == "postgresql"
            yield ThreadedRunner(entered[0], self._steps, interruptible=interruptible)
        except BaseException as exc:
            if entered:
                await finished(self._steps.run(_leave, context, exc))
            raise
        else:
            # To its end, also when cancelled: a commit that was dropped would leave the transaction open.
            await finished(self._steps.run(context.__exit__, None, None, None))

    async def verify(self) -> None:
        await self._workers.run(self.database.verify)

    async def close(self) -> None:
        if not self.database.closed:
            await finished(self._workers.run(self.database.close))
            self._workers.close()
            self._steps.close()


class EngineDatabase:
    """Runs operations on an `AsyncEngine` of the caller's."""

    def __init__(self, engine: AsyncEngine, dialect: Dialect, settings: Settings, *, verify: Verify) -> None:
        self.engine = engine.execution_options(isolation_level="AUTOCOMMIT")
        self.dialect = dialect
        self._settings = settings
        self._verify = verify
        self._verified = False
        self._closed = False
        self._tasks: set[asyncio.Future[None]] = set()
        self._writer = asyncio.Lock() if dialect.name == "sqlite" else None

    @property
    def settings(self) -> Settings:
        return self._settings

    @property
    def url(self) -> str:
        return repr(self.engine.url)

    @property
    def closed(self) -> bool:
        return self._closed

    async def run(self, call: Call) -> Any:
        try:
            return await self._attempt(call)
        except Again as again:
            if call.patience is not None:
                raise again.error from None
        try:
            async for attempt in stamina.retry_context(**RETRY):
                with attempt:
                    call.attempt += 1
                    return await self._attempt(call)
        except Again as again:
            raise again.error from None
        raise AssertionError("unreachable")

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncRunner]:
        """As `Database.transaction`."""
        with no_retry():
            async with self._writing(), self._connect() as connection, self._transaction(connection) as runner:
                yield runner

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[AsyncRunner]:
        """As `Database.snapshot`."""
        # Where all share one connection, nobody may begin a transaction within this one.
        turn = self._writing() if isinstance(self.engine.pool, StaticPool) else nullcontext()
        with no_retry():
            async with turn, self._connect() as connection, self._transaction(connection, snapshot=True) as runner:
                yield runner

    @asynccontextmanager
    async def _transaction(self, connection: AsyncConnection, *, snapshot: bool = False) -> AsyncIterator[AsyncRunner]:
        borrowed = await connection.run_sync(Borrowed)
        transaction = Transaction(borrowed, self.dialect)
        with translated():
            await connection.run_sync(lambda _: transaction.begin(snapshot=snapshot))
        bound = BoundRunner(borrowed, self.dialect, self._settings, holds_reads=not snapshot)
        try:
            yield EngineRunner(connection, bound)
            bound.finish()
            with translated(committing=True):
                await connection.run_sync(lambda _: transaction.commit())
        except BaseException as exc:
            cause = exc
            bound.end()
            await finished(connection.run_sync(lambda _: transaction.abandon(cause)))
            raise

    async def verify(self) -> None:
        with no_retry(), translated():
            async with self._connect():
                pass

    async def close(self) -> None:
        self._closed = True

    async def _attempt(self, call: Call) -> Any:
        sent = Sent()
        async with self._writing(call), self._connect() as connection:
            try:
                work = connection.run_sync(
                    lambda sync: perform(Borrowed(sync), call, self.dialect, self._settings, sent)
                )
                # A statement that runs in aiosqlite's thread cannot be called back: wait for it, then be cancelled.
                return await (finished(work) if self.dialect.name == "sqlite" else work)
            except StateStoreError:
                raise
            except Exception as exc:
                failure = understand(exc)
                if failure is not None and failure.lost:
                    await connection.invalidate()
                raise_for(exc, call, sent)

    @asynccontextmanager
    async def _connect(self) -> AsyncIterator[AsyncConnection]:
        if self._closed:
            raise StoreClosedError("the store is closed; open another")
        try:
            connection = await self._checked_out()
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
            await finished(connection.close())

    async def _checked_out(self) -> AsyncConnection:
        # Cancelled while a driver opens it, SQLAlchemy would lose the connection: it stays counted as taken.
        connecting = asyncio.ensure_future(self.engine.connect())
        try:
            return await asyncio.shield(connecting)
        except asyncio.CancelledError:
            giving_back = asyncio.ensure_future(_close_when_open(connecting))
            self._tasks.add(giving_back)
            giving_back.add_done_callback(self._tasks.discard)
            # Opening takes milliseconds; waiting for a place in the pool may take longer than a cancelled task should.
            await finished(asyncio.wait([giving_back], timeout=0.5))
            raise

    def _writing(self, call: Call | None = None) -> AbstractAsyncContextManager[None]:
        if self._writer is None or (call is not None and call.mode is Mode.READ):
            return nullcontext()
        return _taking_turn(self._writer, call)


class ThreadedRunner:
    """A `BoundRunner`, in worker threads."""

    def __init__(self, bound: BoundRunner, workers: Workers, *, interruptible: bool) -> None:
        self._bound = bound
        self._workers = workers
        self._interruptible = interruptible

    async def run(self, call: Call) -> Any:
        call.interruptible = self._interruptible
        return await self._workers.run(self._bound.run, call, give_up=call.cancel)


class EngineRunner:
    """A `BoundRunner`, on an `AsyncConnection`."""

    def __init__(self, connection: AsyncConnection, bound: BoundRunner) -> None:
        self._connection = connection
        self._bound = bound

    async def run(self, call: Call) -> Any:
        return await self._connection.run_sync(lambda _: self._bound.run(call))


def _leave(context: Any, exc: BaseException) -> None:
    """End a transaction that failed; the failure itself is raised where it happened."""
    try:
        context.__exit__(type(exc), exc, exc.__traceback__)
    except BaseException as raised:
        if raised is not exc:
            raise


async def _close_when_open(connecting: "asyncio.Future[AsyncConnection]") -> None:
    with suppress(Exception):
        await (await connecting).close()


@asynccontextmanager
async def _taking_turn(lock: asyncio.Lock, call: Call | None = None) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(writer_patience(call)):
            await lock.acquire()
    except TimeoutError:
        raise writer_timeout() from None
    try:
        yield
    finally:
        lock.release()


async def finished(work: Any) -> Any:
    """Await *work* to its end, even if cancelled meanwhile; the cancellation is then passed on."""
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as exc:
            cancelled = exc
    if cancelled is not None:
        if not task.cancelled():
            task.exception()  # It is nobody's any more.
        raise cancelled
    return task.result()
