"""Databases of other frameworks: opened read-only, read in pages, and brought in session by session.

Every session is compared with the store at the end: as many entries, and with the same content, as were read from the
source. Its entries have ids and times of the source, so an import that is repeated adds only what is new.
"""

import hashlib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from sqlalchemy import (
    URL,
    ColumnClause,
    ColumnElement,
    Connection,
    Engine,
    NullPool,
    RowMapping,
    Select,
    TableClause,
    column,
    create_engine,
    event,
    func,
    inspect,
    literal,
    select,
    table,
    tuple_,
)
from sqlalchemy.exc import NoSuchTableError
from sqlalchemy.sql.visitors import iterate

from statestore.checking import exactjson
from statestore.engine import hosts, sqlite_files
from statestore.engine.migration_targets import engine_for, our_errors
from statestore.errors import ConflictError, DatabaseError, InvalidValueError
from statestore.importers.problems import OnProblem, Problems, check_functions, check_store
from statestore.importers.source_values import time_of
from statestore.values.history import NewEntry
from statestore.values.sessions import NewSession

if TYPE_CHECKING:
    from statestore.store import StateStore

Address: TypeAlias = hosts.Address
Progress: TypeAlias = Callable[[int], object]

PAGE = 500
# Errors of one session; all others are errors of a database.
REFUSED = (ConflictError, InvalidValueError)


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseReport:
    """What an import from the database of a framework did."""

    sessions: int = 0
    """Sessions of the source that are in the store now."""
    entries: int = 0
    """Entries of these in the source."""
    added: int = 0
    """Entries that were appended; the others were there already."""
    unchanged: int = 0
    """Sessions that were there already, with all entries."""
    failed: int = 0
    """Sessions that were left out, as a whole or from some entry on; each was reported."""
    differing: tuple[str, ...] = ()
    """Ids of sessions that do not begin with the entries of the source: one side was changed since."""

    @property
    def complete(self) -> bool:
        """Whether the store has everything that the source has."""
        return not self.failed and not self.differing


class Source:
    """A database that another framework wrote, read-only."""

    def __init__(self, connection: Connection, name: str) -> None:
        self._connection = connection
        self.name = name
        """Its URL without secrets, for messages."""
        self._columns: dict[tuple[str | None, str], frozenset[str]] = {}

    def tables(self, *, schema: str | None = None) -> frozenset[str]:
        """The names of its tables: in *schema*, or in the one that a new connection uses."""
        with self._reading():
            return frozenset(inspect(self._connection).get_table_names(schema))

    def columns(self, name: str, *, schema: str | None = None) -> frozenset[str]:
        """The names of a table's columns.

        Raises:
            InvalidValueError: There is no such table.
        """
        if (schema, name) not in self._columns:
            try:
                with self._reading():
                    found = inspect(self._connection).get_columns(name, schema)
            except NoSuchTableError:
                raise InvalidValueError(self.name, f"has no table {name!r}; which version wrote it?") from None
            self._columns[schema, name] = frozenset(each["name"] for each in found)
        return self._columns[schema, name]

    def indexes(self, name: str, *, schema: str | None = None) -> frozenset[str | None]:
        """The names of a table's indexes."""
        with self._reading():
            return frozenset(found["name"] for found in inspect(self._connection).get_indexes(name, schema))

    def require(self, name: str, framework: str, *, schema: str | None = None) -> None:
        """Make sure that there is such a table.

        Raises:
            InvalidValueError: There is none, so this is not a database of *framework*.
        """
        if name not in self.tables(schema=schema):
            raise InvalidValueError(
                self.name, f"has no table {name!r} in its default schema; is it a database of {framework}?"
            )

    def rows(
        self,
        name: str,
        *columns: str,
        key: tuple[str, ...],
        where: Mapping[str, Any] | None = None,
        schema: str | None = None,
        page: int = PAGE,
    ) -> Iterator[RowMapping]:
        """The rows of a table in the order of *key*, read *page* at a time, each page in a transaction of its own.

        Rows in which a column of *key* is NULL are left out; `rows_without` tells whether there are some. Values are as
        the driver has them, but JSON is text on both databases: see `json_of`, and `time_of`.

        Args:
            name: The table.
            columns: What to read. The columns of *key* are read, too.
            key: Columns that together are unique, best those of an index.
            where: Values that columns must have.
            schema: Where the table is on PostgreSQL.
            page: How many rows are in memory at a time.
        """
        keys: list[ColumnElement[Any]] = [column(part) for part in key]
        wanted: list[ColumnElement[Any]] = [column(part) for part in dict.fromkeys((*key, *columns))]
        chosen: Select[Any] = select(*wanted).select_from(table(name, schema=schema)).order_by(*keys).limit(page)
        for part, value in (where or {}).items():
            chosen = chosen.where(column(part) == value)
        for part in key:
            chosen = chosen.where(column(part).is_not(None))
        after: ColumnElement[bool] | None = None
        while True:
            rows = self.read(chosen if after is None else chosen.where(after))
            yield from rows
            if len(rows) < page:
                return
            after = tuple_(*keys) > tuple_(*(rows[-1][part] for part in key))

    def rows_without(self, name: str, value: str, *, schema: str | None = None) -> bool:
        """Whether there are rows in a table whose column *value* is NULL."""
        rows: Select[Any] = select(column(value)).select_from(table(name, schema=schema))
        return bool(self.read(rows.where(column(value).is_(None)).limit(1)))

    def server_time(self, value: Any, where: str) -> datetime | None:
        """As `time_of`, of a time from the server's own clock: PostgreSQL has it in the time zone of the database.

        Raises:
            InvalidValueError: It is not a time; the message begins with *where*.
        """
        if isinstance(value, datetime) and value.tzinfo is None:
            zone = func.current_setting("TimeZone")
            [[value]] = [row.values() for row in self.read(select(func.timezone(zone, literal(value))))]
        return time_of(value, where)

    def read(self, statement: Select[Any]) -> list[RowMapping]:
        """All rows of a statement, in a transaction of its own."""
        self._check_columns(statement)
        with self._reading():
            return list(self._connection.execute(statement).mappings())

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Read all within as of one time on PostgreSQL, for rows of several tables that belong together.

        On SQLite each read stays by itself: a snapshot would block writers if the file has no write-ahead log.
        """
        if self._connection.dialect.name == "sqlite":
            yield
            return
        transaction = self._connection.begin()
        try:
            yield
        finally:
            with _errors_of(self.name):
                transaction.close()

    def _check_columns(self, statement: Select[Any]) -> None:
        """Make sure that the table has what is read: databases name the column that is missing, and not its table.

        Raises:
            DatabaseError: It does not.
        """
        read = {each.name for each in iterate(statement) if isinstance(each, ColumnClause)}
        for found in statement.get_final_froms():
            if isinstance(found, TableClause) and (missing := read - self.columns(found.name, schema=found.schema)):
                names = ", ".join(map(repr, sorted(missing)))
                raise DatabaseError(
                    f"{self.name}: has no column {names} in its table {found.name!r}; which version wrote it?",
                    source=self.name,
                )

    @contextmanager
    def _reading(self) -> Iterator[None]:
        with _errors_of(self.name):
            if self._connection.in_transaction():  # That of a snapshot.
                yield
            else:
                with self._connection.begin():
                    yield


@contextmanager
def opened(url: Address) -> Iterator[Source]:
    """The database at *url*, read-only: PostgreSQL, or a SQLite file, by URL or by path. Its driver does not matter.

    Raises:
        InvalidValueError: It cannot be read as a URL, or there is no such file.
        UnavailableError: The server cannot be reached.
    """
    if isinstance(url, str) and url:
        url = re.sub("^postgres://", "postgresql://", url) if "://" in url else Path(url)
    parsed = hosts.parse(url, "url")
    kind = parsed.get_backend_name()
    if kind not in ("sqlite", "postgresql"):
        raise InvalidValueError("url", f"{kind} is not supported; use postgresql:// or sqlite://")
    parsed = parsed.set(drivername=kind)
    engine = _engine_of_file(parsed) if kind == "sqlite" else engine_for(parsed)
    if kind == "postgresql":
        event.listen(engine, "connect", _leave_json_as_text)
    name = hosts.shown(parsed)
    try:
        with _errors_of(name):
            connection = engine.connect()
        with connection:
            if kind == "postgresql":
                # In each transaction, not in the session, which a pooler would hand to others.
                connection = connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
            yield Source(connection, name)
    finally:
        engine.dispose()


@contextmanager
def importing(
    store: "StateStore", url: Address, progress: Progress | None, on_problem: OnProblem | None
) -> Iterator[tuple[Source, "Import"]]:
    """The database at *url*, as by `opened`, and an import from there; what it is given is checked before."""
    check_store(store)
    check_functions(progress=progress, on_problem=on_problem)
    with opened(url) as source:
        yield source, Import(store, source, progress, on_problem)


@contextmanager
def _errors_of(name: str) -> Iterator[None]:
    """As `our_errors`, with *name* as the `source` of an error: an import has two databases that may fail."""
    try:
        with our_errors(name):
            yield
    except DatabaseError as error:
        said = str(error)
        if (error.code or "").startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
            said = f"{name}: is damaged, or is not a SQLite database ({error.code}); import a backup of it"
        raise type(error)(said, code=error.code, source=name) from None


def _engine_of_file(url: URL) -> Engine:
    path = sqlite_files.path_of(url)
    if path is None or not os.path.isfile(path):
        raise InvalidValueError("url", f"there is no SQLite file {str(path or '')!r}")
    read_only = URL.create("sqlite", database=path.absolute().as_uri(), query={"mode": "ro", "uri": "true"})
    # Not `engine_for`, which prepares an empty file to be written.
    return create_engine(
        read_only,
        isolation_level="AUTOCOMMIT",
        poolclass=NullPool,
        hide_parameters=True,
        connect_args={"timeout": 30},
    )


def _leave_json_as_text(connection: Any, _: Any) -> None:
    """The driver would decode it, and round large numbers."""
    from psycopg.types.string import TextLoader

    for kind in ("json", "jsonb"):
        connection.adapters.register_loader(kind, TextLoader)


class Import:
    """An import into a store, session by session."""

    def __init__(self, store: "StateStore", source: Source, progress: Progress | None, on_problem: OnProblem | None):
        self.store = store
        self._source = source
        self._progress = progress
        self._problems = Problems(on_problem)
        self._sessions = self._entries = self._added = self._unchanged = 0
        self._differing: list[str] = []

    def bring(self, session_id: str, new: NewSession, entries: Iterable[NewEntry], *, just_made: bool = False) -> bool:
        """Create a session if there is none, append those of *entries* that it lacks, and compare it with them.

        Args:
            session_id: Its id in the store.
            new: What it is to be like if it is created. A session of another user is left as it is.
            entries: All entries of the source, oldest first, each with its `entry_id` and `created_at`. What they raise
                as `InvalidValueError` is a problem of this session.
            just_made: Whether the session is there only because the caller has made it.

        Returns:
            Whether all of it is in the store. If not, that was reported, unless the session is one that differs.
        """
        given = iter(entries)
        digest = hashlib.sha256()
        count = added = 0
        try:
            just_made = just_made or not self.store.sessions.exists(session_id)
            attributes: dict[str, Any] = {field.name: getattr(new, field.name) for field in fields(new)}
            there = self.store.sessions.open(session_id, **attributes)
            if new.user_id is not None and there.user_id not in (None, new.user_id):
                raise InvalidValueError(
                    "user_id", "differs from the user of the stored session with this id; import into another namespace"
                )
            first_new = there.next_seq
            while page := list(islice(given, PAGE)):
                stored = self.store.history.append(session_id, page, on_conflict="keep")
                added += sum(entry.seq >= first_new for entry in stored)
                for entry in page:
                    _add(digest, entry.entry_id, entry.content)
                count += len(page)
                if self._progress is not None:
                    self._progress(len(page))
        except REFUSED as error:
            self._added += added
            self.refuse(session_id, error)
            return False
        self._sessions += 1
        self._entries += count
        self._added += added
        self._unchanged += not (added or just_made)
        if self._digest(session_id, count) == (count, digest.hexdigest()):
            return True
        self._differing.append(session_id)
        return False

    def refuse(self, session_id: str | None, error: InvalidValueError | ConflictError) -> None:
        """Report a session that is left out, or of which a part is."""
        shown = "without an id" if session_id is None else repr(session_id[:80])
        self._problems.report(f"{self._source.name}: session {shown}", error)

    def differs(self, session_id: str) -> None:
        """Note that a session is not what the source has, in something that `bring` does not compare."""
        if session_id not in self._differing:
            self._differing.append(session_id)

    def report(self) -> DatabaseReport:
        return DatabaseReport(
            sessions=self._sessions,
            entries=self._entries,
            added=self._added,
            unchanged=self._unchanged,
            failed=self._problems.count,
            differing=tuple(self._differing),
        )

    def _digest(self, session_id: str, count: int) -> tuple[int, str]:
        """How many of the first *count* entries a session has, and what they are."""
        digest = hashlib.sha256()
        found = 0
        for entry in islice(self.store.history.iterate(session_id), count):
            _add(digest, entry.entry_id, entry.content)
            found += 1
        return found, digest.hexdigest()


def _add(digest: "hashlib._Hash", entry_id: str | None, content: Any) -> None:
    # No JSON has a line break in it.
    digest.update(f"{exactjson.text(entry_id)}\n{exactjson.text(content)}\n".encode())
