"""Reading entries other than by one session and a range: by id, the newest of many sessions, the end of a history."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from operator import attrgetter

from statestore.engine.sql import Link, Statement
from statestore.errors import SessionNotFoundError
from statestore.repositories.history import entry_reads, entry_rows
from statestore.repositories.sessions import session_rows
from statestore.values.history import Entry

_BY_ID = f"""
    SELECT {entry_rows.COLUMNS} FROM $history_entries AS h
    WHERE h.namespace = :namespace AND h.session_id = :session_id AND h.entry_id %(match)s
    UNION ALL
    SELECT {entry_rows.COLUMNS} FROM $session_segments AS g
    JOIN $history_entries AS h ON h.namespace = g.namespace AND h.session_id = g.owner_session_id
        AND h.seq BETWEEN g.from_seq AND g.to_seq
    WHERE g.namespace = :namespace AND g.session_id = :session_id AND h.entry_id %(match)s"""
# Each id by the unique index on ids, as for appends: while a table is not analyzed, any index that begins with the
# namespace looks as good. Hence the namespace, and the places of a segment, are compared outside.
_BY_ID_POSTGRESQL = f"""
    SELECT {entry_rows.COLUMNS} FROM (
        SELECT CAST(:session_id AS text) AS owner, 1 AS from_seq, CAST({2**62} AS bigint) AS to_seq
        UNION ALL
        SELECT g.owner_session_id, g.from_seq, g.to_seq FROM $session_segments AS g
        WHERE g.namespace = :namespace AND g.session_id = :session_id) AS piece
    CROSS JOIN unnest(CAST(%(ids)s AS text[])) AS w (entry_id)
    CROSS JOIN LATERAL (
        SELECT * FROM $history_entries AS h
        WHERE h.entry_id = w.entry_id AND h.session_id = piece.owner$pin(h) OFFSET 0) AS h
    WHERE h.namespace = :namespace AND h.seq BETWEEN piece.from_seq AND piece.to_seq"""
_FIND_SQL = f"""
    SELECT {entry_reads.ALSO}, m.* FROM $sessions AS s LEFT JOIN (%s) AS m ON true
    WHERE s.namespace = :namespace AND s.session_id = :session_id AND $live"""
_FIND = Statement(
    postgresql=_FIND_SQL % (_BY_ID_POSTGRESQL % {"ids": "ARRAY[CAST(:entry_id AS text)]"}),
    sqlite=_FIND_SQL % (_BY_ID % {"match": "= :entry_id"}),
)
_FIND_MANY = Statement(
    postgresql=f"SELECT NULL, m.* FROM ({_BY_ID_POSTGRESQL % {'ids': ':entry_ids'}}) AS m",
    sqlite=f"SELECT NULL, m.* FROM ({_BY_ID % {'match': '$in(:entry_ids)'}}) AS m",
)

# The newest entries of each session, forks included, whose segments are few.
_LAST_POSTGRESQL = f"""
    SELECT {entry_reads.ALSO}, s.session_id, h.* FROM $sessions AS s LEFT JOIN LATERAL (
        SELECT h.* FROM (
            SELECT s.session_id AS owner, s.next_seq - CAST(:n AS bigint) AS from_seq, s.next_seq - 1 AS to_seq
            UNION ALL
            SELECT g.owner_session_id, greatest(g.from_seq, s.next_seq - CAST(:n AS bigint)), g.to_seq
            FROM $session_segments AS g WHERE g.namespace = :namespace AND g.session_id = s.session_id
                AND g.to_seq >= s.next_seq - CAST(:n AS bigint)
        ) AS piece CROSS JOIN LATERAL (
            SELECT {entry_rows.COLUMNS} FROM $history_entries AS h WHERE h.namespace = :namespace
            AND h.session_id = piece.owner AND h.seq BETWEEN piece.from_seq AND piece.to_seq OFFSET 0) AS h
    ) AS h ON true
    WHERE s.namespace = :namespace AND s.session_id $in(:session_ids) AND $live"""
_LAST_SQLITE = f"""
    SELECT {entry_reads.ALSO}, s.session_id, {entry_rows.COLUMNS} FROM $sessions AS s
    LEFT JOIN $history_entries AS h ON h.namespace = s.namespace AND h.session_id = s.session_id
        AND h.seq >= s.next_seq - :n
    WHERE s.namespace = :namespace AND s.session_id $in(:session_ids) AND $live
    UNION ALL
    SELECT {entry_reads.ALSO}, s.session_id, {entry_rows.COLUMNS} FROM $sessions AS s
    JOIN $session_segments AS g ON g.namespace = s.namespace AND g.session_id = s.session_id
    CROSS JOIN $history_entries AS h ON h.namespace = g.namespace AND h.session_id = g.owner_session_id
        AND h.seq BETWEEN max(g.from_seq, s.next_seq - :n) AND g.to_seq
    WHERE s.namespace = :namespace AND s.session_id $in(:session_ids) AND $live"""
_LAST = Statement(postgresql=_LAST_POSTGRESQL, sqlite=_LAST_SQLITE)


def find(link: Link, session_id: str, entry_id: str) -> Entry | None:
    """The entry with this id among those that the session sees. Extends the session's TTL.

    Raises:
        SessionNotFoundError: No such session, or it has expired.
    """
    rows, _ = entry_reads.rows_of(link, session_id, _FIND, _FIND, entry_id=entry_id)
    found = [row for row in rows if row[entry_rows.SEQ] is not None]
    return entry_rows.from_rows(link, session_id, found)[0] if found else None


def find_many(link: Link, session_id: str, entry_ids: Sequence[str]) -> dict[str, Entry]:
    """Those of the ids that are in what the session sees, with their entries. Runs in a transaction."""
    rows = link.all(_FIND_MANY, session_id=session_id, entry_ids=list(entry_ids))
    return {entry.entry_id: entry for entry in entry_rows.from_rows(link, session_id, rows)}


def last_of_many(link: Link, session_ids: Sequence[str], n: int) -> dict[str, list[Entry]]:
    """The newest *n* entries of each session that there is, in one statement; TTLs that are due take another."""
    if link.holds_reads:
        return _last_held(link, session_ids, n)
    found: dict[str, list[Entry]] = {}
    due: set[str] = set()
    by_session: dict[str, list[tuple[object, ...]]] = {}
    for also, session_id, *columns in link.all(_LAST, session_ids=list(session_ids), n=min(n, entry_reads.FAR)):
        if (also or 0) & entry_reads.TO_EXTEND:
            due.add(session_id)
        rows = by_session.setdefault(session_id, [])
        if columns[entry_rows.SEQ - 1] is not None:
            rows.append((None, *columns))
    if due:
        session_rows.extend_many(link, sorted(due))
    for session_id in session_ids:
        if session_id in by_session:
            entries = entry_rows.from_rows(link, session_id, by_session[session_id])
            found[session_id] = sorted(entries, key=attrgetter("seq"))
    return found


def _last_held(link: Link, session_ids: Sequence[str], n: int) -> dict[str, list[Entry]]:
    """One after the other, each with its lock, and in the order of their ids, so that two who do so never deadlock."""
    found: dict[str, list[Entry]] = {}
    for session_id in sorted(session_ids):
        try:
            found[session_id] = entry_reads.read(link, session_id, last=n)
        except SessionNotFoundError:
            continue
    return {session_id: found[session_id] for session_id in session_ids if session_id in found}


# A popped position is used again, and a deleted session's id as well. Looking extends no TTL.
_LOOK = Statement("""
    SELECT s.next_seq - 1, s.created_at, coalesce(
        (SELECT h.entry_id FROM $history_entries AS h
        WHERE h.namespace = :namespace AND h.session_id = :session_id AND h.seq = :seq),
        (SELECT h.entry_id FROM $session_segments AS g
        JOIN $history_entries AS h ON h.namespace = g.namespace AND h.session_id = g.owner_session_id AND h.seq = :seq
        WHERE g.namespace = :namespace AND g.session_id = :session_id AND :seq BETWEEN g.from_seq AND g.to_seq))
    FROM $sessions AS s WHERE s.namespace = :namespace AND s.session_id = :session_id AND $live""")


@dataclass(frozen=True, slots=True)
class Tail:
    """Where a living session ends, when it was created, and the id of the entry at the given position, if any."""

    end: int
    created_at: datetime
    entry_id: str | None


def tail(link: Link, session_id: str, seq: int) -> Tail | None:
    """What is at *seq*; None if there is no such session."""
    row = link.one(_LOOK, session_id=session_id, seq=seq)
    if row is None:
        return None
    end, created_at, entry_id = row
    return Tail(end, link.dialect.time(created_at), entry_id)
