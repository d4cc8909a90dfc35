"""`StateStore` and `AsyncStateStore`: the same operations, called or awaited."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from types import TracebackType
from typing import Self

from sqlalchemy import URL, Connection, Engine
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from statestore import codec, engines, exactjson, execution
from statestore.async_database import AsyncDatabase, AsyncRunner, EngineDatabase, EngineRunner, ThreadedDatabase
from statestore.cache_options import CacheOptions
from statestore.database import Database, Runner
from statestore.engines import Durability, Options
from statestore.errors import InvalidValueError, StoreClosedError
from statestore.opening import Verify, make_options, make_settings
from statestore.operations.cache import AsyncCache, Cache
from statestore.operations.cache_runner import cache_transaction, joined_cache
from statestore.operations.history import AsyncHistory, History
from statestore.operations.prices import AsyncPrices, Prices
from statestore.operations.sessions import AsyncSessions, Sessions
from statestore.operations.state import AsyncState, State
from statestore.operations.store import AsyncStoreOperations, StoreOperations
from statestore.operations.usage import AsyncUsage, Usage
from statestore.repositories.cache_state import CacheState
from statestore.schema import DEFAULT_SCHEMA
from statestore.sql import Clock, Settings
from statestore.sweeping import AsyncSweeping, Sweeping
from statestore.values import NeverType


class Transaction(StoreOperations):
    """The operations of a store inside one transaction. Use it only while the transaction lasts."""

    def __init__(self, runner: Runner, namespace: str, cache: CacheState) -> None:
        self._runner = runner
        self.sessions = Sessions(runner, namespace)
        self.history = History(runner, namespace)
        self.state = State(runner, namespace)
        self.cache = Cache(runner, namespace, cache)
        self.usage = Usage(runner, namespace)
        self.prices = Prices(runner, namespace)


class AsyncTransaction(AsyncStoreOperations):
    """As `Transaction`, awaited."""

    def __init__(self, runner: AsyncRunner, namespace: str, cache: CacheState) -> None:
        self._runner = runner
        self.sessions = AsyncSessions(runner, namespace)
        self.history = AsyncHistory(runner, namespace)
        self.state = AsyncState(runner, namespace)
        self.cache = AsyncCache(runner, namespace, cache)
        self.usage = AsyncUsage(runner, namespace)
        self.prices = AsyncPrices(runner, namespace)


class StateStore(Sweeping, Transaction):
    """Sessions, their history and their state, in a SQL database.

    Safe to share between threads. `StateStore.open(url)` connects; `StateStore(engine)` uses an engine of the caller's,
    which it does not close; `StateStore.join(connection)` works inside a transaction of the caller's.

    Every operation runs in a transaction of its own and is tried again on a deadlock, a lost connection or a busy
    database, as long as that cannot do its work twice. `transaction()` makes one of several.
    """

    _database: Database

    def __init__(
        self,
        engine: Engine,
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
    ) -> None:
        """Use *engine*. Its database must have the tables; see `statestore.migrate`.

        Arguments are those of `open`. A SQLite engine is checked at the first operation, and refused with
        `InvalidValueError` where its settings would lose data.
        """
        if not isinstance(engine, Engine):
            raise InvalidValueError("engine", f"must be an Engine, not {type(engine).__name__}")
        cache = CacheOptions(
            max_entries=cache_max_entries,
            max_bytes=cache_max_bytes,
            default_ttl=cache_default_ttl,
            compress_above=cache_compress_above,
            content_hash_invalidation=content_hash_invalidation,
        )
        settings = make_settings(namespace, clock, max_value_bytes, cache)
        self._start(engine, settings, Options(schema=schema, durability=durability))

    def _start(self, engine: Engine, settings: Settings, options: Options, *, owned: bool = False) -> None:
        dialect = engines.dialect_of(engine, options.schema, server_time=settings.clock is None)
        self._database = Database(engine, dialect, settings, owned=owned, verify=Verify(dialect, options, owned=owned))
        self._cache_state = CacheState(settings.cache, max_value_bytes=settings.max_value_bytes)
        super().__init__(self._database, settings.namespace, self._cache_state)

    @classmethod
    def open(
        cls,
        url: str | URL | None = None,
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
        prepared_statements: bool = True,
    ) -> Self:
        """Connect to a database.

        Args:
            url: `postgresql://user@host/database`, `sqlite:///relative/or//absolute/path`, or `sqlite://` for one in
                memory. Without it STATESTORE_URL, else `sqlite:///statestore.db`. A SQLite file that does not exist is
                made, readable by its owner alone, and so are the tables in it.
            namespace: Stores of different namespaces in one database see nothing of each other.
            clock: Returns the time, as an aware datetime. By default the database server's clock, for SQLite ours.
            durability: `normal` lets SQLite lose the latest commits when the power fails, and is faster. PostgreSQL
                follows its own settings.
            schema: The PostgreSQL schema of the tables.
            max_value_bytes: The largest content, state value, cached value or metadata, as JSON in UTF-8.
            cache_max_entries: How many entries the cache keeps, expired ones included; None for no limit. Alone, a
                store never exceeds it; several together may, until one of them counts again.
            cache_max_bytes: How large the cached values may be together, as they are stored; None for no limit.
            cache_default_ttl: How long an entry is kept that is set without a ttl; NEVER for no end.
            cache_compress_above: From how many bytes on a cached value is compressed.
            content_hash_invalidation: False makes `cache.invalidate_content_hash` do nothing.
            pool_size: How many connections at most.
            pool_timeout: How long to wait for one of them.
            lock_timeout: How long to wait for a lock. PostgreSQL: by default its own setting. SQLite: 10 seconds.
            statement_timeout: How long a statement on PostgreSQL may run; by default its own setting.
            prepared_statements: Switch off behind PgBouncer in transaction mode.

        Raises:
            InvalidValueError: The URL or another argument cannot be used.
            UnavailableError: The database cannot be reached.
            SchemaError: The tables are missing (on PostgreSQL), older or newer than this version.
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
        )
        parsed = engines.parse(url)
        store = cls.__new__(cls)
        store._start(engines.make(parsed, options), settings, options, owned=True)
        try:
            store._database.verify()
        except BaseException:
            store.close()
            raise
        return store

    @classmethod
    def join(
        cls,
        connection: Connection,
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
    ) -> Transaction:
        """The operations inside the caller's own transaction on *connection*, which the caller commits or rolls back.

        Nothing is retried. On SQLite the transaction is made one that writes, so that it cannot lose an update.
        """
        if not isinstance(connection, Connection):
            raise InvalidValueError("connection", f"must be a Connection, not {type(connection).__name__}")
        cache = CacheOptions(
            max_entries=cache_max_entries,
            max_bytes=cache_max_bytes,
            default_ttl=cache_default_ttl,
            compress_above=cache_compress_above,
            content_hash_invalidation=content_hash_invalidation,
        )
        settings = make_settings(namespace, clock, max_value_bytes, cache)
        dialect = engines.dialect_of(connection.engine, schema, server_time=clock is None)
        runner = execution.join(connection, dialect, settings)
        return Transaction(runner, settings.namespace, joined_cache(connection, runner, settings))

    @property
    def namespace(self) -> str:
        return self._database.settings.namespace

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """Several operations, one commit: `with store.transaction() as tx: tx.history.append(…)`.

        An exception undoes all of it. Nothing in it is retried. On SQLite it holds the only writer: call nothing else
        of the store meanwhile that writes.

        Raises:
            CommitUnknownError: The connection was lost during the commit, which may or may not have happened.
        """
        with cache_transaction(self._cache_state) as cache, self._database.transaction() as runner:
            yield Transaction(runner, self.namespace, cache)

    def close(self) -> None:
        """Close the connections. Every operation raises `StoreClosedError` from now on. May be called twice."""
        if not self._database.closed:
            self.cache.flush()
        self._database.close()

    def __enter__(self) -> Self:
        if self._database.closed:
            raise StoreClosedError("the store is closed; open another")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<StateStore {self._database.engine.url!r} namespace={self.namespace!r}>"


class AsyncStateStore(AsyncSweeping, AsyncTransaction):
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
    ) -> None:
        """Use *engine*. See `StateStore`."""
        if not isinstance(engine, AsyncEngine):
            raise InvalidValueError("engine", f"must be an AsyncEngine, not {type(engine).__name__}")
        cache = CacheOptions(
            max_entries=cache_max_entries,
            max_bytes=cache_max_bytes,
            default_ttl=cache_default_ttl,
            compress_above=cache_compress_above,
            content_hash_invalidation=content_hash_invalidation,
        )
        settings = make_settings(namespace, clock, max_value_bytes, cache)
        dialect = engines.dialect_of(engine.sync_engine, schema, server_time=clock is None)
        verify = Verify(dialect, Options(schema=schema, durability=durability), owned=False)
        self._start(EngineDatabase(engine, dialect, settings, verify=verify))

    def _start(self, database: AsyncDatabase) -> None:
        self._database = database
        self._cache_state = CacheState(database.settings.cache, max_value_bytes=database.settings.max_value_bytes)
        super().__init__(database, database.settings.namespace, self._cache_state)

    @classmethod
    async def open(
        cls,
        url: str | URL | None = None,
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
        prepared_statements: bool = True,
    ) -> Self:
        """Connect to a database. See `StateStore.open`."""
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
        )
        parsed = engines.parse(url)
        store = cls.__new__(cls)
        engine = engines.make(parsed, options)
        dialect = engines.dialect_of(engine, schema, server_time=clock is None)
        sync = Database(engine, dialect, settings, owned=True, verify=Verify(dialect, options, owned=True))
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
    async def transaction(self) -> AsyncIterator[AsyncTransaction]:
        """Several operations, one commit. See `StateStore.transaction`."""
        with cache_transaction(self._cache_state) as cache:
            async with self._database.transaction() as runner:
                yield AsyncTransaction(runner, self.namespace, cache)

    async def close(self) -> None:
        """Close the connections. Every operation raises `StoreClosedError` from now on. May be called twice."""
        if not self._database.closed:
            await self.cache.flush()
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
