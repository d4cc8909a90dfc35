"""Access to the prices of a whole database, for its owner."""

from typing import overload

from sqlalchemy import Engine
from sqlalchemy.ext.asyncio import AsyncEngine

from statestore.async_store import AsyncStateStore
from statestore.errors import InvalidValueError
from statestore.operations.usage import AsyncSharedPrices, SharedPrices
from statestore.schema import DEFAULT_SCHEMA
from statestore.store import StateStore


@overload
def prices_of(engine: Engine, *, schema: str = ..., table_prefix: str = ...) -> SharedPrices: ...
@overload
def prices_of(engine: AsyncEngine, *, schema: str = ..., table_prefix: str = ...) -> AsyncSharedPrices: ...
def prices_of(
    engine: Engine | AsyncEngine, *, schema: str = DEFAULT_SCHEMA, table_prefix: str = ""
) -> SharedPrices | AsyncSharedPrices:
    """The prices that hold for all namespaces of a database, to read and to write.

    They belong to the owner of the database, not to a tenant: no store gives access to them. A namespace's own prices,
    which `store.prices.set` sets, take precedence over them.

    Args:
        engine: The owner's engine, for a database that has the tables. With an `AsyncEngine` operations are awaited.
        schema: The PostgreSQL schema of the tables.
        table_prefix: On SQLite, what the names of the tables begin with.
    """
    if isinstance(engine, AsyncEngine):
        return AsyncSharedPrices(AsyncStateStore(engine, schema=schema, table_prefix=table_prefix)._database, "")
    if not isinstance(engine, Engine):
        raise InvalidValueError("engine", f"must be an Engine or an AsyncEngine, not {type(engine).__name__}")
    return SharedPrices(StateStore(engine, schema=schema, table_prefix=table_prefix)._database, "")


def prices_through(store: StateStore) -> SharedPrices:
    """The same through a store that is already open, for the command line, whose user asked for the whole database."""
    return SharedPrices(store._database, "")
