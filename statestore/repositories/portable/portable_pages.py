"""Reading sessions for an export, a page at a time: as many statements as there are pages, however small the sessions.

A page has up to 500 rows, and fewer if they are large, so it takes about as much memory whatever is in it. What belongs
to some hundred sessions is read together: first how many rows there are of each kind, then the rows, in the order of
the sessions. A session with more rows than a page is read by itself, from key to key.
"""

import re
from collections.abc import Mapping, Sequence
from contextlib import closing
from datetime import datetime
from itertools import chain
from typing import Any, NamedTuple

from statestore.engine.calls import reads
from statestore.engine.sql import Statement
from statestore.engine.sql_parts import arrays, each, unnest
from statestore.errors import InvalidValueError
from statestore.repositories.base import Repository
from statestore.repositories.portable.portable_values import KEYS, LARGE, ROWS, TABLES, encode
from statestore.repositories.sessions.segments import Segment

PAGE = 500
"""How many rows a page has at most, and of how many sessions rows are read together."""

# A page ends behind the row with which it gets this large.
ROOM = 8 * 1024 * 1024

_FRESH = "(s.expires_at IS NULL OR s.expires_at > $now)"
_FROM_START: dict[str, Any] = {
    **dict.fromkeys(("session_id", "key", "name"), ""),
    **dict.fromkeys(("from_seq", "start_seq", "position", "line"), 0),
    "bucket_at": datetime.min.isoformat() + ".000000Z",
}


class Page(NamedTuple):
    """Rows of a kind, and whether there are more of those that were asked for."""

    rows: list[dict[str, Any]]
    places: list[int]
    """Of entries: in which of the pieces they are, counted from 0."""
    more: bool


class Piece(NamedTuple):
    """That *session_id* has the rows *from_seq* to *to_seq* of *owner*."""

    session_id: str
    owner: str
    from_seq: int
    to_seq: int


class Overview(NamedTuple):
    """What some sessions have: their segments, and how many rows of each kind."""

    segments: dict[str, list[Segment]]
    counts: dict[str, dict[str, int]]


def _cut(kind: str, rows: str, order: str) -> str:
    """The rows of a subquery up to the one with which they get too large, and how many there are; for PostgreSQL.

    Rows have no content yet where this is decided, only pointers to it.
    """
    # JSON has to be read for its size, but that of an entry's content is known.
    known = {"content": "r.content_bytes"} if kind == "entry" else {}
    size = " + ".join(["0", *(known.get(name, f"$bytes(r.{name})") for name in LARGE[kind])])
    return f"""
    SELECT {ROWS[kind].select("p")}, p.place, p.found FROM (
        SELECT r.*, count(*) OVER () AS found,
            sum({size}) OVER (ORDER BY {order} ROWS UNBOUNDED PRECEDING) - ({size}) AS before
        FROM ({rows}) AS r) AS p
    WHERE p.before < :room ORDER BY {order.replace("r.", "p.")}"""


def _select(kind: str, which: str, *, one: bool = False) -> Statement:
    """A page of a kind, behind a key; of *one* session, the rest of the key. SQLite is asked for row after row."""
    names = KEYS[kind][1:] if one else KEYS[kind]
    after = ", ".join("$time(:after_bucket_at)" if name == "bucket_at" else f":after_{name}" for name in names)
    rows = f"""FROM ${TABLES[kind].name} AS s
        WHERE s.namespace = :namespace AND {which} AND ({each("s.{}", names)}) > ({after})
        ORDER BY {each("s.{}", names)} LIMIT :limit"""
    return Statement(
        postgresql=_cut(kind, f"SELECT s.*, 0 AS place {rows}", each("r.{}", names)),
        sqlite=f"SELECT {ROWS[kind].select('s')}, 0 {rows}",
    )


def _of_sessions(kind: str, which: str = "true") -> tuple[Statement, Statement]:
    """Of one session, which is read in the order of the key, and of several, which are sorted."""
    return (
        _select(kind, f"s.session_id = :session_id AND {which}", one=True),
        _select(kind, f"s.session_id $in(:session_ids) AND {which}"),
    )


_ROWS = {
    "state": _of_sessions("state", _FRESH),
    "summary": _of_sessions("summary"),
    "list": _of_sessions("list"),
    "list_item": _of_sessions("list_item"),
    "usage": _of_sessions("usage"),
}

_EXPORT_SNAPSHOT = Statement(postgresql="SELECT pg_export_snapshot()")
_FIRST_READ = Statement(sqlite="SELECT 1 FROM $sessions LIMIT 1")

_SESSIONS = _select("session", "$live")
_SESSIONS_NAMED = _select("session", "$live AND s.session_id $in(:session_ids)")
# With what belongs to them, whoever's it is.
_SESSIONS_OF_USER = _select(
    "session",
    """$live AND (s.user_id = :user_id OR s.belongs_to IN (
        SELECT w.session_id FROM $sessions AS w WHERE w.namespace = :namespace AND w.user_id = :user_id))""",
)
_PARTS = Statement("""
    SELECT s.session_id FROM $sessions AS s
    WHERE s.namespace = :namespace AND s.belongs_to $in(:session_ids) AND $live""")
_ALL_USAGE = _select("usage", "true")

_SEGMENTS = Statement("""
    SELECT session_id, from_seq, to_seq, owner_session_id FROM $session_segments
    WHERE namespace = :namespace AND session_id $in(:session_ids) ORDER BY session_id, from_seq""")
_COUNTS = Statement(
    " UNION ALL ".join(
        f"""
    SELECT '{kind}', session_id, count(*) FROM ${TABLES[kind].name}
    WHERE namespace = :namespace AND session_id $in(:session_ids) GROUP BY session_id"""
        for kind in _ROWS
    )
)

# LATERAL and OFFSET 0, so that each piece is looked up by itself, in a table that was never analyzed, too.
_PIECES = {"owner": "text", "from_seq": "bigint", "to_seq": "bigint"}
_ENTRIES = Statement(
    postgresql=_cut(
        "entry",
        f"""SELECT h.*, w.place FROM {unnest("w", _PIECES, ordinal="place")} CROSS JOIN LATERAL (
            SELECT * FROM $history_entries AS h
            WHERE h.namespace = :namespace AND h.session_id = w.owner AND h.seq BETWEEN w.from_seq AND w.to_seq
            OFFSET 0) AS h""",
        "r.place, r.seq",
    ),
    sqlite=f"""
    SELECT {ROWS["entry"].select("h")}, w.key + 1 FROM json_each(:pieces) AS w CROSS JOIN $history_entries AS h
        ON h.namespace = :namespace AND h.session_id = json_extract(w.value, '$[0]')
        AND h.seq BETWEEN json_extract(w.value, '$[1]') AND json_extract(w.value, '$[2]')
    ORDER BY w.key, h.seq""",
)


class PortablePages(Repository):
    """The steps of an export; no operations of their own. They run in one transaction."""

    @reads
    def begin(self, snapshot: str | None) -> str | None:
        """See what another transaction sees, as of its *snapshot*; without one, say by which others see the same.

        On SQLite a transaction sees what was there when it first read: others see the same if nobody writes until then.
        """
        if self._link.dialect.name == "sqlite":
            self._link.one(_FIRST_READ)
            return None
        if snapshot is None:
            (snapshot,) = self._link.only(_EXPORT_SNAPSHOT)
            return snapshot
        if not re.fullmatch("[0-9A-F-]+", snapshot):
            raise InvalidValueError("snapshot", "is not one of PostgreSQL's")
        self._link.run(Statement(postgresql=f"SET TRANSACTION SNAPSHOT '{snapshot}'"))
        return snapshot

    @reads
    def sessions(
        self, *, session_ids: Sequence[str] | None, user_id: str | None, after: Mapping[str, Any] | None
    ) -> list[dict[str, Any]]:
        """The sessions behind *after*, with what belongs to them, in the order of their ids; a page at a time."""
        if session_ids is not None:
            every = {*session_ids, *(part for (part,) in self._link.all(_PARTS, session_ids=list(session_ids)))}
            # Only those that may be on the page.
            wanted = sorted(one for one in every if after is None or one > after["session_id"])[:PAGE]
            return self._page("session", _SESSIONS_NAMED, after, session_ids=wanted).rows if wanted else []
        if user_id is not None:
            return self._page("session", _SESSIONS_OF_USER, after, user_id=user_id).rows
        return self._page("session", _SESSIONS, after).rows

    @reads
    def overview(self, session_ids: Sequence[str]) -> Overview:
        """What sessions have beside their own entries."""
        segments: dict[str, list[Segment]] = {}
        for row in self._link.all(_SEGMENTS, session_ids=list(session_ids)):
            segments.setdefault(row[0], []).append(Segment(*row))
        counts: dict[str, dict[str, int]] = {kind: {} for kind in _ROWS}
        for kind, session_id, number in self._link.all(_COUNTS, session_ids=list(session_ids)):
            counts[kind][session_id] = number
        return Overview(segments, counts)

    @reads
    def entries(self, pieces: Sequence[Piece]) -> Page:
        """Entries by the pieces of histories that they are in."""
        if self._link.dialect.name == "sqlite":
            params: dict[str, Any] = {"pieces": [piece[1:] for piece in pieces]}
        else:
            params = arrays((dict(zip(_PIECES, piece[1:], strict=True)) for piece in pieces), _PIECES)
        return self._read("entry", _ENTRIES, params)

    @reads
    def rows(self, kind: str, session_ids: Sequence[str], after: Mapping[str, Any] | None) -> Page:
        """Rows of a kind of some sessions, behind *after*; if there are more sessions than one, all at once."""
        of_one, of_several = _ROWS[kind]
        if len(session_ids) == 1:
            return self._page(kind, of_one, after, session_id=session_ids[0])
        # They have no more than a page.
        return self._page(kind, of_several, after, several=True, session_ids=list(session_ids))

    @reads
    def all_usage(self, after: Mapping[str, Any] | None) -> Page:
        """The lines of the ledger behind *after*, those of sessions that are gone too; a page at a time."""
        return self._page("usage", _ALL_USAGE, after)

    def _page(
        self, kind: str, statement: Statement, after: Mapping[str, Any] | None, *, several: bool = False, **params: Any
    ) -> Page:
        place = {f"after_{name}": (after or _FROM_START)[name] for name in KEYS[kind]}
        limit = PAGE + 1 if several else PAGE
        page = self._read(kind, statement, {**place, **params, "limit": limit})
        return Page(page.rows, page.places, page.more or len(page.rows) == limit)

    def _read(self, kind: str, statement: Statement, params: dict[str, Any]) -> Page:
        dialect, columns = self._link.dialect, ROWS[kind]
        large = [columns.names.index(name) for name in LARGE[kind]]
        rows: list[dict[str, Any]] = []
        places: list[int] = []
        size, found = 0, 0
        params["room"] = ROOM
        reading = self._link.pages(statement, 1 if dialect.name == "sqlite" else 2 * PAGE, **params)
        with closing(reading):
            for row in chain.from_iterable(reading):
                if size >= ROOM and dialect.name == "sqlite":
                    return Page(rows, places, more=True)
                place, *counted = columns.behind(row)
                found = counted[0] if counted else 0
                size += sum(len(row[one] or "") for one in large)
                rows.append(encode(dialect, kind, row[: columns.size]))
                places.append(place - 1)
        return Page(rows, places, more=len(rows) < found)
