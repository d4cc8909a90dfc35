"""`StateStore`: the operations, called. `async_store` has the same, awaited."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self, TypeVar, Unpack

from sqlalchemy import URL, Connection, Engine

from statestore.checking import checks
from statestore.engine import hosts
from statestore.engine.database import Database, Runner
from statestore.engine.telemetry import Hook
from statestore.engine.waits import pauses
from statestore.errors import InvalidValueError, StoreClosedError, UnavailableError
from statestore.operations.base import Group
from statestore.operations.cache import Cache
from statestore.operations.cache_runner import cache_transaction, joined_cache
from statestore.operations.history import History
from statestore.operations.sessions import Sessions
from statestore.operations.state import AppState, Lists, State, UserState
from statestore.operations.store import StoreOperations
from statestore.operations.sweeping import Sweeping
from statestore.operations.usage import Prices, UsageReports
from statestore.options import (
    EngineArguments,
    JoinArguments,
    OpenArguments,
    StoreOptions,
    database_of,
    database_on,
    takes,
)
from statestore.repositories.cache.limits import CacheState
from statestore.repositories.cache.options import CacheOptions

R = TypeVar("R")


class Transaction(StoreOperations, Group):
    """The operations of a store inside one transaction. Use it only while the transaction lasts."""

    def __init__(self, runner: Runner, namespace: str, cache: CacheState) -> None:
        super().__init__(runner, namespace)
        self.sessions = Sessions(runner, namespace)
        self.history = History(runner, namespace)
        self.state = State(runner, namespace)
        self.lists = Lists(runner, namespace)
        self.user_state = UserState(runner, namespace)
        self.app_state = AppState(runner, namespace)
        self.cache = Cache(runner, namespace, cache)
        self.usage = UsageReports(runner, namespace)
        self.prices = Prices(runner, namespace)


class StateStore(Transaction, Sweeping):
    """Sessions, their history and their state, in a SQL database.

    Safe to share between threads. `StateStore.open(url)` connects; `StateStore(engine)` uses the caller's engine and
    does not close it; `StateStore.join(connection)` works inside the caller's transaction.

    Every operation runs in its own transaction and is retried on a deadlock, a lost connection or a busy database, as
    long as that cannot do its work twice. `transaction()` combines several operations in one transaction.
    """

    _database: Database

    @takes(EngineArguments)
    def __init__(self, engine: Engine, **options: Unpack[EngineArguments]) -> None:
        """Use *engine*. Its database must have the tables; see `statestore.migrate`.

        Arguments are as for `open`. A SQLite engine is checked at the first operation, and refused with
        `InvalidValueError` if its settings would lose data.
        """
        if not isinstance(engine, Engine):
            raise InvalidValueError(
                "engine", f"must be an Engine, not {type(engine).__name__}; StateStore.open takes a URL or a path"
            )
        self._start(database_on(engine, StoreOptions(**options)))

    def _start(self, database: Database) -> None:
        settings = database.settings
        self._database = database
        self._cache_state = CacheState(settings.of(CacheOptions), max_value_bytes=settings.max_value_bytes)
        super().__init__(self._database, settings.namespace, self._cache_state)

    @classmethod
    @takes(OpenArguments)
    def open(cls, url: str | URL | os.PathLike[str] | None = None, **options: Unpack[OpenArguments]) -> Self:
        """Connect to a database.

        Args:
            url: `postgresql://user@host/database`, `sqlite:///relative/or//absolute/path`, or `sqlite://` for a
                database in memory. By default STATESTORE_URL, or else `sqlite:///statestore.db`. A SQLite file that
                does not exist is created with its tables, readable by its owner only.
            namespace: Stores with different namespaces in one database do not see each other's data.
            clock: Returns the time, as an aware datetime. By default the database server's clock; on SQLite, the clock
                of this process.
            durability: `normal` is faster, but lets SQLite lose the latest commits if the power fails. PostgreSQL
                follows its own settings.
            schema: The PostgreSQL schema of the tables.
            table_prefix: What the names of all tables, views, indexes and triggers begin with on SQLite, such as
                `statestore_`, so that they can be in a file whose application has a table `sessions` of its own.
                Small letters, digits and _. PostgreSQL has `schema` for that.
            max_value_bytes: The largest content, state value, cached value or metadata, as JSON in UTF-8.
            json: `exact` refuses values that JSON cannot hold, and names the place in them. `lenient` converts them,
                and stores and returns the result: tuples and sets become lists; keys text; NaN and infinities null;
                bytes `{"$bytes": "<base64>"}`; dates and times ISO text; a UUID, a Decimal or a path text; an Enum its
                value; dataclasses and models of pydantic objects. What is exact stays as it is.
            default_ttl: How long after its last use a session expires for which no ttl is given when it is created, in
                whatever way; None for never. `ttl=NEVER` makes a session that does not expire.
            max_sessions: How many sessions the namespace keeps, without those that belong to another; None for no
                limit. Each sweep of this store deletes those beyond it that were written to least recently, but spares
                those that are busy or under a lease.
            cache_max_entries: How many entries the cache keeps, expired ones included; None for no limit. A single
                store never exceeds it; several together may, until one of them counts again.
            cache_max_bytes: The total size of the cached values, as stored; None for no limit.
            cache_default_ttl: How long to keep an entry that is set without a ttl, as a timedelta or in seconds;
                NEVER to keep it forever.
            cache_compress_above: The size in bytes from which cached values are compressed.
            content_hash_invalidation: False makes `cache.invalidate_content_hash` do nothing.
            pool_size: The largest number of connections: 1 to 10,000.
            pool_timeout: How long to wait for a free connection.
            lock_timeout: How long to wait for a lock. The default on PostgreSQL is its own setting; on SQLite, as
                long as the call may take.
            statement_timeout: How long a statement on PostgreSQL may run; by default its own setting.
            prepared_statements: Whether to prepare frequent statements on PostgreSQL. By default the store detects
                whether it can: behind a pooler such as PgBouncer it does not.
            timeout: How long a call may take in total, in seconds or as a timedelta: waiting for a connection, locks
                and the network, and all retries. `statestore.deadline` narrows it.
            retry_for: How long a store that has connected once keeps retrying when the database goes away, restarts or
                undoes its work, in seconds or as a timedelta.
            slow_call: Calls and transactions that take at least this long are logged as slow, with name and duration;
                in seconds or as a timedelta. By default none are.
            reporting_url: A standby of the database, for what may be a little old: the reports of `usage`, `stats`,
                exports, and `transaction(read_only=True)`. They see all that this store has written before. If the
                standby cannot be reached, or is too far behind, the database at *url* is asked, and the logger
                `statestore` says so. On SQLite it has to be the same file.
            max_lag: How old what is read from the standby may be, in seconds or as a timedelta; 0 for not at all.
            create: Make the tables in a SQLite file that has tables of something else, too. By default they are made
                only in a file that is new or empty. On PostgreSQL `statestore migrate up` makes them.

        Raises:
            InvalidValueError: The URL or another argument cannot be used, or `reporting_url` is another database.
            UnavailableError: The database cannot be reached.
            SchemaError: The tables are missing (on PostgreSQL, and in a SQLite file of something else), older than this
                version, or newer in a way that it cannot use.
        """
        store = cls.__new__(cls)
        store._start(database_of(url, StoreOptions(**options)))
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

        Nothing is retried. On SQLite the transaction becomes a write transaction, so that it cannot lose an update.
        """
        if not isinstance(connection, Connection):
            raise InvalidValueError("connection", f"must be a Connection, not {type(connection).__name__}")
        checked = StoreOptions(**options)
        settings = checked.settings()
        runner = checked.joined(connection, settings)
        return Transaction(runner, settings.namespace, joined_cache(connection, runner, settings))

    @property
    def namespace(self) -> str:
        return self._database.settings.namespace

    @contextmanager
    def transaction(self, *, read_only: bool = False) -> Iterator[Transaction]:
        """Several operations, one commit: `with store.transaction() as tx: tx.history.append(…)`.

        An exception undoes all of it. Nothing in it is retried; `run_transaction` does that. Nobody else can change
        the sessions, history, state and cache entries that it has read until it ends, so it can write them back
        without losing an update; lists, counts and reports are not held that way. On SQLite it holds the only write
        lock: do not call other writing operations of the store meanwhile.

        Args:
            read_only: Take no locks, and read everything as of one moment. Operations that write raise
                `ReadOnlyError`.

        Raises:
            UnavailableError: The transaction was undone, for example by a deadlock. Nothing was written.
            CommitUnknownError: The connection was lost during the commit, which may or may not have happened.
        """
        checks.flag(read_only, "read_only")
        with self._database.telemetry.transaction(), self._transaction(read_only=read_only) as tx:
            yield tx

    @contextmanager
    def _transaction(self, *, read_only: bool = False) -> Iterator[Transaction]:
        begin = self._database.snapshot(read_only=True) if read_only else self._database.transaction()
        with cache_transaction(self._cache_state) as cache, begin as runner:
            yield Transaction(self._database.telemetry.watched(runner), self.namespace, cache)

    def run_transaction(self, work: Callable[[Transaction], R]) -> R:
        """Run *work* in a transaction, and again if the database undid it: `store.run_transaction(move)`.

        *work* is called with the transaction, perhaps several times: it must do nothing that the transaction cannot
        undo. Deadlocks and lost connections are retried for as long as the store's `retry_for` allows, within the
        deadline around the call.

        Args:
            work: What to do in the transaction. What it returns is returned; what it raises undoes the transaction.

        Raises:
            UnavailableError: The transaction was undone each time. Nothing was written.
            CommitUnknownError: As for `transaction`; this is not retried.
        """
        checks.function(work, "work")
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

        It is called before the caller has the result: in the caller's thread, or on the event loop of an async store,
        so it should be quick. Each operation inside a transaction is reported when it ends, and then the transaction
        itself, as `transaction`. Operations that travel in one batch are reported one by one, and so is each call of
        work that takes several, such as `sweep`. What a hook itself does with the store is not reported.

        An exception in *hook* does not fail the operation; the first one is logged as a warning by `statestore`.
        Without a hook, nothing is measured.

        Args:
            hook: A plain function that takes an `Operation`.

        Returns:
            A function that ends the subscription. It may be called more than once.

        Raises:
            InvalidValueError: *hook* cannot be called, or is a coroutine function.
        """
        return self._database.telemetry.subscribe(hook)

    def close(self) -> None:
        """Close the connections. Every operation raises `StoreClosedError` from now on. May be called twice.

        The cache's counts are written first, if that can be done within five seconds.
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
