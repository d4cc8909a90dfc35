"""Reads that hold what they read, so that nobody changes it before the caller's transaction ends. PostgreSQL only.

Every write to a session or its history changes the session's row. So a read takes that row's lock along, and then
nothing that it has read can change, what was not there included. State has a lock besides the row (see
`repositories.state.scopes`), since those who write it do not change the row. SQLite's only writer gives that by itself.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from statestore.engine.sql import Link, Row, Statement
from statestore.repositories.base import one_row

# A session that does not exist has no row to be locked. Two transactions that find it missing, and then make it, queue
# here; the second one finds what the first has made. The innermost number is this kind of lock's own: those who follow
# a session have 11 (see `follows`), families 7 (see `segments`), state 17, 19 and 23.
_LOCK_ABSENCE = Statement(
    postgresql=f"""
    SELECT pg_advisory_xact_lock(
        hashtextextended(CAST(:session_id AS text), hashtextextended(CAST(:namespace AS text), 13)))
    FROM {one_row("sessions", "session_id")}"""
)


@lru_cache(maxsize=64)
def _holding(statement: Statement) -> Statement:
    """*statement* and the lock in one; each row says first whether what it read is what is locked now.

    A statement that waited for the lock gets the newest version of the row that it waited for, but reads everything
    else as it was before. Then `xmin`, the number of the transaction that wrote the row, differs.
    """
    return Statement(
        postgresql=f"""
    WITH held AS MATERIALIZED (
        SELECT CAST(s.xmin AS text) AS version FROM $sessions AS s
        WHERE s.namespace = :namespace AND s.session_id = :session_id AND $live $lock)
    SELECT (SELECT held.version FROM held) IS NOT DISTINCT FROM (SELECT CAST(s.xmin AS text) FROM $sessions AS s
        WHERE s.namespace = :namespace AND s.session_id = :session_id), r.*
    FROM ({statement.postgresql}) AS r"""
    )


def read(link: Link, statement: Statement, *, session_id: str, **params: Any) -> Sequence[Row]:
    """The rows of a statement that reads a living session, held if the link asks for it.

    Args:
        link: The connection.
        statement: It returns no row if there is no such session, and at least one if there is.
        session_id: The session.
        params: Further parameters of the statement.
    """
    if not link.holds_reads:
        return link.all(statement, session_id=session_id, **params)
    rows = _read_held(link, statement, session_id, params)
    if not rows:
        hold_absence(link, session_id)
        rows = _read_held(link, statement, session_id, params)
    return rows


def hold_absence(link: Link, session_id: str) -> None:
    """Wait for other transactions that found the session missing, and let those wait that come to find it."""
    link.all(_LOCK_ABSENCE, session_id=session_id)


def _read_held(link: Link, statement: Statement, session_id: str, params: dict[str, Any]) -> list[Row]:
    while True:
        rows = link.all(_holding(statement), session_id=session_id, **params)
        if not rows or rows[0][0]:
            return [row[1:] for row in rows]
        # Somebody was waited for. The lock is held by now, unless the session was deleted.
