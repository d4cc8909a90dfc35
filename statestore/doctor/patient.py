"""The database that is examined: a connection that reads only, and whose statements end in time."""

import os
import re
import shlex
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy import URL, Connection, Engine, NullPool, create_engine, text

from statestore import schema
from statestore.engine import engines, hosts, sqlite_files
from statestore.engine.engines import Options
from statestore.engine.execution import translated
from statestore.schema.naming import quoted

_LOCK_TIMEOUT = 2_000
_STEPS = 20_000  # Of SQLite's virtual machine, some milliseconds, between two looks at the clock.


@dataclass(slots=True)
class Patient:
    """What the checks look at, and how."""

    url: URL
    schema: str
    table_prefix: str
    timeout: float
    thorough: bool
    role: str | None
    now: Callable[[], datetime]
    named: Callable[[str], str] | None = None
    """Makes a command that goes to this database; None for one with --url."""
    namespace: str = "default"
    """Which a command takes by itself."""
    connection: Connection = field(init=False)
    tables: frozenset[str] = frozenset()
    """Which of our tables there are."""

    @property
    def on_postgresql(self) -> bool:
        return self.url.get_backend_name() == "postgresql"

    @property
    def path(self) -> Path:
        """SQLite: the file."""
        path = sqlite_files.path_of(self.url)
        assert path is not None
        return path

    def rows(self, sql: str, **params: Any) -> list[Any]:
        """Run a SELECT. `{s}` in it is the schema with its dot, or the prefix; `:schema` the name; $now a parameter."""
        sql = sql.replace("{s}", self.prefix)
        given = {"schema": self.schema, "now": self.time(self.now())} | params
        named = {name: given[name] for name in re.findall(r"(?<!:):([a-z_]+)", sql)}
        return list(self.connection.execute(text(sql), named))

    def one(self, sql: str, **params: Any) -> Any:
        """The first row."""
        return self.rows(sql, **params)[0]

    @property
    def prefix(self) -> str:
        return f"{quoted(self.schema)}." if self.on_postgresql else self.table_prefix

    def names(self, kind: str) -> set[str]:
        """SQLite: of the tables, views or indexes, without the prefix, those that have it."""
        found = self.rows("SELECT name FROM sqlite_master WHERE type = :kind", kind=kind)
        return {name.removeprefix(self.table_prefix) for (name,) in found if name.startswith(self.table_prefix)}

    def time(self, at: datetime) -> Any:
        """A time as the tables have it."""
        return at if self.on_postgresql else f"{at.astimezone(UTC):%Y-%m-%dT%H:%M:%S.%fZ}"

    def from_time(self, value: Any) -> datetime:
        return value.astimezone(UTC) if isinstance(value, datetime) else datetime.fromisoformat(value)

    @contextmanager
    def reading(self) -> Iterator[None]:
        """A transaction that writes nothing, for one check; each of its statements ends in time."""
        if not self.on_postgresql:
            driver: Any = self.connection.connection.driver_connection
            until = time.monotonic() + self.timeout
            driver.set_progress_handler(lambda: time.monotonic() > until, _STEPS)
            try:
                yield
            finally:
                driver.set_progress_handler(None, 0)
            return
        self.connection.exec_driver_sql("BEGIN READ ONLY")
        try:
            limits = f"SET LOCAL statement_timeout = {round(self.timeout * 1000)}; SET LOCAL lock_timeout = "
            self.connection.exec_driver_sql(f"{limits}{_LOCK_TIMEOUT}")
            yield
        finally:
            with suppress(Exception):  # Lost in between: what the check has met is told.
                self.connection.exec_driver_sql("ROLLBACK")

    # Remedies

    @property
    def has_secret(self) -> bool:
        return hosts.has_secret(self.url)

    def within(self, namespace: str) -> str:
        return "" if namespace == self.namespace else f" --namespace {shlex.quote(namespace)}"

    def of_namespace(self, namespace: str) -> str:
        return "" if namespace == self.namespace else f" in namespace {namespace!r}"

    def command(self, words: str, *, as_role: str | None = None) -> str:
        """A command of ours, for this database; a password is never in it."""
        parts = [f"statestore {words}"]
        given = os.environ.get("STATESTORE_URL")
        if as_role is not None and as_role != self.url.username:
            other = hosts.without_secrets(self.url).set(username=as_role)
            parts.append(f"--url {shlex.quote(other.render_as_string())}")
        elif self.named is not None:
            return self.named(words)
        elif not self.has_secret and (given is None or engines.parse(given) != self.url):
            parts.append(f"--url {shlex.quote(self.url.render_as_string())}")
        if self.table_prefix:
            parts.append(f"--table-prefix {self.table_prefix}")
        if self.schema != schema.DEFAULT_SCHEMA and self.on_postgresql:
            parts.append(f"--schema {shlex.quote(self.schema)}")
        return " ".join(parts)


@contextmanager
def connected(patient: Patient) -> Iterator[None]:
    """Connect as the store would, but change nothing.

    Raises:
        DatabaseError: With the words of the server.
    """
    engine = _engine(patient)
    try:
        with translated():
            connection = engine.connect()
        with connection:
            patient.connection = connection
            yield
    finally:
        engine.dispose()


def _engine(patient: Patient) -> Engine:
    if patient.on_postgresql:
        options = Options(
            schema=patient.schema, pool_size=1, prepared_statements=False, timeout=max(2, patient.timeout)
        )
        return engines.make(patient.url, options)
    return create_engine(
        "sqlite://", creator=lambda: _look_into(patient.path, patient.timeout), poolclass=NullPool,
        hide_parameters=True, isolation_level="AUTOCOMMIT",
    )  # fmt: skip


def _look_into(path: Path, timeout: float) -> sqlite3.Connection:
    """A connection that does not write, opened for writing if that is allowed: else the log's files would stay."""
    connection = _open(path, "mode=rw" if os.access(path, os.W_OK) else "mode=ro", timeout)
    connection.execute("PRAGMA query_only = ON")
    return connection


def _open(path: Path, mode: str, timeout: float) -> sqlite3.Connection:
    """A connection that makes no file. In a folder that is read-only, a file without a log can be read by itself."""

    def connect(mode: str) -> sqlite3.Connection:
        uri = f"file:{quote(os.path.abspath(path))}?{mode}"
        made = sqlite3.connect(uri, uri=True, timeout=min(timeout, 5), isolation_level=None, check_same_thread=False)
        try:
            made.execute("SELECT count(*) FROM sqlite_master")
        except sqlite3.OperationalError as error:
            made.close()
            unwritable = ("SQLITE_CANTOPEN", "SQLITE_READONLY", "SQLITE_READONLY_DIRECTORY")
            if mode in ("mode=ro", "mode=rw") and error.sqlite_errorname in unwritable:
                return connect("mode=ro&immutable=1")
            raise
        except BaseException:
            made.close()
            raise
        return made

    return connect(mode)


def writing(patient: Patient) -> sqlite3.Connection:
    """A connection to the SQLite file that may write, to mend something."""
    return _open(patient.path, "mode=rw", 5)


def literal(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"
