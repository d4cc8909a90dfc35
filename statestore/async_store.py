"""`AsyncStateStore`: the operations of `StateStore`, awaited."""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from types import TracebackType
from typing import Self, TypeVar

from sqlalchemy import URL
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from statestore.checking import codec, exactjson
from statestore.engine import engines, execution
from statestore.engine.async_database import AsyncDatabase, AsyncRunner
from statestore.engine.database import Database
from statestore.engine.engine_database import EngineDatabase, EngineRunner
from statestore.engine.engines import Durability
from statestore.engine.entering import entering
from statestore.engine.sql import Clock
from statestore.engine.telemetry import Hook
from statestore.engine.threaded_database import ThreadedDatabase
from statestore.engine.waits import pauses
from statestore.errors import InvalidValueError, StoreClosedError, UnavailableError
from statestore.operations.base import AsyncGroup
from statestore.operations.cache import AsyncCache
from statestore.operations.cache_runner import cache_transaction, joined_cache
from statestore.operations.history import AsyncHistory
from statestore.operations.prices import AsyncPrices
from statestore.operations.sessions import AsyncSessions
from statestore.operations.state import AsyncState
from statestore.operations.store import StoreOperations
from statestore.operations.sweeping import Sweeping
from statestore.operations.usage import AsyncUsageReports
from statestore.options import Verify, connections_of, make_options, make_settings, waits_of
from statestore.repositories.cache.limits import CacheState
from statestore.repositories.cache.options import CacheOptions
from statestore.repositories.history import notify
from statestore.schema import DEFAULT_SCHEMA
from statestore.values.markers import NeverType

R = TypeVar("R")


class AsyncTransaction(StoreOperations, AsyncGroup):
    """As `Transaction`, awaited."""

    def __init__(self, runner: AsyncRunner, namespace: str, cache: CacheState) -> None:
        super().__init__(runner, namespace)
        self.sessions = AsyncSessions(runner, namespace)
        self.history = AsyncHistory(runner, namespace)
        self.state = AsyncState(runner, namespace)
        self.cache = AsyncCache(runner, namespace, cache)
        self.usage = AsyncUsageReports(runner, namespace)
        self.prices = AsyncPrices(runner, namespace)


class AsyncStateStore(AsyncTransaction, Sweeping):
    """As `StateStore`, awaited. Safe to share between the tasks of one event loop."""

    _database: AsyncDatabase

    def __init__(
        self,
        engine: AsyncEngine,
        *,
        namespace: str = "default",
        clock: Clock | None = None,
        durability: Durability = "full",
        schema: str = DEFAULT_SCHEMA,
        max_value_bytes: int = exactjson.MAX_BYTES,
        cache_max_entries: int | None = 1000,
        cache_max_bytes: int | None = None,
        cache_default_ttl: timedelta | NeverType = timedelta(hours=1),
        cache_compress_above: int = codec.COMPRESS_ABOVE,
        content_hash_invalidation: bool = True,
        timeout: float | timedelta = 30,
        retry_for: float | timedelta = 15,
        slow_call: float | timedelta | None = None,
    ) -> None:
        """Use *engine*. See `StateStore`."""
        if not isinstance(engine, AsyncEngine):
            raise InvalidValueError(
                "engine", f"must be an AsyncEngine, not {type(engine).__name__}; AsyncStateStore.open takes a URL"
            )
        cache = CacheOptions(
            max_entries=cache_max_entries,
            max_bytes=cache_max_bytes,
            default_ttl=cache_default_ttl,
            compress_above=cache_compress_above,
            content_hash_invalidation=content_hash_invalidation,
        )
        settings = make_settings(namespace, clock, max_value_bytes, cache)
        dialect = engines.dialect_of(engine.sync_engine, schema, server_time=clock is None)
        options = make_options(
            schema=schema, durability=durability, timeout=timeout, retry_for=retry_for, slow_call=slow_call
        )
        verify = Verify(dialect, options, owned=False)
        self._start(EngineDatabase(engine, dialect, settings, verify=verify, waits=waits_of(options)))

    def _start(self, database: AsyncDatabase) -> None:
        self._database = database
        self._cache_state = CacheState(
            database.settings.of(CacheOptions), max_value_bytes=database.settings.max_value_bytes
        )
        super().__init__(database, database.settings.namespace, self._cache_state)

    @classmethod
    @entering
    async def open(
        cls,
        url: str | URL | os.PathLike[str] | None = None,
        *,
        namespace: str = "default",
        clock: Clock | None = None,
        durability: Durability = "full",
        schema: str = DEFAULT_SCHEMA,
        max_value_bytes: int = exactjson.MAX_BYTES,
        cache_max_entries: int | None = 1000,
        cache_max_bytes: int | None = None,
        cache_default_ttl: timedelta | NeverType = timedelta(hours=1),
        cache_compress_above: int = codec.COMPRESS_ABOVE,
        content_hash_invalidation: bool = True,
        pool_size: int = 10,
        pool_timeout: timedelta = timedelta(seconds=30),
        lock_timeout: timedelta | None = None,
        statement_timeout: timedelta | None = None,
        prepared_statements: bool | None = None,
        timeout: float | timedelta = 30,
        retry_for: float | timedelta = 15,
        slow_call: float | timedelta | None = None,
    ) -> Self:
        """Connect to a database: `store = await AsyncStateStore.open(…)`. See `StateStore.open`.

        Entered without being awaited, `async with AsyncStateStore.open(…) as store:`, it does the same.
        """
        cache = CacheOptions(
            max_entries=cache_max_entries,
            max_bytes=cache_max_bytes,
            default_ttl=cache_default_ttl,
            compress_above=cache_compress_above,
            content_hash_invalidation=content_hash_invalidation,
        )
        settings = make_settings(namespace, clock, max_value_bytes, cache)
        options = make_options(
            schema=schema,
            durability=durability,
            pool_size=pool_size,
            pool_timeout=pool_timeout,
            lock_timeout=lock_timeout,
            statement_timeout=statement_timeout,
            prepared_statements=prepared_statements,
            timeout=timeout,
            retry_for=retry_for,
            slow_call=slow_call,
        )
        parsed = engines.parse(url)
        store = cls.__new__(cls)
        engine = engines.make(parsed, options)
        dialect = engines.dialect_of(engine, schema, server_time=clock is None)
        connections = connections_of(engine, dialect, options, owned=True)
        sync = Database(connections, dialect, settings, waits_of(options), notify.STATEMENTS)
        # One thread serves SQLite best: more of them only wait for each other.
        threads = 1 if dialect.name == "sqlite" else pool_size
        store._start(ThreadedDatabase(sync, threads=threads, one_connection=engines.is_memory(parsed)))
        try:
            await store._database.verify()
        except BaseException:
            await asyncio.shield(store.close())
            raise
        return store

    @classmethod
    async def join(
        cls,
        connection: AsyncConnection,
        *,
        namespace: str = "default",
        clock: Clock | None = None,
        schema: str = DEFAULT_SCHEMA,
        max_value_bytes: int = exactjson.MAX_BYTES,
        cache_max_entries: int | None = 1000,
        cache_max_bytes: int | None = None,
        cache_default_ttl: timedelta | NeverType = timedelta(hours=1),
        cache_compress_above: int = codec.COMPRESS_ABOVE,
        content_hash_invalidation: bool = True,
    ) -> AsyncTransaction:
        """The operations inside the caller's own transaction. See `StateStore.join`."""
        if not isinstance(connection, AsyncConnection):
            raise InvalidValueError("connection", f"must be an AsyncConnection, not {type(connection).__name__}")
        cache = CacheOptions(
            max_entries=cache_max_entries,
            max_bytes=cache_max_bytes,
            default_ttl=cache_default_ttl,
            compress_above=cache_compress_above,
            content_hash_invalidation=content_hash_invalidation,
        )
        settings = make_settings(namespace, clock, max_value_bytes, cache)
        dialect = engines.dialect_of(connection.engine.sync_engine, schema, server_time=clock is None)
        bound = await connection.run_sync(execution.join, dialect, settings)
        state = await connection.run_sync(joined_cache, bound, settings)
        return AsyncTransaction(EngineRunner(connection, bound), settings.namespace, state)

    @property
    def namespace(self) -> str:
        return self._database.settings.namespace

    @asynccontextmanager
    async def transaction(self, *, read_only: bool = False) -> AsyncIterator[AsyncTransaction]:
        """Several operations, one commit. See `StateStore.transaction`."""
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
        """Run *work* in a transaction, and again where the database undid it. See `StateStore.run_transaction`."""
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
        """Close the connections, also if cancelled meanwhile. See `StateStore.close`."""
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
