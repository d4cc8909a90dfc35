"""What a driver's error means to us. Recognised by code, SQLSTATE or SQLite's error name, never by message text.

A driver's message, and PostgreSQL's DETAIL even more so, can hold values of somebody's rows. So nothing of it is kept:
our error carries the code, and is raised without the driver's as its cause.
"""

import sqlite3
import sys
from dataclasses import dataclass

from sqlalchemy import exc as sqlalchemy_errors

from statestore.errors import (
    DatabaseError,
    InvalidValueError,
    ReadOnlyError,
    SchemaMissingError,
    SchemaOutdatedError,
    StateStoreError,
    StorageFullError,
    UnavailableError,
)
from statestore.sql import StartOver


@dataclass(frozen=True, slots=True)
class Failure:
    """A driver's error, understood.

    Attributes:
        error: What the caller gets if nothing helps.
        transient: The database has undone the work, and a second try may succeed.
        lost: The connection is gone. What was sent last may have been done.
        duplicate: A unique key stands already.
    """

    error: StateStoreError
    transient: bool = False
    lost: bool = False
    duplicate: bool = False


def understand(exc: BaseException) -> Failure | None:
    """What *exc* means; None where it is no driver's error but a bug, which must look like one."""
    if isinstance(exc, sqlalchemy_errors.DBAPIError) and exc.orig is not None:
        exc = exc.orig
    if isinstance(exc, sqlalchemy_errors.TimeoutError):
        return Failure(
            UnavailableError("no connection became free in time; use a larger pool_size, or hold transactions shorter")
        )
    if isinstance(exc, sqlite3.Error):
        return _sqlite(exc)
    if isinstance(exc, StartOver):
        return Failure(UnavailableError("a session was deleted and made again meanwhile; try again"), transient=True)
    psycopg = sys.modules.get("psycopg")
    if psycopg is not None and isinstance(exc, psycopg.Error):
        return _postgresql(exc.sqlstate, lost=isinstance(exc, psycopg.OperationalError | psycopg.InterfaceError))
    return None


_SCHEMA_REMEDY = "bring the schema up to date with 'statestore migrate up'"

_LOST = frozenset({"57P01", "57P02", "57P03", "53300"})
_TRANSIENT = frozenset({"40001", "40P01"})


def _postgresql(code: str | None, *, lost: bool) -> Failure:
    if code is None or code.startswith("08") or code in _LOST:
        if not lost and code is None:
            return Failure(_with_code(DatabaseError("the driver refused the statement"), code))
        return Failure(
            _with_code(UnavailableError("the connection to PostgreSQL failed or was lost; check that it runs"), code),
            lost=True,
        )
    if code in _TRANSIENT:
        return Failure(_with_code(UnavailableError(f"PostgreSQL undid the work ({code}); try again"), code), True)
    if code in ("55P03", "57014"):
        message = f"PostgreSQL gave up waiting ({code}); raise lock_timeout or statement_timeout, or try again later"
        return Failure(_with_code(UnavailableError(message), code))
    if code in ("42P01", "3F000"):
        return Failure(SchemaMissingError(f"the tables are missing ({code}); {_SCHEMA_REMEDY}"))
    if code == "42703":
        return Failure(SchemaOutdatedError(f"the tables lack a column ({code}); {_SCHEMA_REMEDY}"))
    if code == "54000":
        return Failure(InvalidValueError("ids", "are together too long for PostgreSQL's indexes, about 2,700 bytes"))
    if code.startswith("53"):
        return Failure(_with_code(StorageFullError(f"PostgreSQL is out of space or memory ({code})"), code))
    if code in ("25006", "42501"):
        return Failure(_with_code(ReadOnlyError(f"PostgreSQL does not allow this write ({code})"), code))
    if code.startswith("28") or code == "3D000":
        message = f"PostgreSQL refused the connection ({code}); check the user, the password and the database's name"
        return Failure(_with_code(UnavailableError(message), code))
    return Failure(
        _with_code(DatabaseError(f"PostgreSQL refused the statement ({code})"), code), duplicate=code == "23505"
    )


def _sqlite(exc: sqlite3.Error) -> Failure:
    code = getattr(exc, "sqlite_errorname", None)
    name = code or type(exc).__name__
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        message = f"the SQLite file stayed locked by another writer ({name}); raise lock_timeout, or try again later"
        return Failure(_with_code(UnavailableError(message), code), transient=True)
    if name == "SQLITE_FULL":
        return Failure(_with_code(StorageFullError(f"the disk is full ({name}); nothing was written"), code))
    if name.startswith(("SQLITE_READONLY", "SQLITE_PERM", "SQLITE_AUTH")):
        return Failure(_with_code(ReadOnlyError(f"the SQLite file cannot be written ({name}); check its rights"), code))
    if name.startswith("SQLITE_CANTOPEN"):
        message = f"the SQLite file cannot be opened ({name}); check that its directory exists and is writable"
        return Failure(_with_code(UnavailableError(message), code))
    if name in ("SQLITE_CORRUPT", "SQLITE_NOTADB"):
        return Failure(_with_code(DatabaseError(f"the file is no sound SQLite database ({name}); restore it"), code))
    return Failure(_with_code(DatabaseError(f"SQLite refused the statement ({name})"), code))


def _with_code(error: DatabaseError, code: str | None) -> DatabaseError:
    error.code = code
    return error
