"""Reading entries of a session, wherever their rows are."""

import sqlite3
from collections.abc import Iterable, Sequence
from contextlib import closing
from operator import attrgetter, itemgetter
from typing import Any

import orjson

from statestore.checking import exactjson
from statestore.engine.sql import Link, Row, Statement
from statestore.repositories.history import entry_rows
from statestore.repositories.sessions import holding, session_rows
from statestore.repositories.sessions.session_rows import ForkHints, Hints
from statestore.values.history import Entry

# Beyond every position, and twice it still fits 64 bits.
FAR = 2**61


def bounds(last: str, after: str, before: str, limit: str) -> tuple[str, str]:
    """The first and the last position of a window on session `s`, in SQL.

    The history of a session is dense, so that a window is a range, whichever way it is asked for.
    """
    start = f"$greatest({after} + 1, s.first_seq, $least(s.next_seq, {before}) - {last})"
    end = f"$least(s.next_seq, {before}, $greatest({after} + 1, s.first_seq) + {limit}) - 1"
    return start, end


_WINDOW = ("last", "after", "before", "limit")
# psycopg sends a number in the smallest type that holds it, and 2**31 - 1 plus one is none of that type.
_FROM, _TO = bounds(*(f"CAST(:{name} AS bigint)" for name in _WINDOW))
_FROM_SQLITE, _TO_SQLITE = bounds(*(f":{name}" for name in _WINDOW))

# So many rows are made entries at a time.
_PAGE = 2000

# What there is to do beyond reading: nothing for most sessions, and then NULL is all that is computed and sent.
_FORK, TO_EXTEND = 1, 2
ALSO = f"""CASE WHEN s.forked_at_seq IS NOT NULL OR s.ttl IS NOT NULL OR s.belongs_to IS NOT NULL
    THEN CASE WHEN s.forked_at_seq IS NOT NULL THEN {_FORK} ELSE 0 END
        + CASE WHEN {session_rows.EXTENSION_DUE} THEN {TO_EXTEND} ELSE 0 END END"""


def _statements(columns: str) -> tuple[Statement, Statement]:
    """How entries are read: of sessions that are not forks, and of any."""
    # One round trip, for all sessions that are not forks: the rows of a session are all of its history. On PostgreSQL
    # they come from a subquery that is closed to the planner by OFFSET 0, so that the bounds always end up in the index
    # scan; in a plain join it may take them for a filter, and read the whole session. A subquery keeps its order here.
    plain = Statement(
        postgresql=f"""
        SELECT {ALSO}, h.* FROM $sessions AS s LEFT JOIN LATERAL (
            SELECT {columns} FROM $history_entries AS h
            WHERE h.namespace = :namespace AND h.session_id = :session_id AND h.seq BETWEEN {_FROM} AND {_TO}
            ORDER BY h.seq OFFSET 0) AS h ON true
        WHERE s.namespace = :namespace AND s.session_id = :session_id AND $live""",
        sqlite=f"""
        SELECT {ALSO}, {columns} FROM $sessions AS s
        LEFT JOIN $history_entries AS h ON h.namespace = s.namespace AND h.session_id = s.session_id
            AND h.seq BETWEEN {_FROM_SQLITE} AND {_TO_SQLITE}
        WHERE s.namespace = :namespace AND s.session_id = :session_id AND $live
        ORDER BY h.seq""",
    )

    # For any session, but made for forks. The bounds of the window are inside the join with its segments, so that each
    # segment reads only its share. In no order.
    fork = Statement(
        postgresql=f"""
        SELECT {ALSO}, h.* FROM $sessions AS s LEFT JOIN LATERAL (
            SELECT h.* FROM (
                SELECT s.session_id AS owner, {_FROM} AS from_seq, {_TO} AS to_seq
                UNION ALL
                SELECT g.owner_session_id, greatest(g.from_seq, {_FROM}), least(g.to_seq, {_TO})
                FROM $session_segments AS g WHERE g.namespace = :namespace AND g.session_id = :session_id
                    AND g.from_seq <= {_TO} AND g.to_seq >= {_FROM}
            ) AS piece CROSS JOIN LATERAL (
                SELECT {columns} FROM $history_entries AS h WHERE h.namespace = :namespace
                AND h.session_id = piece.owner AND h.seq BETWEEN piece.from_seq AND piece.to_seq OFFSET 0) AS h
        ) AS h ON true
        WHERE s.namespace = :namespace AND s.session_id = :session_id AND $live""",
        sqlite=f"""
        SELECT {ALSO}, {columns} FROM $sessions AS s
        LEFT JOIN $history_entries AS h ON h.namespace = s.namespace AND h.session_id = s.session_id
            AND h.seq BETWEEN {_FROM_SQLITE} AND {_TO_SQLITE}
        WHERE s.namespace = :namespace AND s.session_id = :session_id AND $live
        UNION ALL
        SELECT {ALSO}, {columns} FROM $sessions AS s
        JOIN $session_segments AS g ON g.namespace = s.namespace AND g.session_id = s.session_id
        CROSS JOIN $history_entries AS h ON h.namespace = g.namespace AND h.session_id = g.owner_session_id
            AND h.seq BETWEEN max(g.from_seq, {_FROM_SQLITE}) AND min(g.to_seq, {_TO_SQLITE})
        WHERE s.namespace = :namespace AND s.session_id = :session_id AND $live""",
    )
    return plain, fork


_READ, _READ_FORK = _statements(entry_rows.COLUMNS)


# One column; for forks also what its rows are put in order by.
_CONTENT, _CONTENT_FORK = _statements("CAST(h.content AS text)")[0], _statements("CAST(h.content AS text), h.seq")[1]


def _joined(contents: str) -> Statement:
    """All contents as one list of JSON, for SQLite, where a row costs more to fetch than what it holds costs to read.

    As bytes, which the reader of JSON takes as they are. Behind the contents is the number of entries: there are fewer
    contents if some are large, or not plain (see `exactjson`), and then they have to be read row by row.

    Args:
        contents: A query of contents `c`, in order, null for one of those.
    """
    return Statement(
        sqlite=f"""
        SELECT {ALSO}, (
            SELECT CASE WHEN count(*) > 0 THEN
                CAST('[' || coalesce(group_concat(o.c, ','), '') || ',' || count(*) || ']' AS blob) END
            FROM ({contents}) AS o)
        FROM $sessions AS s WHERE s.namespace = :namespace AND s.session_id = :session_id AND $live"""
    )


_PLAIN = (
    f"""CASE WHEN h.content_bytes <= :largest AND h.content >= '{exactjson.PLAIN}' THEN h.content END AS c, h.seq"""
)
_OWN = f"""SELECT {_PLAIN} FROM $history_entries AS h
            WHERE h.namespace = s.namespace AND h.session_id = s.session_id
                AND h.seq BETWEEN {_FROM_SQLITE} AND {_TO_SQLITE}"""
_JOINED = _joined(f"{_OWN} ORDER BY h.seq")
_JOINED_FORK = _joined(f"""{_OWN}
            UNION ALL
            SELECT {_PLAIN} FROM $session_segments AS g CROSS JOIN $history_entries AS h
                ON h.namespace = g.namespace AND h.session_id = g.owner_session_id
                AND h.seq BETWEEN max(g.from_seq, {_FROM_SQLITE}) AND min(g.to_seq, {_TO_SQLITE})
            WHERE g.namespace = s.namespace AND g.session_id = s.session_id ORDER BY seq""")

# Beyond this SQLite's copies of the one text cost more than the rows would, and memory.
_MOST_JOINED = 200
_JOINED_BYTES = 1_000_000

# The same without the content of large entries, which is null then.
_READ_SMALL, _READ_FORK_SMALL = _statements(
    entry_rows.ENTRY.select(
        "h", content="CASE WHEN h.content_bytes <= :largest THEN CAST(h.content AS text) ELSE 'null' END"
    )
)


def read(
    link: Link,
    session_id: str,
    *,
    last: int | None = None,
    after: int | None = None,
    before: int | None = None,
    limit: int | None = None,
    largest: int | None = None,
) -> list[Entry]:
    """The entries of a range, oldest first. Extends the session's TTL.

    Args:
        link: The connection.
        session_id: The session.
        last: As for `history.read`, like the next three.
        after: …
        before: …
        limit: …
        largest: Leave the content of larger ones out, in bytes of JSON: it is None then.

    Raises:
        SessionNotFoundError: No such session, or it has expired.
    """
    window = window_of(last, after, before, limit)
    plain, fork = (_READ, _READ_FORK) if largest is None else (_READ_SMALL, _READ_FORK_SMALL)
    if largest is not None:
        window["largest"] = largest
    known = session_id in link.settings.of(ForkHints)
    also, entries = _read(link, fork if known else plain, session_id, window, look_for_fork=not known)
    if also & _FORK and not known:
        known = True
        link.settings.of(ForkHints).add(session_id)
        also, entries = _read(link, fork, session_id, window)
    if also & TO_EXTEND:
        session_rows.extend(link, session_id)
    if known:
        entries.sort(key=attrgetter("seq"))
    return entries


def _read(
    link: Link, statement: Statement, session_id: str, window: dict[str, int], *, look_for_fork: bool = False
) -> tuple[int, list[Entry]]:
    """What there is to do beyond reading, and the entries; none where *look_for_fork* finds one."""
    if link.holds_reads or window["last"] <= _PAGE or window["limit"] <= _PAGE:
        rows = holding.read(link, statement, session_id=session_id, **window)
        return _entries(link, session_id, (rows,), look_for_fork)
    with closing(link.pages(statement, _PAGE, session_id=session_id, **window)) as pages:
        return _entries(link, session_id, pages, look_for_fork)


def _entries(
    link: Link, session_id: str, pages: Iterable[Sequence[Row]], look_for_fork: bool
) -> tuple[int, list[Entry]]:
    also: int | None = None
    entries: list[Entry] = []
    for rows in pages:
        if also is None:
            if not rows:
                raise session_rows.not_found(link, session_id)
            also, *_ = rows[0]
            also = also or 0
            if look_for_fork and also & _FORK:
                break
        # A session without an entry there is a row all the same; of a fork there may be one for each of its halves.
        if also & _FORK or (rows and rows[0][entry_rows.SEQ] is None):
            rows = [row for row in rows if row[entry_rows.SEQ] is not None]
        found = entry_rows.from_rows(link, session_id, rows)
        if entries:
            entries += found
        else:
            entries = found
    assert also is not None
    return also, entries


def read_contents(link: Link, session_id: str, window: dict[str, int]) -> list[Any]:
    """The contents of a range, oldest first. Extends the session's TTL.

    Raises:
        SessionNotFoundError: No such session, or it has expired.
    """
    if link.dialect.name == "sqlite":
        found = _read_joined(link, session_id, window)
        if found is not None:
            return found
    rows, is_fork = rows_of(link, session_id, _CONTENT, _CONTENT_FORK, **window)
    if is_fork:
        rows = sorted((row for row in rows if row[1] is not None), key=itemgetter(2))
    return contents(link, session_id, rows)


class _RowByRow(Hints):
    """Sessions that have contents which cannot be joined."""

    __slots__ = ()


def _read_joined(link: Link, session_id: str, window: dict[str, int]) -> list[Any] | None:
    """As `read_contents`; None if they have to be read row by row."""
    most, hints = min(window["last"], window["limit"]), link.settings.of(_RowByRow)
    if most > _MOST_JOINED or session_id in hints:
        return None
    try:
        largest = _JOINED_BYTES // max(most, 1)
        ((_, text),), _ = rows_of(link, session_id, _JOINED, _JOINED_FORK, largest=largest, **window)
        values: list[Any] = [0] if text is None else orjson.loads(text)
        if values.pop() == len(values):
            return values
    except (sqlite3.DataError, orjson.JSONDecodeError):  # Longer than a text may be, for the former.
        pass
    hints.add(session_id)
    return None


def contents(link: Link, session_id: str, rows: Sequence[Row]) -> list[Any]:
    """The values of rows of one column and a content, which is null where the session has no entry."""
    loads, plain, any_loads = exactjson.plain_loads, exactjson.PLAIN, exactjson.loads
    if not rows or rows[0][1] is None:
        return []
    try:
        return [loads(text) if (text := row[1]) >= plain else any_loads(text) for row in rows]
    except orjson.JSONDecodeError:
        pass  # Not raised from here: the error would hold this one, and this one holds the content.
    raise exactjson.damaged("history_entries", f"a position of session {session_id!r}", session_id=session_id)


def rows_of(
    link: Link, session_id: str, plain: Statement, fork: Statement, **params: Any
) -> tuple[Sequence[Row], bool]:
    """The rows of one of two statements that select `ALSO` first, and whether it was the one for forks.

    Extends the session's TTL.

    Args:
        link: The connection.
        session_id: The session.
        plain: For a session that is not a fork. It returns a row even if it finds nothing there.
        fork: For any session; likewise.
        params: Their further parameters.

    Raises:
        SessionNotFoundError: No such session, or it has expired.
    """
    hints = link.settings.of(ForkHints)
    known = session_id in hints
    rows = holding.read(link, fork if known else plain, session_id=session_id, **params)
    also = _also(link, session_id, rows)
    if also & _FORK and not known:
        known = True
        hints.add(session_id)
        rows = holding.read(link, fork, session_id=session_id, **params)
        also = _also(link, session_id, rows)
    if also & TO_EXTEND:
        session_rows.extend(link, session_id)
    return rows, known


def _also(link: Link, session_id: str, rows: Sequence[Row]) -> int:
    if not rows:
        raise session_rows.not_found(link, session_id)
    also: int | None = rows[0][0]
    return also or 0


def window_of(last: int | None, after: int | None, before: int | None, limit: int | None) -> dict[str, int]:
    """What was asked for, as numbers; no limit is one that nothing reaches."""
    return {
        "last": FAR if last is None else min(last, FAR),
        "after": min(after or 0, FAR),
        "before": FAR if before is None else min(before, FAR),
        "limit": FAR if limit is None else min(limit, FAR),
    }
