"""Which database migrations are for: a URL, an engine or a connection, and what its errors mean."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

from sqlalchemy import URL, Connection, Engine, NullPool, create_engine, event
from sqlalchemy import exc as sqlalchemy_errors

from statestore.checking import checks
from statestore.engine import host_drivers, hosts, sqlite_files
from statestore.engine.driver_errors import raise_alone
from statestore.errors import (
    DatabaseError,
    InvalidValueError,
    ReadOnlyError,
    StateStoreError,
    StorageFullError,
    UnavailableError,
)

Target: TypeAlias = str | URL | Engine | Connection


def engine_for(url: str | URL) -> Engine:
    """An engine that opens a connection for each use, with a driver that blocks."""
    url = parsed_url(url)
    if url.get_backend_name() == "sqlite":
        # The driver begins no transaction by itself: it would do so before some statements only, and too late.
        engine = create_engine(
            url.set(drivername="sqlite"),
            isolation_level="AUTOCOMMIT",
            poolclass=NullPool,
            hide_parameters=True,
            connect_args={"timeout": 30},
        )
        event.listen(engine, "connect", _let_give_space_back)
        return engine
    # No prepared statements: a pooler in between may send each transaction to another server process.
    arguments: dict[str, Any] = {"prepare_threshold": None}
    if "connect_timeout" not in url.query:
        arguments["connect_timeout"] = 10
    if not {"application_name", "fallback_application_name"} & url.query.keys():
        arguments["fallback_application_name"] = "statestore"
    try:
        return create_engine(
            url.set(drivername="postgresql+psycopg"), poolclass=NullPool, hide_parameters=True, connect_args=arguments
        )
    except ModuleNotFoundError as error:
        if error.name != "psycopg":
            raise
        problem = "PostgreSQL needs its driver: pip install 'statestore[postgres]'"
        raise InvalidValueError("target", problem) from None


def _let_give_space_back(connection: Any, _: Any) -> None:
    """Before the first table is made; later it would change nothing, and wait for whoever writes; see `engines`."""
    if connection.execute("PRAGMA page_count").fetchone()[0] == 0:
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")


@contextmanager
def reading(target: Target) -> Iterator[Connection | None]:
    """A connection to read with, left as it was found; None for a SQLite file that does not exist."""
    with our_errors(target):
        if isinstance(target, Connection):
            untouched = not checked_target(target).in_transaction()
            try:
                yield target
            finally:
                if untouched:
                    target.rollback()
        elif isinstance(target, Engine):
            with checked_target(target).connect() as connection:
                yield connection
        else:
            engine = engine_for(target)
            file = sqlite_files.path_of(engine.url) if engine.dialect.name == "sqlite" else None
            if file is not None and not file.exists():
                yield None  # connecting would make it
                return
            with engine.connect() as connection:
                yield connection


def check_how(revision: Any, lock_timeout: Any, wait: Any, progress: Any) -> None:
    """Refuse what a migration cannot be given beside its target."""
    checks.key(revision, "revision")
    checks.patience(lock_timeout, "lock_timeout")
    checks.patience(wait, "wait")
    checks.optional_function(progress, "progress")


def checked_target(target: Any) -> Any:
    if isinstance(target, Connection | Engine) and target.dialect.name in ("postgresql", "sqlite"):
        return target
    raise InvalidValueError("target", "neither a URL nor a (blocking) engine or connection to PostgreSQL or SQLite")


def parsed_url(url: str | URL) -> URL:
    # Plain SQL tools write postgres://, which SQLAlchemy does not take.
    plain = f"postgresql{url[8:]}" if isinstance(url, str) and url.startswith("postgres://") else url
    parsed = hosts.parse(plain, "target")
    if parsed.get_backend_name() not in ("postgresql", "sqlite"):
        raise InvalidValueError("target", f"{parsed.get_backend_name()} is not supported; use PostgreSQL or SQLite")
    return parsed


def shown(target: Target, *, to_paste: bool = False) -> str:
    """The URL of a target without its secrets: with stars in their place, or, for a command *to_paste*, left out."""
    if isinstance(target, Connection):
        target = target.engine
    url = target.url if isinstance(target, Engine) else parsed_url(target)
    url = url.set(drivername=url.get_backend_name())
    return hosts.without_secrets(url).render_as_string() if to_paste else hosts.shown(url)


@contextmanager
def our_errors(target: Target) -> Iterator[None]:
    """Turn what drivers raise into our errors. They are told apart by code; their own text may hold a row's data."""
    try:
        yield
    except StateStoreError:
        raise
    except sqlalchemy_errors.DBAPIError as error:
        raise_alone(_translated(error.orig or error, target))
    except sqlalchemy_errors.TimeoutError:
        message = f"no free connection to {shown(target)}: migrations need two of the engine's pool"
        raise UnavailableError(message) from None
    except Exception as error:
        kind = type(error).__module__.partition(".")[0]
        if kind not in ("sqlite3", "psycopg", "aiosqlite") and host_drivers.code_of(error) is None:
            raise
        raise_alone(_translated(error, target))


_KINDS: tuple[tuple[type[DatabaseError], tuple[str, ...]], ...] = (
    (UnavailableError, ("SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_CANTOPEN")),
    # Connection, authentication, no such database, serialization, too many clients, lock timeout, cancelled, shutdown.
    (UnavailableError, ("08", "28", "3D", "40", "53300", "55P03", "57014", "57P")),
    (ReadOnlyError, ("SQLITE_READONLY", "SQLITE_PERM", "25006", "42501")),
    (StorageFullError, ("SQLITE_FULL", "SQLITE_IOERR_SHMSIZE", "53100")),
)


def _translated(error: BaseException, target: Target) -> DatabaseError:
    code: str | None = getattr(error, "sqlite_errorname", None) or getattr(error, "sqlstate", None)
    if (theirs := host_drivers.code_of(error)) is not None:
        code = theirs[0]
    # Only the first line: what follows may quote a row.
    primary = getattr(getattr(error, "diag", None), "message_primary", None)
    lines = str(primary or error).strip().splitlines()
    message = f"{shown(target)}: {lines[0] if lines else type(error).__name__}" + (f" ({code})" if code else "")
    for kind, codes in _KINDS:
        if code is not None and code.startswith(codes):
            return kind(message, code=code)
    # Without a server there is no code.
    if code is None and type(error).__name__ in ("OperationalError", "ConnectionTimeout"):
        return UnavailableError(message, code=None)
    return DatabaseError(message, code=code)
