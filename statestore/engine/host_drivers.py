"""Connections of a caller's on psycopg2 and asyncpg, whose transactions can be joined.

Statements are written for psycopg 3, which our own connections have. Here is all that the others do in another way:
how a statement names its parameters, what they are taken for, what comes back, and how an error says its code. No
driver is imported, since a caller who has one of them has imported it.
"""

import os
import re
import socket
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import date, datetime, timedelta
from decimal import Decimal
from functools import lru_cache
from typing import Any, Self

from sqlalchemy import Connection, event

from statestore.errors import InvalidValueError

NAMES = ("psycopg2", "asyncpg")

_PARAMETER = re.compile(r"%\((\w+)\)[sb]|%%")
# Of text that is cast to something else the driver would want something else: what it is cast to.
_TEXT_CAST = re.compile(r"CAST\((%\(\w+\)[sb]) AS (?!text|varchar|json)", re.IGNORECASE)

_TEXTS = ("text", "text[]")

_BYTEA = 17
_SMALL, _INTEGER, _BIG = 2**15, 2**31, 2**63

# What a value is for the server, if nothing in the statement says it. psycopg sends numbers so, too.
_KINDS: tuple[tuple[type, str], ...] = (
    (bool, "boolean"),
    (float, "double precision"),
    (Decimal, "numeric"),
    (datetime, "timestamptz"),
    (date, "date"),
    (timedelta, "interval"),
    (bytes, "bytea"),
)


def is_one(driver: str) -> bool:
    """Whether it is a driver that this module is for."""
    return driver in NAMES


def refuse(driver: str, argument: str) -> None:
    """Refuse it for what takes a connection of our own.

    Raises:
        InvalidValueError: Always, if the driver is one of these.
    """
    if is_one(driver):
        raise InvalidValueError(
            argument,
            f"postgresql+{driver} serves only `join`, inside a transaction of yours; for a store of its own, which "
            "retries, batches and follows, use StateStore.open(url), or an engine on postgresql+psycopg",
        )


def cursors(connection: Connection, make: Callable[[], Any]) -> Callable[[], Any]:
    """What makes cursors that take our statements; *make* makes the driver's own."""
    driver = connection.dialect.driver
    if driver == "psycopg2":
        return lambda: Psycopg2Cursor(make())
    if driver == "asyncpg":
        return lambda: AsyncpgCursor(make())
    return make


class _Cursor(ABC):
    """A cursor that takes statements and parameters as psycopg 3 does."""

    def __init__(self, cursor: Any) -> None:
        self._cursor = cursor

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cursor, name)

    @abstractmethod
    def execute(self, sql: str, parameters: Any = None) -> Self: ...

    def executemany(self, sql: str, rows: Iterable[Any]) -> Self:
        # One by one: a value that is missing in one row has another type than in the next.
        for row in rows:
            self.execute(sql, row)
        return self

    def fetchone(self) -> Any:
        row = self._cursor.fetchone()
        return None if row is None else self._rows([row])[0]

    def fetchall(self) -> list[Any]:
        return self._rows(self._cursor.fetchall())

    def fetchmany(self, size: int) -> list[Any]:
        return self._rows(self._cursor.fetchmany(size))

    def _rows(self, rows: Sequence[Any]) -> list[Any]:
        return [tuple(row) for row in rows]


class Psycopg2Cursor(_Cursor):
    """It puts parameters into the text, and gives binary data as views of memory."""

    def execute(self, sql: str, parameters: Any = None) -> Self:
        if parameters is None:
            self._cursor.execute(sql)
        else:
            self._cursor.execute(_for_psycopg2(sql), parameters)
        return self

    def _rows(self, rows: Sequence[Any]) -> list[Any]:
        binary = [place for place, column in enumerate(self._cursor.description or ()) if column[1] == _BYTEA]
        if not binary:
            return list(rows)
        found = [list(row) for row in rows]
        for row in found:
            for place in binary:
                if row[place] is not None:
                    row[place] = bytes(row[place])
        return [tuple(row) for row in found]


@lru_cache(maxsize=1024)
def _for_psycopg2(sql: str) -> str:
    return _PARAMETER.sub(lambda found: f"%({found[1]})s" if found[1] else "%%", sql)


class AsyncpgCursor(_Cursor):
    """It numbers parameters, and takes each for what the statement says that it is, or else for what we say."""

    def execute(self, sql: str, parameters: Any = None) -> Self:
        if parameters is None:
            self._cursor.execute(sql)
            return self
        kinds = tuple((name, kind) for name, value in parameters.items() if (kind := _kind(value)))
        numbered, names = _for_asyncpg(sql, kinds)
        self._cursor.execute(numbered, tuple(parameters[name] for name in names))
        return self


@lru_cache(maxsize=1024)
def _for_asyncpg(sql: str, kinds: tuple[tuple[str, str], ...]) -> tuple[str, tuple[str, ...]]:
    """The statement with its parameters numbered, and their names in that order."""
    by_name = dict(kinds)
    names: list[str] = []

    def number(found: re.Match[str]) -> str:
        name = found[1]
        if name is None:
            return "%"
        if name not in names:
            names.append(name)
        place = f"${names.index(name) + 1}"
        kind = by_name.get(name, "")
        return f"CAST({place} AS {kind})" if kind not in ("", *_TEXTS) else place

    def as_text(found: re.Match[str]) -> str:
        kind = by_name.get(found[1][2:-2])
        return f"CAST(CAST({found[1]} AS {kind}) AS " if kind in _TEXTS else found[0]

    return _PARAMETER.sub(number, _TEXT_CAST.sub(as_text, sql)), tuple(names)


def _kind(value: Any) -> str:
    """What a value is to be cast to; empty for what the statement says."""
    if isinstance(value, str):
        return "text"
    if isinstance(value, list):
        return "text[]" if isinstance(next((one for one in value if one is not None), None), str) else ""
    if type(value) is int:
        size = -value - 1 if value < 0 else value
        return "smallint" if size < _SMALL else "integer" if size < _INTEGER else "bigint" if size < _BIG else "numeric"
    return next((kind for type_, kind in _KINDS if isinstance(value, type_)), "")


def refuses_writes(connection: Any) -> bool:
    """Whether PostgreSQL allows no writes on a connection, as far as it says so without being asked: any driver's."""
    known: bool | None = getattr(connection, "is_read_only", None)
    if known is not None:
        return known
    driver = connection.driver_connection
    status = driver.info.parameter_status
    if status("in_hot_standby") == "on":
        return True
    if driver.read_only is not None:
        return bool(driver.read_only)
    return bool(status("default_transaction_read_only") == "on")


def is_read_only(connection: Connection) -> bool | None:
    """Whether PostgreSQL allows no writes on a connection of these drivers; None for another driver."""
    pooled: Any = connection.connection
    if connection.dialect.driver == "psycopg2":
        status, readonly = pooled.driver_connection.info.parameter_status, pooled.driver_connection.readonly
    elif connection.dialect.driver == "asyncpg":
        settings, readonly = pooled.driver_connection.get_settings(), pooled.dbapi_connection.readonly

        def status(name: str) -> Any:
            return getattr(settings, name, None)
    else:
        return None
    if status("in_hot_standby") == "on" or readonly:
        return True
    return readonly is None and status("default_transaction_read_only") == "on"


@contextmanager
def taking_comments(connection: Connection) -> Iterator[None]:
    """Let psycopg2 execute what is only a comment, as the other drivers do: migration 0003 has one."""
    if connection.dialect.driver != "psycopg2":
        yield
        return

    def fill(_: Any, __: Any, statement: str, parameters: Any, *rest: Any) -> tuple[str, Any]:
        lines = filter(None, map(str.strip, statement.splitlines()))
        return (f"{statement}\nSELECT 1" if all(line.startswith("--") for line in lines) else statement), parameters

    event.listen(connection, "before_cursor_execute", fill, retval=True)
    try:
        yield
    finally:
        event.remove(connection, "before_cursor_execute", fill)


def cut(driver: Any) -> bool:
    """Shut the socket of a connection of these drivers down; whether it is one. What it has done is undone."""
    kind = type(driver).__module__.partition(".")[0]
    with suppress(Exception):
        if kind == "psycopg2":
            with socket.socket(fileno=os.dup(driver.fileno())) as line:
                line.shutdown(socket.SHUT_RDWR)
        elif kind == "asyncpg":
            driver._loop.call_soon_threadsafe(driver.terminate)
    return is_one(kind)


def leave(connection: Connection, *, lost: bool) -> None:
    """A host's connection is *lost*, or was cut, which only those of these drivers are: it is given to nobody else.

    SQLAlchemy does not notice with asyncpg. With psycopg it does, at the ROLLBACK at the end of the host's block, whose
    error would take the place of ours.
    """
    is_lost = lost and connection.dialect.name == "postgresql"
    if (is_lost or is_one(connection.dialect.driver)) and not connection.invalidated:
        connection.invalidate()


def code_of(exc: BaseException) -> tuple[str | None, bool] | None:
    """The SQLSTATE of an error of these drivers, and whether it means that the connection is lost without a code.

    None for what is not an error of theirs.
    """
    module, name = type(exc).__module__, type(exc).__name__
    if module.partition(".")[0] == "psycopg2":
        return getattr(exc, "pgcode", None), name in ("OperationalError", "InterfaceError")
    if module.endswith("dialects.postgresql.asyncpg") or module.startswith("asyncpg."):
        code = getattr(exc, "sqlstate", None)
        # A value that the driver cannot encode is one of its InterfaceErrors, too.
        cause = exc.__cause__ or exc
        return code, not isinstance(cause, ValueError)
    return None
