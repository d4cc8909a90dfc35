"""Reading the entries of a session that match: by time, role or turn."""

from datetime import datetime
from functools import lru_cache
from typing import Any

from statestore.engine.sql import Link, Statement
from statestore.repositories.history import entry_reads, entry_rows
from statestore.values.history import Entry

_CONDITIONS = {
    "since": "x.created_at >= $time(:since)",
    "until": "x.created_at < $time(:until)",
    "role": "x.role = :role",
    "turn": "x.turn = :turn",
}
_RANGE = "x.namespace = :namespace AND x.seq > CAST(:after AS bigint) AND x.seq < CAST(:before AS bigint)"


@lru_cache(maxsize=64)
def _statement(filters: tuple[str, ...], newest: bool, forks: bool) -> Statement:
    """For sessions that are not forks, whose rows are read in order until there are enough; with *forks* for any."""
    matches = "".join(f" AND {_CONDITIONS[name]}" for name in filters)
    own = f"SELECT x.* FROM $history_entries AS x WHERE {_RANGE} AND x.session_id = :session_id{matches}"
    shared = f"""SELECT x.* FROM $session_segments AS g JOIN $history_entries AS x ON x.session_id = g.owner_session_id
            AND x.seq BETWEEN g.from_seq AND g.to_seq AND {_RANGE}{matches}
        WHERE g.namespace = :namespace AND g.session_id = :session_id"""

    source = f"{own} UNION ALL {shared}" if forks else own
    return Statement(f"""
        SELECT {entry_reads.ALSO}, m.* FROM $sessions AS s LEFT JOIN (
            SELECT {entry_rows.COLUMNS} FROM ({source}) AS h
            ORDER BY h.seq{" DESC" if newest else ""} LIMIT :most) AS m ON true
        WHERE s.namespace = :namespace AND s.session_id = :session_id AND $live""")


def read(
    link: Link,
    session_id: str,
    *,
    last: int | None,
    after: int | None,
    before: int | None,
    limit: int | None,
    since: datetime | None,
    until: datetime | None,
    role: str | None,
    turn: int | None,
) -> list[Entry]:
    """As `history.read`, with at least one of the last four."""
    given: dict[str, Any] = {"since": since, "until": until, "role": role, "turn": turn}
    filters = tuple(name for name, value in given.items() if value is not None)
    newest = last is not None
    window = entry_reads.window_of(last, after, before, limit)
    rows, _ = entry_reads.rows_of(
        link,
        session_id,
        _statement(filters, newest, False),
        _statement(filters, newest, True),
        after=window["after"],
        before=window["before"],
        most=window["last" if newest else "limit"],
        **{name: given[name] for name in filters},
    )
    # A session without a match is a row all the same.
    entries = entry_rows.from_rows(link, session_id, [row for row in rows if row[entry_rows.SEQ] is not None])
    entries.sort(key=lambda entry: entry.seq)
    return entries
