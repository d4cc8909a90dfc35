"""Statements, and the link through which repositories run them.

A `Statement` is written once, at import, as SQL with `:named` parameters and `$tokens` for what the databases spell
differently. A `Link` is one checked-out connection together with what every statement needs to know: the namespace,
the time and the dialect. It runs statements on the driver's cursor: SQLAlchemy keeps engines, pools and dialects, but
its `Connection.execute` costs a one-statement operation as much again as the database does.
"""

import re
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import lru_cache
from operator import methodcaller
from typing import Any, Literal, Protocol, TypeAlias, TypeVar

from statestore import schema
from statestore.checking import checks, exactjson
from statestore.engine import host_drivers, sql_tokens, sqlite_values
from statestore.errors import InvalidValueError

F = TypeVar("F")

Params: TypeAlias = dict[str, Any]
Row: TypeAlias = tuple[Any, ...]
Clock: TypeAlias = Callable[[], datetime]
DialectName: TypeAlias = Literal["postgresql", "sqlite"]

_PARAMETER = re.compile(r"(?<![:\w]):([a-z_][a-z0-9_]*)")
# Where the schema's name goes, which is put in last: it may hold whatever looks like a token or a parameter.
_SCHEMA, _SCHEMA_IN_TEXT = "\0", "\1"


class Statement:
    """One SQL statement, for both databases or twice, side by side.

    Tokens, which are put in place for a database when the statement is rendered:

        $TABLE: The table or the view of this name.
        $now: The time of the statement, or of the operation if our clock tells it.
        $hour: The same, cut to the hour.
        $later(X): Now plus the duration X.
        $live: Session `s` has not expired, nor what it is a part of.
        $writable: This transaction may change sessions, as far as the database tells.
        $lock: A row lock on `s`. SQLite needs none, since its write transactions run one at a time.
        $least, $greatest: Functions.
        $bytes(X): The size of the text or JSON X in UTF-8; 0 for NULL.
        $time(:at): A parameter that is a time, where PostgreSQL cannot tell by itself.
        $in(:list): What comes before is in the list, which is one parameter.
        $pin(x): AND the namespace of row `x`, where one server has to be found by it; see `Dialect.distributed`.
        $namespace: The namespace, kept from PostgreSQL's statistics; see `Dialect.distributed`.
        $home, $at_home(TABLE, COLUMN = X): In an INSERT of what a CTE selects: the namespace, and nothing behind the
            CTE. In a distributed database such a row is joined, so that the INSERT runs on the server that has it.
            The INSERT needs an alias, by which RETURNING names its columns.

    Rendering fails if there is no such token.
    """

    __slots__ = ("_sql",)

    def __init__(self, sql: str = "", *, postgresql: str = "", sqlite: str = "") -> None:
        self._sql = {"postgresql": postgresql or sql, "sqlite": sqlite or sql}

    @property
    def postgresql(self) -> str:
        """Its SQL for PostgreSQL, with tokens, to make another statement of."""
        return self._sql["postgresql"]

    def render(self, dialect: "Dialect") -> str:
        sql = sql_tokens.replaced(self._sql[dialect.name], dialect.tokens, dialect.functions)
        if dialect.name == "sqlite":
            return sql.replace(_SCHEMA, dialect.table_prefix)
        # Arrays travel in binary: as text they take twice as long.
        sql = _PARAMETER.sub(
            lambda match: f"%({match[1]}){'b' if match[1].endswith('_array') else 's'}", sql.replace("%", "%%")
        )
        prefixes = {_SCHEMA: dialect.schema_prefix, _SCHEMA_IN_TEXT: dialect.schema_prefix.replace("'", "''")}
        return re.sub(f"[{_SCHEMA}{_SCHEMA_IN_TEXT}]", lambda match: prefixes[match[0]], sql)


class Dialect:
    """How one database spells statements and values. Rendered statements are kept, so each is rendered once."""

    def __init__(
        self,
        name: DialectName,
        *,
        schema_name: str = schema.DEFAULT_SCHEMA,
        server_time: bool = True,
        distributed: bool = False,
        table_prefix: str = "",
    ) -> None:
        self.name = name
        # Of the names of all tables on SQLite, which has no schemas.
        self.table_prefix = table_prefix
        # PostgreSQL's clock serves all hosts alike; a clock handed in replaces it, and SQLite has only ours.
        self.server_time = server_time and name == "postgresql"
        self.distributed = distributed
        # As psycopg takes it, for which a single % begins a parameter.
        self.schema_prefix = '"' + checks.schema_name(schema_name).replace('"', '""').replace("%", "%%") + '".'
        self._prepare()
        # As `time`, for a column that is never empty: without a call in Python, since every entry has one.
        self.instant: Callable[[Any], datetime] = (
            methodcaller("astimezone", UTC) if name == "postgresql" else datetime.fromisoformat
        )

    def _prepare(self) -> None:
        self.tokens = self._tokens()
        self.functions = self._functions()
        self.tokens["live"] = sql_tokens.replaced(schema.LIVE_SESSION, self.tokens, self.functions)
        # Statements built for a shape (a batch size, a set of filters) come and go, so this is bounded.
        self.render: Callable[[Statement], str] = lru_cache(maxsize=1024)(self._render)

    def distribute(self) -> None:
        """Write statements from now on for tables that are distributed by namespace over several servers."""
        if not self.distributed:
            self.distributed = True
            self._prepare()

    def _render(self, statement: Statement) -> str:
        return statement.render(self)

    def _tokens(self) -> dict[str, str]:
        tokens = {name: _SCHEMA + name for name in (*schema.metadata.tables, *schema.VIEWS)}
        if self.name == "sqlite":
            now = ":now"
            tokens |= {"hour": "substr(:now, 1, 13) || ':00:00.000000Z'", "lock": ""}
            tokens |= {"least": "min", "greatest": "max", "writable": "true", "namespace": ":namespace"}
        else:
            now = "statement_timestamp()" if self.server_time else "CAST(:now AS timestamptz)"
            tokens |= {"hour": f"date_trunc('hour', {now}, 'UTC')"}
            # Not FOR UPDATE: that would also stop the foreign key checks of rows that refer to the locked one.
            tokens |= {"lock": "FOR NO KEY UPDATE OF s", "least": "least", "greatest": "greatest"}
            # As a value it is looked up in the statistics, and a namespace that they do not know yet is taken to be
            # empty: then any index that begins with it seems as good as the primary key. But from a subquery nobody
            # can tell which server a namespace is on.
            tokens["namespace"] = ":namespace" if self.distributed else "(SELECT CAST(:namespace AS text))"
            tokens["home"] = "home.namespace" if self.distributed else ":namespace"
            tokens["writable"] = (
                "(current_setting('transaction_read_only') = 'off'"
                f" AND has_any_column_privilege('{_SCHEMA_IN_TEXT}sessions', 'update'))"
            )
        return tokens | {"now": now}

    def _functions(self) -> dict[str, Callable[[str], str]]:
        """The tokens that enclose something."""
        if self.name == "sqlite":
            return {
                "later": sql_tokens.later_sqlite,
                "bytes": sql_tokens.size_sqlite,
                "in": sql_tokens.member_sqlite,
                "time": str,
                "pin": sql_tokens.unpinned,
            }
        return {
            "later": self._later_postgresql,
            "bytes": sql_tokens.size_postgresql,
            "in": sql_tokens.member_postgresql,
            "time": sql_tokens.time_postgresql,
            "pin": sql_tokens.pinned if self.distributed else sql_tokens.unpinned,
            "at_home": self._at_home if self.distributed else sql_tokens.unpinned,
        }

    def _later_postgresql(self, duration: str) -> str:
        # In UTC: in another time zone of the server a day may have 23 hours.
        return f"(({self.tokens['now']} AT TIME ZONE 'UTC' + {duration}) AT TIME ZONE 'UTC')"

    def _at_home(self, row: str) -> str:
        # What a CTE has found is otherwise sent to all servers, and the commit takes two phases on each.
        table, _, which = row.partition(", ")
        return f" JOIN {self.tokens[table]} AS home ON home.namespace = :namespace AND home.{which}"

    def encode(self, value: Any) -> Any:
        """A parameter as the driver takes it. psycopg takes everything as it is; SQLite has no types for these."""
        if self.name == "postgresql":
            return value
        encode = sqlite_values.ENCODERS.get(type(value))
        return value if encode is None else encode(value)

    def time(self, value: Any) -> Any:
        """A time column's value as an aware datetime in UTC; None stays None."""
        if value is None:
            return None
        return datetime.fromisoformat(value) if isinstance(value, str) else value.astimezone(UTC)

    def duration(self, value: Any) -> timedelta | None:
        return timedelta(microseconds=value) if isinstance(value, int) else value

    @staticmethod
    def money(value: Any) -> Decimal | None:  # SQLite's RETURNING gives whole dollars as an int.
        return Decimal(repr(float(value))) if isinstance(value, float | int) else value


@dataclass(frozen=True, slots=True)
class Settings:
    """What a store was opened with, as far as repositories care."""

    namespace: str = "default"
    clock: Clock | None = None
    max_value_bytes: int = exactjson.MAX_BYTES
    families: dict[type, Any] = field(default_factory=dict, compare=False, repr=False)
    """What families of tables were set to, or remember of the database for all who use the store; see `of`."""
    passed_on: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)
    """What another process opens the store with to wait and check as this one does; durations are in seconds."""

    def of(self, kind: type[F]) -> F:
        """The settings or the memory of a family: the one object of *kind*, made when it is first asked for."""
        found: F | None = self.families.get(kind)
        return self.families.setdefault(kind, kind()) if found is None else found


class NeedsTransaction(BaseException):
    """Raised by an operation that tried to do with one statement and found that it takes several.

    The database then runs it again in a transaction. Never seen by a caller; not an Exception, so that no handler
    in between takes it for a failure.
    """


class StartOver(Exception):
    """Raised by an operation that waited for something and found it changed too much to go on.

    Its transaction is undone and run again, as the loser's of a deadlock; if it is a caller's own, that is up to
    the caller, who gets an UnavailableError.
    """


class Connected(Protocol):
    """A connection, checked out of a pool."""

    def cursor(self) -> Any: ...
    def invalidate(self) -> None: ...
    def close(self) -> None: ...


class Link:
    """A connection, checked out for one operation or one transaction. Never commits."""

    __slots__ = (
        "_common",
        "_cursor",
        "_now",
        "_now_us",
        "dialect",
        "held",
        "holds_reads",
        "in_transaction",
        "read_only",
        "settings",
    )

    def __init__(
        self,
        connection: Connected,
        dialect: Dialect,
        settings: Settings,
        *,
        in_transaction: bool = False,
        holds_reads: bool = False,
        read_only: bool = False,
    ) -> None:
        self._cursor = connection.cursor
        self._now: datetime | None = None
        # SQLite has it as text and in microseconds; few operations want it as a time as well.
        self._now_us: int | None = None
        self._common: Params | None = None
        # What repositories have locked until the transaction ends, and need not lock again.
        self.held: set[Any] = set()
        self.dialect = dialect
        self.settings = settings
        self.in_transaction = in_transaction
        # The caller wants nothing to be written, so that the transaction blocks nobody.
        self.read_only = read_only
        # In the caller's transaction on PostgreSQL: what is read must be locked, so that nobody changes it before
        # the transaction ends. SQLite's single writer gives that by itself, and if nothing can be written, nothing
        # can be lost either.
        self.holds_reads = holds_reads and dialect.name == "postgresql" and not host_drivers.refuses_writes(connection)

    def begin_operation(self) -> None:
        """What follows is another operation, at another time."""
        self._now = self._now_us = self._common = None

    @contextmanager
    def within(self, namespace: str) -> Iterator[None]:
        """Work on another namespace than the store's, of which nothing is remembered."""
        before = self.settings
        self.settings, self._common = replace(before, namespace=namespace, families={}), None
        try:
            yield
        finally:
            self.settings, self._common = before, None

    def now(self) -> datetime | None:
        """The time of the operation, to hand to statements; None where the server's own clock is used."""
        if self.dialect.server_time:
            return None
        if self._now is None:
            self._now = self._read_clock() if self._now_us is None else sqlite_values.instant(self._now_us)
        return self._now

    def now_here(self) -> datetime:
        """The time of the operation; that of this process, where the server's own clock is used."""
        return self.now() or datetime.now(UTC)

    def _read_clock(self) -> datetime:
        clock = self.settings.clock
        if clock is None:
            return datetime.now(UTC)
        now: Any = clock()
        if not isinstance(now, datetime) or now.tzinfo is None:
            raise InvalidValueError("clock", "must return an aware datetime, for example datetime.now(timezone.utc)")
        utc: datetime = now.astimezone(UTC)
        return utc

    def _params(self, params: Params) -> Params:
        if self._common is None:
            self._common = self._make_common()
        full = self._common | params
        if self.dialect.name == "sqlite":
            # Most parameters are text and numbers, which go as they are: this is run for every statement.
            for name, value in params.items():
                encode = sqlite_values.ENCODERS.get(type(value))
                if encode is not None:
                    full[name] = encode(value)
        return full

    def _make_common(self) -> Params:
        """The parameters of every statement of the operation."""
        namespace = self.settings.namespace
        if self.dialect.name == "sqlite":
            now_us = self._microseconds()
            return {"namespace": namespace, "now": sqlite_values.time_text(now_us), "now_us": now_us}
        now = self.now()
        return {"namespace": namespace} if now is None else {"namespace": namespace, "now": now}

    def _microseconds(self) -> int:
        """The time of the operation since 1970. The system's clock tells it at a tenth of what a `datetime` costs."""
        if self._now_us is None:
            if self._now is None and self.settings.clock is not None:
                self._now = self._read_clock()
            self._now_us = time.time_ns() // 1000 if self._now is None else sqlite_values.microseconds(self._now)
        return self._now_us

    def all(self, statement: Statement, /, **params: Any) -> Sequence[Row]:
        """Run *statement* and return its rows."""
        cursor = self._cursor()
        try:
            cursor.execute(self.dialect.render(statement), self._params(params))
            rows: Sequence[Row] = cursor.fetchall()
        except BaseException:
            cursor.close()  # An error remembers the cursor, and that a statement of SQLite's, which has not ended.
            raise
        return rows

    def pages(self, statement: Statement, size: int, /, **params: Any) -> Generator[Sequence[Row], None, None]:
        """Run *statement* and go through its rows, so many at a time: rows take more memory than what they hold.

        There is at least one page, which may be empty. To be gone through to the end, or closed.
        """
        cursor = self._cursor()
        try:
            cursor.execute(self.dialect.render(statement), self._params(params))
            while True:
                rows: Sequence[Row] = cursor.fetchmany(size)
                yield rows
                if len(rows) < size:
                    return
        finally:
            cursor.close()

    def one(self, statement: Statement, /, **params: Any) -> Row | None:
        """Run *statement* and return its first row."""
        rows = self.all(statement, **params)
        return rows[0] if rows else None

    def only(self, statement: Statement, /, **params: Any) -> Row:
        """Run *statement*, which has one row whatever it finds, such as a count, and return that row."""
        (row,) = self.all(statement, **params)
        return row

    def run(self, statement: Statement, /, **params: Any) -> int:
        """Run *statement* and return how many rows it wrote."""
        cursor = self._cursor()
        try:
            cursor.execute(self.dialect.render(statement), self._params(params))
            written: int = cursor.rowcount
            return written
        finally:
            cursor.close()

    def many(self, statement: Statement, rows: Iterable[Params], /, **params: Any) -> None:
        """Run *statement* once for each of *rows*; *params* are common to all."""
        common = self._params(params)
        full = [common | row for row in rows]
        if self.dialect.name == "sqlite":
            for row in full:
                for name, value in row.items():
                    encode = sqlite_values.ENCODERS.get(type(value))
                    if encode is not None:
                        row[name] = encode(value)
        if not full:
            return
        cursor = self._cursor()
        try:
            cursor.executemany(self.dialect.render(statement), full)
        finally:
            cursor.close()
