"""Engines as an application of ours would make them."""

from typing import Any

from sqlalchemy import Engine, create_engine, event, make_url
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

# What a SQLite engine needs so as not to lose data; see the section on engines in the README.
PRAGMAS = ("foreign_keys=ON", "synchronous=FULL", "busy_timeout=30000", "journal_mode=WAL")


def sync_engine(url: str, *, pragmas: tuple[str, ...] = PRAGMAS, driver: str = "psycopg", **kwargs: Any) -> Engine:
    engine = create_engine(_with_driver(url, "pysqlite", driver), **kwargs)
    _set_pragmas(engine, pragmas)
    return engine


def async_engine(
    url: str, *, pragmas: tuple[str, ...] = PRAGMAS, driver: str = "psycopg", **kwargs: Any
) -> AsyncEngine:
    engine = create_async_engine(_with_driver(url, "aiosqlite", driver), **kwargs)
    _set_pragmas(engine.sync_engine, pragmas)
    return engine


def _with_driver(url: str, sqlite: str, postgresql: str) -> Any:
    parsed = make_url(url)
    is_sqlite = parsed.get_backend_name() == "sqlite"
    return parsed.set(drivername=f"sqlite+{sqlite}" if is_sqlite else f"postgresql+{postgresql}")


def _set_pragmas(engine: Engine, pragmas: tuple[str, ...]) -> None:
    if engine.dialect.name != "sqlite":
        return

    @event.listens_for(engine, "connect")
    def configure(connection: Any, _: object) -> None:
        cursor = connection.cursor()
        for pragma in pragmas:
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()
