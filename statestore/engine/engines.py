"""From a URL to an engine with the settings that keep each database from losing data."""

import math
import os
import random
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal
from weakref import WeakKeyDictionary

from sqlalchemy import URL, Connection, Engine, QueuePool, create_engine, event
from sqlalchemy import exc as sqlalchemy_errors

from statestore import schema
from statestore.engine import host_drivers, hosts, pooler, sqlite_files
from statestore.engine.connection_errors import not_connected
from statestore.engine.driver_errors import classify, raise_alone
from statestore.engine.sql import Dialect, DialectName, Row
from statestore.errors import InvalidValueError
from statestore.schema import prefixes, revisions

Durability = Literal["full", "normal"]
DEFAULT_URL = "sqlite:///statestore.db"
APPLICATION = "statestore"
"""How PostgreSQL's views name our connections, unless the URL says otherwise."""
# The first with RETURNING.
OLDEST_SQLITE = (3, 35)

# A peer that is gone without a word is noticed in half a minute, not in the two hours of most systems.
_NETWORK = {"keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3, "tcp_user_timeout": 25_000}


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How to reach the database; see `StateStore.open`."""

    schema: str = schema.DEFAULT_SCHEMA
    table_prefix: str = ""
    durability: Durability = "full"
    pool_size: int = 10
    pool_timeout: timedelta = timedelta(seconds=30)
    lock_timeout: timedelta | None = None
    statement_timeout: timedelta | None = None
    prepared_statements: bool | None = None
    timeout: float = 30.0
    retry_for: float = 15.0
    slow_call: float | None = None
    create: bool = False


def parse(url: hosts.Address | None, argument: str = "url") -> URL:
    """The URL, or the one from STATESTORE_URL, or a file in the current directory."""
    given = url if url is not None else os.environ.get("STATESTORE_URL") or DEFAULT_URL
    parsed = hosts.parse(given, argument)
    kind = {"postgres": "postgresql"}.get(parsed.get_backend_name(), parsed.get_backend_name())
    driver = parsed.drivername.partition("+")[2]
    allowed = {"postgresql": ("", "psycopg"), "sqlite": ("", "pysqlite", "aiosqlite")}.get(kind)
    if allowed is None or driver not in allowed:
        raise InvalidValueError(
            argument, f"{parsed.drivername!r} is not supported; use postgresql:// (by psycopg 3) or sqlite://"
        )
    return parsed.set(drivername=kind)


def is_memory(url: URL) -> bool:
    """Whether the URL means a SQLite database that lives in memory."""
    return url.get_backend_name() == "sqlite" and sqlite_files.path_of(url) is None


def is_private(url: URL) -> bool:
    """Whether the URL means a database in memory that is surely one connection's own: file: URIs can share one."""
    return is_memory(url) and url.database in (None, "", ":memory:")


def size_of(url: URL, options: Options) -> int:
    """How many connections an engine of ours has at most."""
    # An in-memory database is its only connection: callers queue for it.
    return 1 if is_memory(url) else options.pool_size


def make(url: URL, options: Options) -> Engine:
    """An engine with our settings. SQLite: a file that does not exist is made."""
    driver = {"postgresql": "postgresql+psycopg", "sqlite": "sqlite+pysqlite"}[url.get_backend_name()]
    try:
        if url.get_backend_name() == "postgresql":
            hosts.check_options(url)
        else:
            _check_sqlite_options(url)
        engine = create_engine(url.set(drivername=driver), **_arguments(url, options))
    except (sqlalchemy_errors.ArgumentError, ValueError, TypeError) as exc:
        if isinstance(exc, InvalidValueError):
            raise
        raise_alone(
            InvalidValueError(
                "url",
                "has a part or an option that cannot be used; it looks like postgresql://user@host:5432/database or "
                "sqlite:///relative/path.db, with three slashes",
            )
        )
    except ModuleNotFoundError:
        raise InvalidValueError("url", "PostgreSQL needs psycopg 3: pip install 'statestore[postgres]'") from None
    _prepare(engine, url, options)
    return engine


def _check_sqlite_options(url: URL) -> None:
    if url.query.get("uri") == "true":
        return
    unknown = sorted(url.query.keys() - {"uri", "timeout", "detect_types", "cached_statements", "isolation_level"})
    if unknown:
        raise InvalidValueError(
            "url", f"SQLite has no option {unknown[0]!r} here; those of a file: URI take sqlite:///file:PATH?…&uri=true"
        )


def dialect_of(
    engine: Engine, schema_name: str, *, table_prefix: str = "", server_time: bool, joins: bool = False
) -> Dialect:
    """The dialect of an engine, which may come from the caller; *joins*: only the caller's transaction is used."""
    name, driver = engine.dialect.name, engine.dialect.driver
    names: dict[str, DialectName] = {"postgresql": "postgresql", "sqlite": "sqlite"}
    if not joins:
        host_drivers.refuse(driver, "engine")
    if not (joins and name == "postgresql" and host_drivers.is_one(driver)) and (name, driver) not in (
        ("postgresql", "psycopg"),
        ("sqlite", "pysqlite"),
        ("sqlite", "aiosqlite"),
    ):
        raise InvalidValueError(
            "engine", f"{name}+{driver} is not supported; use postgresql+psycopg, sqlite or sqlite+aiosqlite"
        )
    if name == "sqlite":
        _check_sqlite_version(engine.dialect.dbapi)
    return Dialect(
        names[name],
        schema_name=schema_name,
        server_time=server_time,
        distributed=_DISTRIBUTED.get(engine.dialect, False),
        table_prefix=prefixes.check_for(name, table_prefix),
    )


# Kept by what an engine shares with its copies that have other options.
_DISTRIBUTED: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()


def remember_distributed(engine: Engine, distributed: bool) -> None:
    """Stores that are made on the engine from now on need not ask whether its tables are distributed."""
    _DISTRIBUTED[engine.dialect] = distributed


def find_distributed(connection: Connection, dialect: Dialect, schema_name: str) -> None:
    """As a store does that is opened, for who only joins: once for each engine, in the caller's transaction."""
    if dialect.name == "postgresql" and connection.dialect not in _DISTRIBUTED:
        remember_distributed(connection.engine, revisions.is_distributed(connection, schema_name))
        if _DISTRIBUTED[connection.dialect]:
            dialect.distribute()


def _check_sqlite_version(driver: Any) -> None:
    if driver.sqlite_version_info < OLDEST_SQLITE:
        oldest = ".".join(map(str, OLDEST_SQLITE))
        raise InvalidValueError(
            "engine", f"this Python has SQLite {driver.sqlite_version}; use one with SQLite {oldest} or newer"
        )


def check_sqlite_settings(query: Callable[[str], Row | None], durability: Durability) -> None:
    """Refuse a caller's SQLite engine whose settings would lose data."""
    found = {name: (query(f"PRAGMA {name}") or (0,))[0] for name in ("foreign_keys", "synchronous", "busy_timeout")}
    wanted = []
    if found["foreign_keys"] != 1:
        wanted.append("PRAGMA foreign_keys=ON")
    if found["synchronous"] < (2 if durability == "full" else 1):
        wanted.append(f"PRAGMA synchronous={durability.upper()}")
    if found["busy_timeout"] < 1:
        wanted.append("PRAGMA busy_timeout=30000")
    if wanted:
        raise InvalidValueError(
            "engine",
            f"its connections would lose data; execute {', '.join(wanted)} on each in a 'connect' event listener, "
            "or let StateStore.open make the engine",
        )


def is_of_others(query: Callable[[str], Any], table_prefix: str) -> bool:
    """Whether a SQLite database has tables, or anything else, but none of statestore's with this prefix."""
    # One statement: another process may be making our tables.
    found = query(
        f"SELECT count(*), count(*) FILTER (WHERE name = '{table_prefix}{schema.VERSION_TABLE}') FROM sqlite_schema "
        r"WHERE name NOT LIKE 'sqlite\_%' ESCAPE '\'"
    )
    objects, ours = found.fetchone()
    return bool(objects and not ours)


def _arguments(url: URL, options: Options) -> dict[str, Any]:
    arguments: dict[str, Any] = {
        # Each statement commits by itself; transactions are begun explicitly, and left clean, so nothing is to be
        # reset when a connection goes back to the pool. This saves two round trips for each operation.
        "isolation_level": "AUTOCOMMIT",
        "pool_reset_on_return": None,
        "poolclass": QueuePool,
        "pool_size": options.pool_size,
        # `Slots` counts. The pool would count what interrupted calls have left, for as long as somebody remembers them.
        "max_overflow": -1,
        "pool_timeout": options.pool_timeout.total_seconds(),
        "hide_parameters": True,
    }
    if url.get_backend_name() == "sqlite":
        arguments["connect_args"] = {"check_same_thread": False}
        if is_memory(url):
            # It is never closed before the store.
            arguments |= {"pool_size": size_of(url, options), "max_overflow": 0}
        return arguments
    # What is to be found out is found out before anything is prepared.
    connect: dict[str, Any] = {"prepare_threshold": pooler.PREPARE_THRESHOLD if options.prepared_statements else None}
    connect |= {name: value for name, value in _NETWORK.items() if name not in url.query}
    if "application_name" not in url.query:
        connect["application_name"] = APPLICATION
    if "connect_timeout" not in url.query:
        connect["connect_timeout"] = max(2, min(10, math.floor(options.timeout)))
    return arguments | {"connect_args": connect}


def _prepare(engine: Engine, url: URL, options: Options) -> None:
    if url.get_backend_name() == "postgresql":
        _prepare_postgresql(engine, options)
    else:
        _prepare_sqlite(engine, url, options)


def _prepare_postgresql(engine: Engine, options: Options) -> None:
    @event.listens_for(engine, "do_connect")
    def connect(dialect: Any, _: Any, arguments: Any, keywords: Any) -> Any:
        try:
            return dialect.connect(*arguments, **keywords)
        except dialect.dbapi.Error as exc:
            raise_alone(not_connected(exc, engine.url))

    timeouts = {"lock_timeout": options.lock_timeout, "statement_timeout": options.statement_timeout}

    @event.listens_for(engine, "connect")
    def set_up(connection: Any, record: Any) -> None:
        pooler.set_up(connection, record.info, prepared=options.prepared_statements, timeouts=timeouts)


def _prepare_sqlite(engine: Engine, url: URL, options: Options) -> None:
    sqlite_files.make_private(url)
    path = sqlite_files.path_of(url)
    if path is not None:
        _watch(engine, path)

    pragmas = (
        f"busy_timeout = {max(1, int(options.timeout * 1000))}",
        "foreign_keys = ON",
        # NORMAL loses commits that were acknowledged when the power fails; FULL lost none.
        f"synchronous = {options.durability.upper()}",
        # What was deleted for privacy is overwritten, not only unlinked.
        "secure_delete = ON",
        f"journal_size_limit = {sqlite_files.LOG_LIMIT}",
    )

    @event.listens_for(engine, "connect")
    def configure(connection: Any, record: Any) -> None:
        cursor = connection.cursor()
        with _naming(path):
            for pragma in pragmas:
                cursor.execute(f"PRAGMA {pragma}")
            cursor.execute("PRAGMA page_count")
            if cursor.fetchone()[0] == 0:
                # Space can be given back a little at a time then. On a file that was written to, this would wait for
                # whoever writes to it, and change nothing.
                cursor.execute("PRAGMA auto_vacuum = INCREMENTAL")
            # A file of something else stays as it is: the store will be refused.
            if options.create or not is_of_others(cursor.execute, options.table_prefix):
                _keep_log(cursor, time.monotonic() + options.timeout)
        # SQLite's own wait cannot be interrupted, so that it is short from now on; whoever waits for it asks again.
        cursor.execute(f"PRAGMA busy_timeout = {sqlite_files.WAIT}")
        cursor.close()


def _keep_log(cursor: sqlite3.Cursor, until: float) -> None:
    """Put the file into WAL mode if it is not; it is tried *until* then, on the monotonic clock.

    SQLite does not wait where two want to do so at once, since neither would get there: one of them is refused.
    """
    while True:
        try:
            cursor.execute("PRAGMA journal_mode")
            if cursor.fetchone()[0] not in ("wal", "memory"):
                cursor.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as exc:
            if not (exc.sqlite_errorname or "").startswith("SQLITE_BUSY") or time.monotonic() >= until:
                raise
            time.sleep(random.uniform(0.005, 0.02))


def _watch(engine: Engine, path: Path) -> None:
    """Let whoever uses a connection find out that its file is no longer there; see `SqliteFile`."""
    file = sqlite_files.SqliteFile(path)
    engine.update_execution_options(**{sqlite_files.FILE: file})

    @event.listens_for(engine, "do_connect")
    def connect(dialect: Any, _: Any, arguments: Any, keywords: Any) -> Any:
        file.check()
        with _naming(path):
            return dialect.connect(*arguments, **keywords)

    @event.listens_for(engine, "connect")
    def keep(_: Any, record: Any) -> None:
        record.info[sqlite_files.FILE] = file


@contextmanager
def _naming(path: Path | None) -> Iterator[None]:
    """Errors of the block say which file they are about."""
    try:
        yield
    except sqlite3.Error as exc:
        failure = classify(exc)
        assert failure is not None
        error = failure.error
        where = "" if path is None else f"{path}: "
        raise_alone(type(error)(f"{where}{error}", code=getattr(error, "code", None)))
