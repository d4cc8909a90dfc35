"""What a driver's error means: which error of ours it becomes, and whether to try again.

Recognised by code, SQLSTATE or SQLite's error name, never by message text.

A driver's message, and PostgreSQL's DETAIL even more so, can hold values of somebody's rows. So nothing of it is kept:
our error carries the code, and is raised by `raise_alone`, without the driver's as its cause or its context. Only what
is said while a connection is made holds nothing of the kind; see `connection_errors`.
"""

import re
import sqlite3
import sys
import time
from dataclasses import dataclass
from typing import NoReturn

from sqlalchemy import exc as sqlalchemy_errors

from statestore import schema
from statestore.engine import host_drivers
from statestore.engine.calls import READING, Call
from statestore.engine.connection_errors import NotConnected, is_from_connecting, not_connected
from statestore.engine.sql import StartOver
from statestore.engine.waits import no_connection, out_of_time
from statestore.errors import (
    CommitUnknownError,
    DatabaseError,
    InvalidValueError,
    ReadOnlyError,
    SchemaMissingError,
    SchemaOutdatedError,
    StateStoreError,
    StorageFullError,
    UnavailableError,
)
from statestore.schema import VERSION_TABLE


@dataclass(frozen=True, slots=True)
class Failure:
    """A driver's error, understood.

    Attributes:
        error: What the caller gets if nothing helps.
        transient: The database has undone the work, and a second try may succeed.
        lost: The connection is gone. What was sent last may have been done.
        duplicate: A row with this unique key exists already.
        demoted: The server does not accept writes, and has not applied this one. If a new connection may lead to
            another server, this one and those like it are useless.
    """

    error: StateStoreError
    transient: bool = False
    lost: bool = False
    duplicate: bool = False
    demoted: bool = False


def classify(exc: BaseException, *, reading: bool = False) -> Failure | None:
    """What *exc* means; None if it is not a driver's error but a bug, which must look like one.

    *reading*: whether the operation that raised it only reads.
    """
    if isinstance(exc, sqlalchemy_errors.DBAPIError) and exc.orig is not None:
        exc = exc.orig
    if isinstance(exc, NotConnected):
        return Failure(exc.error, lost=exc.may_pass)
    if isinstance(exc, sqlalchemy_errors.TimeoutError):
        return Failure(no_connection())
    if _quotes_damage(exc):
        return _unsound("SQLITE_CORRUPT")
    if isinstance(exc, sqlite3.Error):
        return _sqlite(exc)
    if isinstance(exc, StartOver):
        return Failure(UnavailableError("a session was deleted and made again meanwhile; try again"), transient=True)
    psycopg = sys.modules.get("psycopg")
    if psycopg is not None and isinstance(exc, psycopg.Error):
        if exc.sqlstate is None and is_from_connecting(exc):
            return classify(not_connected(exc))
        if exc.sqlstate == _NOT_ALLOWED:
            return _not_allowed(exc.diag.message_primary or "", reading)
        return _postgresql(exc.sqlstate, lost=isinstance(exc, psycopg.OperationalError | psycopg.InterfaceError))
    found = host_drivers.code_of(exc)
    if found is None:
        return None
    code, lost = found
    return _not_allowed(str(exc), reading) if code == _NOT_ALLOWED else _postgresql(code, lost=lost)


def moved(error: StateStoreError) -> UnavailableError:
    """That the server no longer takes writes; another one may, which a new connection finds."""
    code: str | None = getattr(error, "code", None)
    return UnavailableError(
        f"the PostgreSQL server no longer takes writes ({code}), and nothing was written; try again when one of the "
        "hosts in the URL does",
        code=code,
    )


_DRIVERS = frozenset(
    {"psycopg", "psycopg_binary", "psycopg_c", "sqlite3", "aiosqlite", "sqlalchemy", *host_drivers.NAMES}
)


def raise_alone(error: Exception) -> NoReturn:
    """Raise *error* without the driver's error that is being handled.

    `from None` would hide that one from a traceback, but leave it in `__context__`, where error trackers look: with
    values of rows, the parameters, and the password of the connection.
    """
    try:
        raise error from None
    finally:
        ours: BaseException | None = error
        while ours is not None and _is_of_statestore(ours):
            context = ours.__context__
            while context is not None and _is_internal(context):
                context = context.__context__
            ours.__context__ = context
            ours = context


def _is_of_statestore(exc: BaseException) -> bool:
    return type(exc).__module__.partition(".")[0] == "statestore"


def _is_internal(exc: BaseException) -> bool:
    """Whether an exception is a driver's, or one that is only passed about inside the package."""
    if _is_of_statestore(exc):
        return not isinstance(exc, StateStoreError)
    return type(exc).__module__.partition(".")[0] in _DRIVERS or _quotes_damage(exc)


def _quotes_damage(exc: BaseException) -> bool:
    """Whether it is what SQLite says of a damaged schema: it quotes that, which sqlite3 fails to decode."""
    return isinstance(exc, UnicodeDecodeError) and exc.object.startswith(b"malformed database schema")


_SCHEMA_REMEDY = "bring the schema up to date with 'statestore migrate up'"

_ENDED = {
    "57P01": "it was shut down, or told to",
    "57P02": "another of its processes crashed",
    "57P03": "it is starting or stopping",
    "57P04": "the database was dropped",
    "57P05": "it was idle for longer than idle_session_timeout",
    "25P03": "its transaction was idle for longer than idle_in_transaction_session_timeout",
    "25P04": "its transaction took longer than transaction_timeout",
}
_NOT_ALLOWED = "42501"
_TRANSIENT = frozenset({"40001", "40P01"})


def _postgresql(code: str | None, *, lost: bool) -> Failure:
    if code in _ENDED:
        message = f"PostgreSQL ended the connection: {_ENDED[code]} ({code}); try again"
        return Failure(_with_code(UnavailableError(message), code), lost=True)
    if code == "53300":
        message = f"PostgreSQL has no connection left ({code}); use a smaller pool_size, or raise max_connections"
        return Failure(_with_code(UnavailableError(message), code), lost=True)
    if code is None or code.startswith("08"):
        if not lost and code is None:
            return Failure(_with_code(DatabaseError("the driver refused the statement"), code))
        return Failure(
            _with_code(UnavailableError("the connection to PostgreSQL was lost; check that it runs"), code),
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
        return Failure(InvalidValueError("ids", "are too long in total for PostgreSQL's indexes, about 2,700 bytes"))
    if code.startswith("53"):
        return Failure(_with_code(StorageFullError(f"PostgreSQL is out of space or memory ({code})"), code))
    if code in ("25006", _NOT_ALLOWED):
        error = ReadOnlyError(f"PostgreSQL does not allow this write ({code})")
        return Failure(_with_code(error, code), demoted=code == "25006")
    if code.startswith("28") or code == "3D000":
        message = f"PostgreSQL refused the connection ({code}); check the user, the password and the database's name"
        return Failure(_with_code(UnavailableError(message), code))
    return Failure(
        _with_code(DatabaseError(f"PostgreSQL refused the statement ({code})"), code), duplicate=code == "23505"
    )


def _not_allowed(message: str, reading: bool) -> Failure:
    """That the role lacks a privilege, and on which table: its name is nobody's value, the same in each language."""
    names = {VERSION_TABLE, *schema.metadata.tables, *schema.VIEWS}
    where = max(names.intersection(re.findall(r"\w+", message)), key=len, default="the schema, or on what is in it")
    remedy = "'statestore doctor --check grants' says what to grant"
    if reading:
        problem = f"the role that connects lacks the right to SELECT on {where} ({_NOT_ALLOWED}); {remedy}"
        return Failure(_with_code(DatabaseError(problem), _NOT_ALLOWED))
    problem = (
        f"PostgreSQL does not allow this write ({_NOT_ALLOWED}): the role that connects lacks a privilege on {where}"
    )
    return Failure(_with_code(ReadOnlyError(f"{problem}; {remedy}"), _NOT_ALLOWED))


def _sqlite(exc: sqlite3.Error) -> Failure:
    code = getattr(exc, "sqlite_errorname", None)
    name = code or type(exc).__name__
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        message = f"the SQLite file stayed locked by another writer ({name}); raise lock_timeout, or try again later"
        return Failure(_with_code(UnavailableError(message), code), transient=True)
    if name in ("SQLITE_FULL", "SQLITE_IOERR_SHMSIZE"):  # The latter: no room for the log's index, beside the file.
        return Failure(_with_code(StorageFullError(f"the disk is full ({name}); nothing was written"), code))
    if name.startswith(("SQLITE_READONLY", "SQLITE_PERM", "SQLITE_AUTH")):
        return Failure(
            _with_code(ReadOnlyError(f"the SQLite file cannot be written ({name}); check its permissions"), code)
        )
    if name.startswith("SQLITE_CANTOPEN"):
        message = f"the SQLite file cannot be opened ({name}); check that its directory exists and is writable"
        return Failure(_with_code(UnavailableError(message), code))
    if name in ("SQLITE_CORRUPT", "SQLITE_NOTADB"):
        return _unsound(name)
    return Failure(_with_code(DatabaseError(f"SQLite refused the statement ({name})"), code))


def _unsound(code: str) -> Failure:
    message = f"the file is damaged, or not a SQLite database ({code}); restore it from a backup"
    return Failure(_with_code(DatabaseError(message), code))


def _with_code(error: DatabaseError, code: str | None) -> DatabaseError:
    error.code = code
    return error


def classify_or_raise(exc: Exception, *, reading: bool = False) -> Failure:
    """As `classify`; a bug is raised again."""
    failure = classify(exc, reading=reading)
    if failure is None:
        raise exc
    return failure


class Retryable(Exception):
    """A failure that may pass: the call is tried again."""

    def __init__(self, error: StateStoreError) -> None:
        super().__init__(type(error).__name__)
        self.error = error


def raise_for(exc: Exception, call: Call, *, elsewhere: bool = False) -> NoReturn:
    """Decide whether a failed call is tried again: raise `Retryable` if so, else the error that its caller gets.

    Another try has to be safe and likely to help: what was perhaps done is repeated only if the call is repeatable.

    *elsewhere*: a new connection may lead to another server.

    What may have been done stays so until an attempt finds out: see `final_error`.
    """
    failure = classify(exc, reading=call.mode in READING)
    if failure is None:
        raise exc
    if failure.lost and call.sent:
        call.unsettled = True
    if call.unsettled and not call.repeatable:
        raise_alone(commit_unknown(failure.error))
    if call.given_up or time.monotonic() >= call.ends_at:
        raise_alone(out_of_time())
    if failure.demoted and elsewhere:
        raise_alone(Retryable(moved(failure.error)))
    if failure.transient or failure.lost:
        raise_alone(Retryable(failure.error))
    raise_alone(failure.error)


def raise_again(exc: Exception, until: float) -> NoReturn:
    """As `raise_for`, for what cannot have done anything."""
    if isinstance(exc, StateStoreError | Retryable):
        raise exc
    failure = classify_or_raise(exc)
    if time.monotonic() >= until:
        raise_alone(out_of_time())
    raise_alone(Retryable(failure.error) if failure.lost else failure.error)


def final_error(error: StateStoreError) -> CommitUnknownError:
    """The error that a call ends with that may have been done: not one that says nothing was written."""
    return error if isinstance(error, CommitUnknownError) else commit_unknown(error)


def commit_unknown(error: StateStoreError) -> CommitUnknownError:
    """The error for a write that may have been applied; *error* is what the attempt to find out raised."""
    return CommitUnknownError(
        "the connection was lost while the write was under way; it may or may not have been applied "
        f"({type(error).__name__} since): read before you repeat it",
        code=getattr(error, "code", None),
    )
