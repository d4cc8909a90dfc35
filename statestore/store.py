"""`StateStore`: the operations, called. `async_store` has the same, awaited."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self, TypeVar, Unpack

from sqlalchemy import URL, Connection, Engine

from statestore.engine import engines, execution, hosts
from statestore.engine.database import Database, Runner
from statestore.engine.telemetry import Hook
from statestore.engine.waits import pauses
from statestore.errors import InvalidValueError, StoreClosedError, UnavailableError
from statestore.operations.base import Group
from statestore.operations.cache import Cache
from statestore.operations.cache_runner import cache_transaction, joined_cache
from statestore.operations.history import History
from statestore.operations.prices import Prices
from statestore.operations.sessions import Sessions
from statestore.operations.state import State
from statestore.operations.store import StoreOperations
from statestore.operations.sweeping import Sweeping
from statestore.operations.usage import UsageReports
from statestore.options import (
    EngineArguments,
    JoinArguments,
    OpenArguments,
    StoreOptions,
    connections_of,
    takes,
    waits_of,
)
from statestore.repositories.cache.limits import CacheState
from statestore.repositories.cache.options import CacheOptions
from statestore.repositories.history import notify

R = TypeVar("R")


class Transaction(StoreOperations, Group):
    """The operations of a store inside one transaction. Use it only while the transaction lasts."""

    def __init__(self, runner: Runner, namespace: str, cache: CacheState) -> None:
        super().__init__(runner, namespace)
        self.sessions = Sessions(runner, namespace)
        self.history = History(runner, namespace)
        self.state = State(runner, namespace)
        self.cache = Cache(runner, namespace, cache)
        self.usage = UsageReports(runner, namespace)
        self.prices = Prices(runner, namespace)


class StateStore(Transaction, Sweeping):
    """Sessions, their history and their state, in a SQL database.

    Safe to share between threads. `StateStore.open(url)` connects; `StateStore(engine)` uses an engine of the caller's,
    which it does not close; `StateStore.join(connection)` works inside a transaction of the caller's.

    Every operation runs in a transaction of its own and is tried again on a deadlock, a lost connection or a busy
    database, as long as that cannot do its work twice. `transaction()` makes one of several.
    """

    _database: Database

    @takes(EngineArguments)
    def __init__(self, engine: Engine, **options: Unpack[EngineArguments]) -> None:
        """Use *engine*. Its database must have the tables; see `statestore.migrate`.

        Arguments are those of `open`. A SQLite engine is checked at the first operation, and refused with
        `InvalidValueError` where its settings would lose data.
        """
        if not isinstance(engine, Engine):
            raise InvalidValueError(
                "engine", f"must be an Engine, not {type(engine).__name__}; StateStore.open takes a URL"
            )
        self._start(engine, StoreOptions(**options))

    def _start(self, engine: Engine, options: StoreOptions, *, owned: bool = False) -> None:
        settings, dialect = options.settings(), options.dialect(engine)
        connections = connections_of(engine, dialect, options.for_engine(), owned=owned)
        self._database = Database(connections, dialect, settings, waits_of(options.for_engine()), notify.STATEMENTS)
        self._cache_state = CacheState(settings.of(CacheOptions), max_value_bytes=settings.max_value_bytes)
        super().__init__(self._database, settings.namespace, self._cache_state)

    @classmethod
    @takes(OpenArguments)
    def open(cls, url: str | URL | os.PathLike[str] | None = None, **options: Unpack[OpenArguments]) -> Self:
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
            lock_timeout: How long to wait for a lock. PostgreSQL: by default its own setting. SQLite: by default as
                long as the call may take.
            statement_timeout: How long a statement on PostgreSQL may run; by default its own setting.
            prepared_statements: Whether frequent statements are prepared on PostgreSQL. By default a store finds out
                by itself: with a pooler in between, such as PgBouncer, they are not.
            timeout: How long a call may take as a whole, in seconds or as a timedelta: waiting for a connection, for
                locks and for the network, and all its tries. `statestore.deadline` narrows it.
            retry_for: How long a store that has been connected tries again when the database goes away, restarts or
                undoes its work, in seconds or as a timedelta.
            slow_call: From how long on a call, or a transaction, is logged as slow, by its name and its duration, in
                seconds or as a timedelta; by default none is.

        Raises:
            InvalidValueError: The URL or another argument cannot be used.
            UnavailableError: The database cannot be reached.
            SchemaError: The tables are missing (on PostgreSQL), older than this version, or newer in a way that it
                cannot use.
        """
        checked = StoreOptions(**options)
        store = cls.__new__(cls)
        store._start(engines.make(engines.parse(url), checked.for_engine()), checked, owned=True)
        try:
            store._database.verify()
        except BaseException:
            store.close()
            raise
        return store

    @classmethod
    @takes(JoinArguments)
    def join(cls, connection: Connection, **options: Unpack[JoinArguments]) -> Transaction:
        """The operations inside the caller's own transaction on *connection*, which the caller commits or rolls back.

        Nothing is retried. On SQLite the transaction is made one that writes, so that it cannot lose an update.
        """
        if not isinstance(connection, Connection):
            raise InvalidValueError("connection", f"must be a Connection, not {type(connection).__name__}")
        checked = StoreOptions(**options)
        settings = checked.settings()
        runner = execution.join(connection, checked.dialect(connection.engine), settings)
        return Transaction(runner, settings.namespace, joined_cache(connection, runner, settings))

    @property
    def namespace(self) -> str:
        return self._database.settings.namespace

    @contextmanager
    def transaction(self, *, read_only: bool = False) -> Iterator[Transaction]:
        """Several operations, one commit: `with store.transaction() as tx: tx.history.append(…)`.

        An exception undoes all of it. Nothing in it is retried; `run_transaction` does that. What it has read of
        sessions, their history and state, and of the cache, nobody else changes before it ends, so that it can be
        written anew without losing an update; lists, counts and reports are not held that way. On SQLite it holds the
        only writer: call nothing else of the store meanwhile that writes.

        Args:
            read_only: Take no locks, and see all of one moment. Operations that write raise `ReadOnlyError`.

        Raises:
            UnavailableError: The transaction was undone, for a deadlock for example. Nothing was written.
            CommitUnknownError: The connection was lost during the commit, which may or may not have happened.
        """
        with self._database.telemetry.transaction(), self._transaction(read_only=read_only) as tx:
            yield tx

    @contextmanager
    def _transaction(self, *, read_only: bool = False) -> Iterator[Transaction]:
        begin = self._database.snapshot(read_only=True) if read_only else self._database.transaction()
        with cache_transaction(self._cache_state) as cache, begin as runner:
            yield Transaction(self._database.telemetry.watched(runner), self.namespace, cache)

    def run_transaction(self, work: Callable[[Transaction], R]) -> R:
        """Run *work* in a transaction, and again where the database undid it: `store.run_transaction(move)`.

        *work* is called with the transaction, perhaps several times: it must do nothing but what can be undone with
        it. Deadlocks and lost connections are tried again for as long as the store's `retry_for` says, within the
        deadline around the call.

        Args:
            work: What to do in the transaction. What it returns is returned; what it raises undoes the transaction.

        Raises:
            UnavailableError: The transaction was undone each time. Nothing was written.
            CommitUnknownError: As for `transaction`; that is not tried again.
        """
        with self._database.telemetry.transaction() as outcome:
            for pause in pauses(self._database.waits):
                try:
                    with self._transaction() as tx:
                        return work(tx)
                except UnavailableError as error:
                    if pause is None or not error.retryable:
                        raise
                    outcome.tries_again(error, pause)
                    time.sleep(pause)
        raise AssertionError("unreachable")

    def on_operation(self, hook: Hook) -> Callable[[], None]:
        """Call *hook* after each operation of this store, with an `Operation`: `store.on_operation(print)`.

        It is called before the caller has the result: in the thread of the caller, or on the event loop of an async
        store, so it should be quick. Each operation inside a transaction reports when it ends, and then the transaction
        itself does, as `transaction`. Operations that travel in one batch report each by itself, and so does each call
        of work that takes several, such as `sweep`. What a hook itself does with the store is not reported.

        An exception in *hook* does not fail the operation; the first one is logged as a warning of `statestore`.
        While there is no hook, nothing is measured.

        Args:
            hook: A plain function that takes an `Operation`.

        Returns:
            A function that ends the subscription; it may be called more than once.

        Raises:
            InvalidValueError: *hook* cannot be called, or is a coroutine function.
        """
        return self._database.telemetry.subscribe(hook)

    def close(self) -> None:
        """Close the connections. Every operation raises `StoreClosedError` from now on. May be called twice.

        What the cache has counted is written before, if that can be done within five seconds.
        """
        try:
            if not self._database.closed:
                self.cache.flush()
        finally:
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
        return f"<StateStore {hosts.shown(self._database.engine.url)} namespace={self.namespace!r}>"
