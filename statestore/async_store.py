"""`AsyncStateStore`: the operations of `StateStore`, awaited."""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Self, TypeVar, Unpack

from sqlalchemy import URL
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from statestore.checking import checks
from statestore.engine import engines
from statestore.engine.async_database import AsyncDatabase, AsyncRunner
from statestore.engine.engine_database import EngineDatabase, EngineRunner
from statestore.engine.flows import entering
from statestore.engine.telemetry import Hook
from statestore.engine.threaded_database import ThreadedDatabase
from statestore.engine.waits import pauses
from statestore.errors import InvalidValueError, StoreClosedError, UnavailableError
from statestore.operations.base import AsyncGroup
from statestore.operations.cache import AsyncCache
from statestore.operations.cache_runner import cache_transaction, joined_cache
from statestore.operations.history import AsyncHistory
from statestore.operations.sessions import AsyncSessions
from statestore.operations.state import AsyncAppState, AsyncLists, AsyncState, AsyncUserState
from statestore.operations.store import StoreOperations
from statestore.operations.sweeping import Sweeping
from statestore.operations.usage import AsyncPrices, AsyncUsageReports
from statestore.options import (
    EngineArguments,
    JoinArguments,
    OpenArguments,
    StoreOptions,
    Verify,
    database_of,
    takes,
    waits_of,
)
from statestore.repositories.cache.limits import CacheState
from statestore.repositories.cache.options import CacheOptions

R = TypeVar("R")


class AsyncTransaction(StoreOperations, AsyncGroup):
    """As `Transaction`, awaited."""

    def __init__(self, runner: AsyncRunner, namespace: str, cache: CacheState) -> None:
        super().__init__(runner, namespace)
        self.sessions = AsyncSessions(runner, namespace)
        self.history = AsyncHistory(runner, namespace)
        self.state = AsyncState(runner, namespace)
        self.lists = AsyncLists(runner, namespace)
        self.user_state = AsyncUserState(runner, namespace)
        self.app_state = AsyncAppState(runner, namespace)
        self.cache = AsyncCache(runner, namespace, cache)
        self.usage = AsyncUsageReports(runner, namespace)
        self.prices = AsyncPrices(runner, namespace)


class AsyncStateStore(AsyncTransaction, Sweeping):
    """As `StateStore`, awaited. Safe to share between the tasks of one event loop.

    When that has ended, as `asyncio.run` does, another one may go on with the store; while it runs, an operation in
    another raises `StoreClosedError`. (On the caller's own `AsyncEngine` that is up to its driver.)
    """

    _database: AsyncDatabase

    @takes(EngineArguments)
    def __init__(self, engine: AsyncEngine, **options: Unpack[EngineArguments]) -> None:
        """Use *engine*. See `StateStore`."""
        if not isinstance(engine, AsyncEngine):
            raise InvalidValueError(
                "engine",
                f"must be an AsyncEngine, not {type(engine).__name__}; AsyncStateStore.open takes a URL or a path",
            )
        checked = StoreOptions(**options)
        dialect = checked.dialect(engine.sync_engine)
        verify = Verify(dialect, checked.for_engine(), owned=False)
        waits = waits_of(checked.for_engine())
        self._start(EngineDatabase(engine, dialect, checked.settings(), verify=verify, waits=waits))

    def _start(self, database: AsyncDatabase) -> None:
        self._database = database
        self._cache_state = CacheState(
            database.settings.of(CacheOptions), max_value_bytes=database.settings.max_value_bytes
        )
        super().__init__(database, database.settings.namespace, self._cache_state)

    @classmethod
    @entering
    @takes(OpenArguments)
    async def open(cls, url: str | URL | os.PathLike[str] | None = None, **options: Unpack[OpenArguments]) -> Self:
        """Connect to a database: `store = await AsyncStateStore.open(…)`. See `StateStore.open`.

        It can also be entered without `await`: `async with AsyncStateStore.open(…) as store:`.
        """
        checked = StoreOptions(**options)
        sync = database_of(url, checked)
        # One thread serves SQLite best: more would only wait for each other.
        threads = 1 if sync.dialect.name == "sqlite" else checked.pool_size
        store = cls.__new__(cls)
        store._start(ThreadedDatabase(sync, threads=threads, one_connection=engines.is_memory(sync.engine.url)))
        try:
            await store._database.verify()
        except BaseException:
            await asyncio.shield(store.close())
            raise
        return store

    @classmethod
    @takes(JoinArguments)
    async def join(cls, connection: AsyncConnection, **options: Unpack[JoinArguments]) -> AsyncTransaction:
        """The operations inside the caller's own transaction. See `StateStore.join`."""
        if not isinstance(connection, AsyncConnection):
            raise InvalidValueError("connection", f"must be an AsyncConnection, not {type(connection).__name__}")
        checked = StoreOptions(**options)
        settings = checked.settings()
        bound = await connection.run_sync(checked.joined, settings)
        state = await connection.run_sync(joined_cache, bound, settings)
        return AsyncTransaction(EngineRunner(connection, bound), settings.namespace, state)

    @property
    def namespace(self) -> str:
        return self._database.settings.namespace

    @asynccontextmanager
    async def transaction(self, *, read_only: bool = False) -> AsyncIterator[AsyncTransaction]:
        """Several operations, one commit. See `StateStore.transaction`."""
        checks.flag(read_only, "read_only")
        with self._database.telemetry.transaction():
            async with self._transaction(read_only=read_only) as tx:
                yield tx

    @asynccontextmanager
    async def _transaction(self, *, read_only: bool = False) -> AsyncIterator[AsyncTransaction]:
        begin = self._database.snapshot(read_only=True) if read_only else self._database.transaction()
        with cache_transaction(self._cache_state) as cache:
            async with begin as runner:
                yield AsyncTransaction(self._database.telemetry.watched_async(runner), self.namespace, cache)

    async def run_transaction(self, work: Callable[[AsyncTransaction], Awaitable[R]]) -> R:
        """Run *work* in a transaction, and again if the database undid it. See `StateStore.run_transaction`."""
        if not callable(work):
            raise InvalidValueError("work", f"must be a coroutine function, not {type(work).__name__}")
        with self._database.telemetry.transaction() as outcome:
            for pause in pauses(self._database.waits):
                try:
                    async with self._transaction() as tx:
                        return await work(tx)
                except UnavailableError as error:
                    if pause is None or not error.retryable:
                        raise
                    outcome.tries_again(error, pause)
                    await asyncio.sleep(pause)
        raise AssertionError("unreachable")

    def on_operation(self, hook: Hook) -> Callable[[], None]:
        """Call *hook* after each operation of this store, on the event loop. See `StateStore.on_operation`."""
        return self._database.telemetry.subscribe(hook)

    async def close(self) -> None:
        """Close the connections, even if cancelled meanwhile. See `StateStore.close`."""
        try:
            if not self._database.closed:
                await self.cache.flush()
        finally:
            await self._database.close()

    async def __aenter__(self) -> Self:
        if self._database.closed:
            raise StoreClosedError("the store is closed; open another")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"<AsyncStateStore {self._database.url} namespace={self.namespace!r}>"
