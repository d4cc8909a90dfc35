"""What a store checks of its arguments, and of the database on its first connection."""

import math
from typing import Any

from sqlalchemy import Connection, Engine

from statestore import migrate
from statestore.checking import checks
from statestore.engine import engines
from statestore.engine.connections import Connections
from statestore.engine.deadlines import in_seconds
from statestore.engine.engines import Options
from statestore.engine.sql import Clock, Dialect, Settings
from statestore.engine.waits import Waits
from statestore.errors import InvalidValueError, SchemaMissingError
from statestore.repositories.cache.options import CacheOptions


class Verify:
    """What is checked once, on a store's first connection: the tables, and the settings of a caller's SQLite engine."""

    def __init__(self, dialect: Dialect, options: Options, *, owned: bool) -> None:
        self._dialect = dialect
        self._options = options
        self._owned = owned

    def __call__(self, connection: Connection) -> None:
        if self._dialect.name == "sqlite" and not self._owned:
            engines.check_sqlite_settings(
                lambda pragma: connection.exec_driver_sql(pragma).one_or_none(), self._options.durability
            )
        try:
            migrate.check(connection, schema=self._options.schema)
        except SchemaMissingError:
            if self._dialect.name != "sqlite" or not self._owned:
                raise
            migrate.upgrade(connection)


def make_settings(namespace: str, clock: Clock | None, max_value_bytes: int, cache: CacheOptions) -> Settings:
    if clock is not None and not callable(clock):
        raise InvalidValueError("clock", "must be callable and return an aware datetime")
    checks.count(max_value_bytes, "max_value_bytes", least=1)
    return Settings(
        namespace=checks.key(namespace, "namespace"),
        clock=clock,
        max_value_bytes=max_value_bytes,
        families={CacheOptions: cache},
    )


def make_options(**values: Any) -> Options:
    checks.schema_name(values["schema"])
    checks.one_of(values["durability"], ("full", "normal"), "durability")
    if not isinstance(values.get("prepared_statements"), bool | None):
        raise InvalidValueError("prepared_statements", "must be True, False, or None to find out")
    checks.count(values.get("pool_size", 1), "pool_size", least=1)
    for name in ("pool_timeout", "lock_timeout", "statement_timeout"):
        checks.ttl(values.get(name), name)
    if values.get("pool_timeout", 1) is None:
        raise InvalidValueError("pool_timeout", "must be a timedelta; how long to wait for a free connection")
    for name in ("timeout", "retry_for", "slow_call"):
        if values.get(name) is not None or name != "slow_call":
            values[name] = in_seconds(values[name], name)
    return Options(**values)


def connections_of(engine: Engine, dialect: Dialect, options: Options, *, owned: bool) -> Connections:
    return Connections(
        engine,
        dialect,
        owned=owned,
        verify=Verify(dialect, options, owned=owned),
        waits=waits_of(options),
        size=engines.size_of(engine.url, options) if owned else None,
        lasts=not engines.is_memory(engine.url),
    )


def waits_of(options: Options) -> Waits:
    lock = math.inf if options.lock_timeout is None else options.lock_timeout.total_seconds()
    return Waits(options.timeout, options.retry_for, options.pool_timeout.total_seconds(), lock, options.slow_call)
