"""Rows as they stand, out of the tables and into them, in values that are the same for both databases."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any

from statestore.engine.calls import reads, writes
from statestore.engine.sql import Params, Statement
from statestore.engine.sql_parts import each
from statestore.repositories.base import Repository
from statestore.repositories.portable import portable_ledger
from statestore.repositories.portable.portable_values import ROWS, TABLES, Record, encode
from statestore.repositories.sessions import segments, session_life, session_rows
from statestore.repositories.sessions.segments import Segment

_SESSIONS_AT_ONCE = 500
_ROWS_AT_ONCE = 500


def _select(kind: str, which: str, alias: str = "t") -> Statement:
    table, columns = TABLES[kind], ROWS[kind].select(alias)
    order = ", ".join(f"{alias}.{column.name}" for column in table.primary_key if column.name != "namespace")
    return Statement(f"""
    SELECT {columns}
    FROM ${table.name} AS {alias} WHERE {alias}.namespace = :namespace AND {which} ORDER BY {order} LIMIT :limit""")


_LIVE = "(t.expires_at IS NULL OR t.expires_at > $now)"
_OF_SESSION = "t.session_id = :session_id"
_SESSIONS = _select("session", "$live AND s.session_id > :after", "s")
# With what belongs to them, whoever's it is.
_SESSIONS_OF_USER = _select(
    "session",
    """$live AND s.session_id > :after AND (s.user_id = :user_id OR s.belongs_to IN (
        SELECT w.session_id FROM $sessions AS w WHERE w.namespace = :namespace AND w.user_id = :user_id))""",
    "s",
)
_SESSION = _select("session", "$live AND s.session_id = :session_id", "s")
_PARTS = Statement("""
    SELECT s.session_id FROM $sessions AS s
    WHERE s.namespace = :namespace AND s.belongs_to $in(:session_ids) AND $live""")
_ENTRIES = _select("entry", f"{_OF_SESSION} AND t.seq BETWEEN :from_seq AND :to_seq")
_STATE = _select("state", f"{_OF_SESSION} AND {_LIVE}")
_SUMMARIES = _select("summary", _OF_SESSION)
_LISTS = _select("list", _OF_SESSION)
_ITEMS = _select("list_item", f"{_OF_SESSION} AND (t.name, t.position) > (:after_name, :after_position)")
_USAGE = _select("usage", _OF_SESSION)
_ALL_USAGE = _select("usage", "(t.session_id, t.bucket_at, t.line) > (:after_id, $time(:after_at), :after_line)")
_EVERYTHING = 2**61

_RANGE = Statement("""
    SELECT s.first_seq, s.next_seq - 1 FROM $sessions AS s
    WHERE s.namespace = :namespace AND s.session_id = :session_id""")

# Written, though nothing changes, as by whoever makes a part: see `unshared`.
_SHOW_WHOLES = Statement("""
    UPDATE $sessions AS s SET revision = s.revision WHERE s.namespace = :namespace AND s.session_id IN (
        SELECT p.belongs_to FROM $sessions AS p WHERE p.namespace = :namespace AND p.session_id $in(:session_ids))""")
_SET_FREE = Statement("""
    UPDATE $sessions AS s SET belongs_to = NULL
    WHERE s.namespace = :namespace AND s.session_id $in(:session_ids) AND s.belongs_to IS NOT NULL AND NOT EXISTS (
        SELECT 1 FROM $sessions AS w
        WHERE w.namespace = :namespace AND w.session_id = s.belongs_to AND w.belongs_to IS NULL
            AND (w.expires_at IS NULL OR w.expires_at > $now))""")

_FIND_USAGE = Statement("SELECT 1 FROM $usage_ledger WHERE namespace = :namespace AND session_id = :session_id LIMIT 1")

# Ends whatever the rows say: a pair that was found already is not looked at again.
_OWN_ANCESTOR = Statement("""
    WITH RECURSIVE above (session_id, ancestor) AS (
        SELECT s.session_id, s.parent_session_id FROM $sessions AS s
        WHERE s.namespace = :namespace AND s.session_id $in(:session_ids) AND s.parent_session_id IS NOT NULL
        UNION
        SELECT a.session_id, s.parent_session_id FROM above AS a
        JOIN $sessions AS s ON s.namespace = :namespace AND s.session_id = a.ancestor
        WHERE s.parent_session_id IS NOT NULL)
    SELECT session_id FROM above WHERE session_id = ancestor LIMIT 1""")


@lru_cache(maxsize=64)
def _insert(kind: str, columns: tuple[str, ...]) -> Statement:
    table = TABLES[kind]
    names = ["namespace", *columns] + (["active_hour"] if kind == "session" else [])
    return Statement(f"INSERT INTO ${table.name} ({', '.join(names)}) VALUES ({each(':{}', names)})")


class PortableWork(Repository):
    """The steps of export and import; no operations of their own. They run in one transaction."""

    @reads
    def sessions(self, *, session_ids: Sequence[str] | None, user_id: str | None, after: str) -> list[dict[str, Any]]:
        """The sessions behind *after*, with what belongs to them, in the order of their ids; some of them at a time."""
        if session_ids is not None:
            every = {*session_ids, *(part for (part,) in self._link.all(_PARTS, session_ids=list(session_ids)))}
            wanted = [session_id for session_id in sorted(every) if session_id > after][:_SESSIONS_AT_ONCE]
            rows = [row for name in wanted for row in self._link.all(_SESSION, session_id=name, limit=1)]
        elif user_id is not None:
            rows = [*self._link.all(_SESSIONS_OF_USER, after=after, user_id=user_id, limit=_SESSIONS_AT_ONCE)]
        else:
            rows = [*self._link.all(_SESSIONS, after=after, limit=_SESSIONS_AT_ONCE)]
        return [encode(self._link.dialect, "session", row) for row in rows]

    @reads
    def pieces(self, session_id: str) -> list[Segment]:
        """The history of a session, as ranges of rows and who owns them."""
        row = self._link.one(_RANGE, session_id=session_id)
        return [] if row is None else segments.view(segments.of(self._link, session_id), session_id, *row)

    @reads
    def entries(self, owner: str, from_seq: int, to_seq: int) -> list[dict[str, Any]]:
        """Rows of an owner; a part of them at a time."""
        rows = self._link.all(_ENTRIES, session_id=owner, from_seq=from_seq, to_seq=to_seq, limit=_ROWS_AT_ONCE)
        return [encode(self._link.dialect, "entry", row) for row in rows]

    @reads
    def state(self, session_id: str) -> list[dict[str, Any]]:
        rows = self._link.all(_STATE, session_id=session_id, limit=_EVERYTHING)
        return [encode(self._link.dialect, "state", row) for row in rows]

    @reads
    def summaries(self, session_id: str) -> list[dict[str, Any]]:
        rows = self._link.all(_SUMMARIES, session_id=session_id, limit=_EVERYTHING)
        return [encode(self._link.dialect, "summary", row) for row in rows]

    @reads
    def lists(self, session_id: str) -> list[dict[str, Any]]:
        rows = self._link.all(_LISTS, session_id=session_id, limit=_EVERYTHING)
        return [encode(self._link.dialect, "list", row) for row in rows]

    @reads
    def list_items(self, session_id: str, after: Mapping[str, Any] | None) -> list[dict[str, Any]]:
        """The items of a session's lists behind *after*; a part of them at a time."""
        place = {"after_name": "", "after_position": 0}
        if after is not None:
            place = {"after_name": after["name"], "after_position": after["position"]}
        rows = self._link.all(_ITEMS, session_id=session_id, limit=_ROWS_AT_ONCE, **place)
        return [encode(self._link.dialect, "list_item", row) for row in rows]

    @reads
    def usage(self, session_id: str) -> list[dict[str, Any]]:
        """A session's lines of the ledger."""
        rows = self._link.all(_USAGE, session_id=session_id, limit=_EVERYTHING)
        return [encode(self._link.dialect, "usage", row) for row in rows]

    @reads
    def all_usage(self, after: Mapping[str, Any] | None) -> list[dict[str, Any]]:
        """The lines of the ledger behind *after*, those of sessions that are gone too; a part of them at a time."""
        position = {"after_id": "", "after_at": datetime.min.isoformat() + ".000000Z", "after_line": 0}
        if after is not None:
            at = after["bucket_at"]
            position = {"after_id": after["session_id"], "after_at": at, "after_line": after["line"]}
        rows = self._link.all(_ALL_USAGE, limit=_ROWS_AT_ONCE, **position)
        return [encode(self._link.dialect, "usage", row) for row in rows]

    @writes
    def make_room(self, session_ids: Sequence[str], *, replace: bool) -> list[str]:
        """Make sure that none of the sessions is there; with *replace* by deleting them.

        Returns:
            Those that live, where they are not to be replaced.
        """
        living = []
        locked = False
        for session_id in session_ids:
            found = session_rows.lock_any(self._link, session_id)
            if found is not None and not found.expired and not replace:
                living.append(session_id)
            elif found is not None:
                if not locked:
                    segments.lock_all(self._link)
                    locked = True
                session_life.erase(self._link, session_id, locked=True)
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
    def settle_parts(self, session_ids: Sequence[str]) -> None:
        """Make sessions of their own of those that belong to a session which is not there, or has expired."""
        self._link.run(_SHOW_WHOLES, session_ids=list(session_ids))
        self._link.run(_SET_FREE, session_ids=list(session_ids))

    @writes
    def find_usage(self, session_ids: Sequence[str]) -> str | None:
        """One of the sessions of which the ledger has lines."""
        return next((one for one in session_ids if self._link.one(_FIND_USAGE, session_id=one) is not None), None)

    @writes
    def take_usage(self, session_ids: Sequence[str]) -> dict[str, list[portable_ledger.Line]]:
        """Take lines out of the ledger, for `keep_usage`."""
        return {session_id: portable_ledger.take(self._link, session_id) for session_id in session_ids}

    @writes
    def keep_usage(self, session_id: str, taken: Sequence[portable_ledger.Line], *, entries: bool) -> None:
        """See `portable_ledger.keep`."""
        portable_ledger.keep(self._link, session_id, taken, entries=entries)

    @reads
    def own_ancestor(self, session_ids: Sequence[str]) -> str | None:
        """One of the sessions that is forked from itself, over however many others."""
        row = self._link.one(_OWN_ANCESTOR, session_ids=list(session_ids))
        (session_id,) = row or (None,)
        found: str | None = session_id
        return found


def _hour(value: datetime) -> datetime:
    return value.replace(minute=0, second=0, microsecond=0)
