"""What a store is opened with, and what it checks of the database on its first connection."""

import inspect
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import timedelta
from functools import wraps
from typing import Any, Literal, TypedDict, TypeVar

from sqlalchemy import URL, Connection, Engine

from statestore import migrate
from statestore.checking import checks, codec, exactjson
from statestore.engine import engines, execution, hosts, migration_targets, replicas, sqlite_files
from statestore.engine.connections import Connections
from statestore.engine.database import Database
from statestore.engine.engines import Durability, Options
from statestore.engine.replicas import ReplicaConnections, ReplicatedDatabase
from statestore.engine.sql import Clock, Dialect, Settings
from statestore.engine.waits import Waits, in_seconds
from statestore.errors import InvalidValueError, SchemaMissingError
from statestore.repositories.cache.options import CacheOptions
from statestore.repositories.history import follows
from statestore.repositories.sessions.session_columns import SessionOptions
from statestore.schema import DEFAULT_SCHEMA, prefixes
from statestore.values.markers import NeverType

M = TypeVar("M", bound=Callable[..., Any])
C = TypeVar("C", bound=Connections)


class JoinArguments(TypedDict, total=False):
    """What `join` takes: everything that does not concern the connection."""

    namespace: str
    clock: Clock | None
    schema: str
    table_prefix: str
    max_value_bytes: int
    json: Literal["exact", "lenient"]
    default_ttl: timedelta | None
    max_sessions: int | None
    cache_max_entries: int | None
    cache_max_bytes: int | None
    cache_default_ttl: timedelta | float | NeverType
    cache_compress_above: int
    content_hash_invalidation: bool


class EngineArguments(JoinArguments, total=False):
    """What a store on a caller's engine takes."""

    durability: Durability
    timeout: float | timedelta
    retry_for: float | timedelta
    slow_call: float | timedelta | None


class OpenArguments(EngineArguments, total=False):
    """What `open` takes beside the URL."""

    pool_size: int
    pool_timeout: timedelta
    lock_timeout: timedelta | None
    statement_timeout: timedelta | None
    prepared_statements: bool | None
    reporting_url: str | URL | os.PathLike[str] | None
    max_lag: float | timedelta
    create: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreOptions:
    """What a store was opened with; `StateStore.open` explains each option. Checked as a whole when created."""

    namespace: str = "default"
    clock: Clock | None = None
    durability: Durability = "full"
    schema: str = DEFAULT_SCHEMA
    table_prefix: str = ""
    # As `max_bytes` down to where it is checked: `checking/exactjson.py`, `checking/codec.py` for cached values, and
    # `checking/checks.py` for plain text.
    max_value_bytes: int = exactjson.MAX_BYTES
    json: Literal["exact", "lenient"] = "exact"
    default_ttl: timedelta | None = None
    max_sessions: int | None = None
    cache_max_entries: int | None = 1000
    cache_max_bytes: int | None = None
    cache_default_ttl: timedelta | float | NeverType = timedelta(hours=1)
    cache_compress_above: int = codec.COMPRESS_ABOVE
    content_hash_invalidation: bool = True
    pool_size: int = 10
    pool_timeout: timedelta = timedelta(seconds=30)
    lock_timeout: timedelta | None = None
    statement_timeout: timedelta | None = None
    prepared_statements: bool | None = None
    timeout: float | timedelta = 30
    retry_for: float | timedelta = 15
    slow_call: float | timedelta | None = None
    reporting_url: str | URL | os.PathLike[str] | None = field(default=None, repr=False)
    max_lag: float | timedelta = timedelta(seconds=10)
    create: bool = False

    def __post_init__(self) -> None:
        checks.namespace(self.namespace, "namespace")
        if self.clock is not None and not callable(self.clock):
            raise InvalidValueError("clock", "must be callable and return an aware datetime")
        checks.count(self.max_value_bytes, "max_value_bytes", least=1)
        checks.one_of(self.json, ("exact", "lenient"), "json")
        self.sessions()
        self.cache()
        checks.schema_name(self.schema)
        prefixes.check(self.table_prefix)
        checks.one_of(self.durability, ("full", "normal"), "durability")
        if not isinstance(self.create, bool):
            raise InvalidValueError("create", "must be True or False")
        if not isinstance(self.prepared_statements, bool | None):
            raise InvalidValueError("prepared_statements", "must be True, False, or None to detect it")
        checks.count(self.pool_size, "pool_size", least=1, most=10_000)
        for name in ("pool_timeout", "lock_timeout", "statement_timeout"):
            checks.ttl(getattr(self, name), name, hint="leave it out for the default")
        if self.pool_timeout is None:
            raise InvalidValueError("pool_timeout", "must be a timedelta: how long to wait for a free connection")
        self.for_engine()
        if self.reporting_url is not None:
            engines.parse(self.reporting_url, "reporting_url")
        self.lag()

    def lag(self) -> float:
        """The largest lag of a replica, in seconds."""
        seconds: Any = self.max_lag.total_seconds() if isinstance(self.max_lag, timedelta) else self.max_lag
        if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds < math.inf:
            raise InvalidValueError(
                "max_lag", "must be a number of seconds, or a timedelta; 0 if the replica must be fully up to date"
            )
        return float(seconds)

    def sessions(self) -> SessionOptions:
        """The options for sessions."""
        return SessionOptions(default_ttl=self.default_ttl, max_sessions=self.max_sessions)

    def cache(self) -> CacheOptions:
        """The options for the cache."""
        return CacheOptions(
            max_entries=self.cache_max_entries,
            max_bytes=self.cache_max_bytes,
            default_ttl=self.cache_default_ttl,
            compress_above=self.cache_compress_above,
            content_hash_invalidation=self.content_hash_invalidation,
        )

    def settings(self) -> Settings:
        """The options for repositories."""
        return Settings(
            namespace=self.namespace,
            clock=self.clock,
            max_value_bytes=exactjson.Limit(self.max_value_bytes, lenient=self.json == "lenient"),
            families={SessionOptions: self.sessions(), CacheOptions: self.cache()},
            passed_on={name: _seconds(getattr(self, name)) for name in _PASSED_ON},
        )

    @staticmethod
    def passed_on(options: Mapping[str, Any]) -> dict[str, Any]:
        """The options of `Settings.passed_on`, as `open` takes them."""
        return {
            name: timedelta(seconds=value) if name in _TIMEDELTAS and value is not None else value
            for name, value in options.items()
        }

    def for_engine(self) -> Options:
        """The options for connections."""
        return Options(
            schema=self.schema,
            table_prefix=self.table_prefix,
            durability=self.durability,
            pool_size=self.pool_size,
            pool_timeout=self.pool_timeout,
            lock_timeout=self.lock_timeout,
            statement_timeout=self.statement_timeout,
            prepared_statements=self.prepared_statements,
            create=self.create,
            timeout=in_seconds(self.timeout, "timeout"),
            retry_for=in_seconds(self.retry_for, "retry_for"),
            slow_call=None if self.slow_call is None else in_seconds(self.slow_call, "slow_call"),
        )

    def dialect(self, engine: Engine, *, joins: bool = False) -> Dialect:
        """*joins*: only the caller's transaction is used."""
        return engines.dialect_of(
            engine, self.schema, table_prefix=self.table_prefix, server_time=self.clock is None, joins=joins
        )

    def joined(self, connection: Connection, settings: Settings) -> execution.BoundRunner:
        """A runner inside the caller's own transaction on *connection*, which the caller commits."""
        dialect = self.dialect(connection.engine, joins=True)
        runner = execution.join(connection, dialect, settings)
        with execution.translated():
            engines.find_distributed(connection, dialect, self.schema)
        return runner


_TIMEDELTAS = ("pool_timeout", "lock_timeout", "statement_timeout")
_PASSED_ON = (
    *_TIMEDELTAS,
    *("timeout", "retry_for", "slow_call", "durability", "max_value_bytes", "json", "prepared_statements"),
)


def _seconds(value: Any) -> Any:
    return value.total_seconds() if isinstance(value, timedelta) else value


def takes(arguments: type[Any]) -> Callable[[M], M]:
    """Show the options that a method takes as if they were in its signature, and refuse all others."""

    def decorate(method: M) -> M:
        signature = inspect.signature(method)
        shown = [
            parameter for parameter in signature.parameters.values() if parameter.kind is not parameter.VAR_KEYWORD
        ]
        options = [
            inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=field.type)
            for field in fields(StoreOptions)
            if field.name in arguments.__optional_keys__
        ]
        signature = signature.replace(parameters=[*shown, *options])

        @wraps(method)
        def call(*args: Any, **kwargs: Any) -> Any:
            signature.bind(*args, **kwargs)
            return method(*args, **kwargs)

        @wraps(method)
        async def call_async(*args: Any, **kwargs: Any) -> Any:
            signature.bind(*args, **kwargs)
            return await method(*args, **kwargs)

        taking: Any = call_async if inspect.iscoroutinefunction(method) else call
        taking.__signature__ = signature
        return taking  # type: ignore[no-any-return]

    return decorate


class Verify:
    """What is checked once, on a store's first connection: the tables, and the settings of a caller's SQLite engine."""

    def __init__(self, dialect: Dialect, options: Options, *, owned: bool) -> None:
        self._dialect = dialect
        self._options = options
        self._owned = owned

    def __call__(self, connection: Connection) -> None:
        prefix = self._options.table_prefix
        if self._dialect.name == "sqlite" and not self._owned:
            engines.check_sqlite_settings(
                lambda pragma: connection.exec_driver_sql(pragma).one_or_none(), self._options.durability
            )
        try:
            distributed = migrate.check(connection, schema=self._options.schema, table_prefix=prefix).distributed
            engines.remember_distributed(connection.engine, distributed)
            if distributed:
                self._dialect.distribute()
        except SchemaMissingError as error:
            if self._dialect.name != "sqlite" or not self._owned:
                raise
            if not self._options.create and engines.is_of_others(connection.exec_driver_sql, prefix):
                where = connection.engine.url
                raise SchemaMissingError(
                    f"{migration_targets.shown(where)} has tables of something else, and none of statestore's; name "
                    "another file, or, if this one is to hold both, make the tables with create=True, or with: "
                    f"{migrate.command_up(where, self._options.schema, prefix)}",
                    current=error.current,
                    expected=error.expected,
                ) from None
            if engines.is_private(connection.engine.url):
                migrate.create_in_memory(connection, prefix)
            else:
                migrate.upgrade(connection, table_prefix=prefix)


def connections_of(
    engine: Engine,
    dialect: Dialect,
    options: Options,
    *,
    owned: bool,
    kind: type[C] = Connections,  # type: ignore[assignment]
) -> C:
    return kind(
        engine,
        dialect,
        owned=owned,
        verify=Verify(dialect, options, owned=owned),
        waits=waits_of(options),
        size=engines.size_of(engine.url, options) if owned else None,
        lasts=not engines.is_memory(engine.url),
    )


def database_on(engine: Engine, options: StoreOptions) -> Database:
    """A database on a caller's engine."""
    dialect = options.dialect(engine)
    connections: Connections = connections_of(engine, dialect, options.for_engine(), owned=False)
    return Database(connections, dialect, options.settings(), waits_of(options.for_engine()), follows.LISTENING)


def database_of(url: hosts.Address | None, options: StoreOptions) -> Database:
    """The database of a URL, with its replica, if there is one. Nothing is connected yet."""
    parsed, for_engine = engines.parse(url), options.for_engine()
    prefixes.check_for(parsed.get_backend_name(), options.table_prefix)
    engine = engines.make(parsed, for_engine)
    dialect, settings, waits = options.dialect(engine), options.settings(), waits_of(for_engine)
    connections: Connections = connections_of(engine, dialect, for_engine, owned=True)
    if options.reporting_url is None:
        return Database(connections, dialect, settings, waits, follows.LISTENING)
    reporting = _reporting_engine(parsed, options.reporting_url, for_engine)
    replica = connections_of(reporting, dialect, for_engine, owned=True, kind=ReplicaConnections)
    return ReplicatedDatabase(
        connections, dialect, settings, waits, follows.LISTENING, replica=replica, max_lag=options.lag()
    )


def _reporting_engine(url: URL, given: hosts.Address, options: Options) -> Engine:
    try:
        reporting = engines.parse(given, "reporting_url")
        if reporting.get_backend_name() != url.get_backend_name():
            raise InvalidValueError("reporting_url", "must be the same kind of database as url, and a standby of it")
        if url.get_backend_name() == "sqlite" and not sqlite_files.same(url, reporting):
            raise InvalidValueError("reporting_url", "must be the same file as url on SQLite, which has no replicas")
        # A replica that does not answer is not to hold reports up, nor one that applies what locks a table.
        lock_timeout = min(options.lock_timeout or replicas.LOCKED_FOR, replicas.LOCKED_FOR)
        patience = min(options.timeout, replicas.ANSWER_WITHIN)
        return engines.make(reporting, replace(options, timeout=patience, lock_timeout=lock_timeout))
    except InvalidValueError as error:
        if error.argument != "url":
            raise
        problem = str(error).removeprefix("url: ")
    raise InvalidValueError("reporting_url", problem)


def waits_of(options: Options) -> Waits:
    lock = math.inf if options.lock_timeout is None else options.lock_timeout.total_seconds()
    return Waits(options.timeout, options.retry_for, options.pool_timeout.total_seconds(), lock, options.slow_call)
