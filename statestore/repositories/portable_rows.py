"""Rows as they stand, out of the tables and into them, in values that are the same for both databases."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from typing import Any

import orjson
from sqlalchemy import Column, String, Table

from statestore import checks, column_types, exactjson, schema
from statestore.errors import ConflictError, InvalidValueError
from statestore.repositories import segments, session_life, session_rows
from statestore.repositories.base import Repository, reads, writes
from statestore.repositories.segments import Segment
from statestore.sql import Dialect, Params, Row, Statement, sqlite_time
from statestore.values import STATUSES

# A record's name in the file, and its table. Sessions come first: all other rows refer to them.
TABLES: dict[str, Table] = {
    "session": schema.sessions,
    "segment": schema.session_segments,
    "entry": schema.history_entries,
    "state": schema.state_entries,
    "summary": schema.summaries,
    "usage": schema.usage_ledger,
}
# The namespace is that of the store; a lease does not survive the journey; the hour follows from the time.
_NOT_CARRIED = ("namespace", "lease_owner", "lease_token", "lease_until", "active_hour")
_SESSIONS_AT_ONCE = 500
_ROWS_AT_ONCE = 500
_MICROSECOND = timedelta(microseconds=1)


def _carried(table: Table) -> list[Column[Any]]:
    return [column for column in table.columns if column.name not in _NOT_CARRIED]


def _select(table: Table, where: str) -> Statement:
    order = ", ".join(f"t.{column.name}" for column in table.primary_key if column.name != "namespace")
    tail = f" FROM {{{table.name}}} AS t WHERE t.namespace = :namespace AND {where} ORDER BY {order} LIMIT :limit"

    def head(json: str) -> str:
        exact = column_types.ExactJson
        columns = [json % c.name if isinstance(c.type, exact) else f"t.{c.name}" for c in _carried(table)]
        return "SELECT " + ", ".join(columns)

    return Statement(postgresql=head("CAST(t.%s AS text)") + tail, sqlite=head("t.%s") + tail)


_LIVE = "(t.expires_at IS NULL OR t.expires_at > {now})"
_OF_SESSION = "t.session_id = :session_id"
_SESSIONS = _select(schema.sessions, f"{_LIVE} AND t.session_id > :after")
_SESSIONS_OF_USER = _select(schema.sessions, f"{_LIVE} AND t.session_id > :after AND t.user_id = :user_id")
_SESSION = _select(schema.sessions, f"{_LIVE} AND {_OF_SESSION}")
_ENTRIES = _select(schema.history_entries, f"{_OF_SESSION} AND t.seq BETWEEN :from_seq AND :to_seq")
_STATE = _select(schema.state_entries, f"{_OF_SESSION} AND {_LIVE}")
_SUMMARIES = _select(schema.summaries, _OF_SESSION)
_USAGE = _select(schema.usage_ledger, _OF_SESSION)
_ALL_USAGE = _select(
    schema.usage_ledger,
    "(t.session_id, t.bucket_at, t.line) > (:after_id, CAST(:after_at AS timestamptz), :after_line)",
)
_ALL_USAGE_SQLITE = _select(
    schema.usage_ledger, "(t.session_id, t.bucket_at, t.line) > (:after_id, :after_at, :after_line)"
)
_EVERYTHING = 2**61

_RANGE = Statement("""
    SELECT s.first_seq, s.next_seq - 1 FROM {sessions} AS s
    WHERE s.namespace = :namespace AND s.session_id = :session_id""")

_DELETE_USAGE = Statement("DELETE FROM {usage_ledger} WHERE namespace = :namespace AND session_id = :session_id")

_FIND_USAGE = Statement(
    "SELECT 1 FROM {usage_ledger} WHERE namespace = :namespace AND session_id = :session_id LIMIT 1"
)


@lru_cache(maxsize=64)
def _insert(kind: str, columns: tuple[str, ...]) -> Statement:
    table = TABLES[kind]
    names = ["namespace", *columns] + (["active_hour"] if kind == "session" else [])
    values = [f":{name}" for name in names]
    return Statement(f"INSERT INTO {{{table.name}}} ({', '.join(names)}) VALUES ({', '.join(values)})")


@dataclass(frozen=True, slots=True)
class Record:
    """A row on its way into the store: values as `decode` gives them, and where it comes from, for messages."""

    kind: str
    values: Params
    where: str


class PortableWork(Repository):
    """The steps of export and import; no operations of their own. They run in one transaction."""

    @reads
    def sessions(self, *, session_ids: Sequence[str] | None, user_id: str | None, after: str) -> list[dict[str, Any]]:
        """The sessions behind *after*, in the order of their ids; a part of them at a time."""
        if session_ids is not None:
            wanted = [session_id for session_id in sorted(set(session_ids)) if session_id > after][:_SESSIONS_AT_ONCE]
            rows = [row for name in wanted for row in self._link.all(_SESSION, session_id=name, limit=1)]
        elif user_id is not None:
            rows = [*self._link.all(_SESSIONS_OF_USER, after=after, user_id=user_id, limit=_SESSIONS_AT_ONCE)]
        else:
            rows = [*self._link.all(_SESSIONS, after=after, limit=_SESSIONS_AT_ONCE)]
        return [self._values("session", row) for row in rows]

    @reads
    def pieces(self, session_id: str) -> list[Segment]:
        """The history of a session, as ranges of rows and who owns them."""
        row = self._link.one(_RANGE, session_id=session_id)
        return [] if row is None else segments.view(segments.of(self._link, session_id), session_id, *row)

    @reads
    def entries(self, owner: str, from_seq: int, to_seq: int) -> list[dict[str, Any]]:
        """Rows of an owner; a part of them at a time."""
        rows = self._link.all(_ENTRIES, session_id=owner, from_seq=from_seq, to_seq=to_seq, limit=_ROWS_AT_ONCE)
        return [self._values("entry", row) for row in rows]

    @reads
    def state(self, session_id: str) -> list[dict[str, Any]]:
        rows = self._link.all(_STATE, session_id=session_id, limit=_EVERYTHING)
        return [self._values("state", row) for row in rows]

    @reads
    def summaries(self, session_id: str) -> list[dict[str, Any]]:
        rows = self._link.all(_SUMMARIES, session_id=session_id, limit=_EVERYTHING)
        return [self._values("summary", row) for row in rows]

    @reads
    def usage(self, session_id: str) -> list[dict[str, Any]]:
        """A session's lines of the ledger."""
        rows = self._link.all(_USAGE, session_id=session_id, limit=_EVERYTHING)
        return [self._values("usage", row) for row in rows]

    @reads
    def all_usage(self, after: Mapping[str, Any] | None) -> list[dict[str, Any]]:
        """The lines of the ledger behind *after*, those of sessions that are gone too; a part of them at a time."""
        statement = _ALL_USAGE_SQLITE if self._link.dialect.name == "sqlite" else _ALL_USAGE
        position = {"after_id": "", "after_at": datetime.min.isoformat() + ".000000Z", "after_line": 0}
        if after is not None:
            at = after["bucket_at"]
            position = {"after_id": after["session_id"], "after_at": at, "after_line": after["line"]}
        rows = self._link.all(statement, limit=_ROWS_AT_ONCE, **position)
        return [self._values("usage", row) for row in rows]

    @writes
    def make_room(self, session_ids: Sequence[str], *, replace: bool) -> list[str]:
        """Make sure that none of the sessions is there; with *replace* by deleting them.

        Returns:
            Those that live, where they are not to be replaced.
        """
        living = []
        for session_id in session_ids:
            found = session_rows.lock_any(self._link, session_id)
            if found is not None and not found.expired and not replace:
                living.append(session_id)
            elif found is not None:
                session_life.erase(self._link, session_id)
            if replace:
                self._link.run(_DELETE_USAGE, session_id=session_id)
        return living

    @writes
    def insert(self, records: Sequence[Record]) -> None:
        """Write records of one kind."""
        by_shape: dict[tuple[str, ...], list[Params]] = {}
        for record in records:
            by_shape.setdefault(tuple(sorted(record.values)), []).append(record.values)
        kind = records[0].kind
        for shape, rows in by_shape.items():
            if kind == "session":
                rows = [{**row, "active_hour": _hour(row["last_activity_at"])} for row in rows]
            self._link.many(_insert(kind, shape), rows)

    @writes
    def make_room_for_usage(self, session_id: str, *, replace: bool) -> None:
        """Make sure that the ledger has no lines of a session.

        Raises:
            ConflictError: It has, and they are not to be replaced.
        """
        if replace:
            self._link.run(_DELETE_USAGE, session_id=session_id)
        elif self._link.one(_FIND_USAGE, session_id=session_id) is not None:
            raise ConflictError(
                f"the usage ledger has lines of session {session_id!r} already; replace them, or import into an "
                "empty namespace",
                session_id=session_id,
            )

    def _values(self, kind: str, row: Row) -> dict[str, Any]:
        dialect = self._link.dialect
        return {
            str(column.name): _encoder(column)(dialect, value)
            for column, value in zip(_carried(TABLES[kind]), row, strict=True)
            if value is not None
        }


def _hour(value: datetime) -> datetime:
    return value.replace(minute=0, second=0, microsecond=0)


def _encoder(column: Column[Any]) -> Callable[[Dialect, Any], Any]:
    """From a column's value to what stands in the file."""
    return _ENCODERS.get(type(column.type), _as_it_is)


def _as_it_is(dialect: Dialect, value: Any) -> Any:
    return value


def _money(dialect: Dialect, value: Any) -> str:
    text = format(Decimal(dialect.money(value) or 0), "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


_ENCODERS: dict[type[Any], Callable[[Dialect, Any], Any]] = {
    column_types.ExactJson: lambda dialect, value: orjson.Fragment(value),
    column_types.UtcTime: lambda dialect, value: sqlite_time(dialect.time(value)),
    column_types.Duration: lambda dialect, value: (dialect.duration(value) or timedelta()) // _MICROSECOND,
    column_types.Money: _money,
    column_types.MoneySum: _money,
}


def decode(kind: Any, values: Mapping[str, Any], where: str) -> Record:
    """A record from what stands in the file.

    Raises:
        InvalidValueError: It is none.
    """
    table = TABLES.get(kind) if isinstance(kind, str) else None
    if table is None:
        raise InvalidValueError(where, f"is of an unknown type {kind!r}; was it written by a newer version?")
    columns = {str(column.name): column for column in _carried(table)}
    decoded: Params = {}
    for name, value in values.items():
        if name not in columns:
            raise InvalidValueError(where, f"has an unknown field {name!r}; was it written by a newer version?")
        try:
            decoded[name] = _decoded(columns[name], value)
        except (ValueError, TypeError, OverflowError, InvalidOperation):
            raise InvalidValueError(where, f"has a value in {name!r} that does not belong there") from None
    for column in columns.values():
        if not column.nullable and column.server_default is None and decoded.get(column.name) is None:
            raise InvalidValueError(where, f"lacks {column.name!r}")
    if kind in _FITTING and not _FITTING[kind](decoded):
        raise InvalidValueError(where, "has values that contradict each other; the file is damaged")
    return Record(kind, decoded, where)


# What an append, and the other operations that write such rows, would refuse.
_RANGES: dict[tuple[str, str], dict[str, int]] = {
    **{("history_entries", column): {"most": checks.MAX_TOKENS} for column in schema.TOKEN_COLUMNS},
    ("history_entries", "seq"): {"least": 1},
    ("history_entries", "usage_folded"): {"most": 1},
    ("sessions", "first_seq"): {"least": 1},
    ("sessions", "next_seq"): {"least": 1},
    ("session_segments", "from_seq"): {"least": 1},
    ("summaries", "start_seq"): {"least": 1},
}
_LARGEST_SUM = 10**20
_FITTING: dict[str, Callable[[Params], bool]] = {
    "session": lambda row: (
        row.get("first_seq", 1) <= row.get("next_seq", 1)
        and (row.get("parent_session_id") is None) == (row.get("forked_at_seq") is None)
        and (row.get("ttl") is None) == (row.get("expires_at") is None)
    ),
    "segment": lambda row: row["from_seq"] <= row["to_seq"] and row["owner_session_id"] != row["session_id"],
    "summary": lambda row: row["start_seq"] <= row["end_seq"],
}


def _decoded(column: Column[Any], value: Any) -> Any:
    kind = column.type
    if isinstance(kind, column_types.ExactJson):
        return exactjson.dumps(value, column.name)
    if isinstance(kind, column_types.UtcTime):
        return checks.optional_time(datetime.fromisoformat(value), column.name)
    if isinstance(kind, column_types.Duration):
        return checks.count(value, column.name) * _MICROSECOND
    if isinstance(kind, column_types.Money):
        return checks.optional_cost(Decimal(value), column.name) if isinstance(value, str) else _refuse()
    if isinstance(kind, column_types.MoneySum):
        return _sum(Decimal(value)) if isinstance(value, str) else _refuse()
    if kind.python_type is int:
        return checks.count(value, column.name, **_RANGES.get((column.table.name, column.name), {}))
    if kind.python_type is float:
        return _sum(float(value)) if isinstance(value, float | int) and not isinstance(value, bool) else _refuse()
    if column is schema.sessions.c.status:
        return checks.one_of(value, STATUSES, column.name)
    if isinstance(kind, String) and kind.length is not None:
        return checks.key(value, column.name)
    return checks.text(value, column.name)


def _sum(value: Any) -> Any:
    return value if 0 <= value < _LARGEST_SUM else _refuse()


def _refuse() -> Any:
    raise TypeError
