"""How a session begins and ends, for every operation that makes or removes one."""

from collections.abc import Mapping
from typing import Any

from statestore.engine.sql import Link, Statement
from statestore.repositories.sessions import endings, parts, segments, session_rows
from statestore.repositories.usage import ledger
from statestore.values.sessions import Session, Status

# The last position is read here, under the lock: the row that a caller read before may be older.
_LAST_SEQ = Statement("""
    SELECT s.next_seq - 1, coalesce(s.ttl = :erased, false), EXISTS (
        SELECT 1 FROM $sessions AS p WHERE p.namespace = :namespace AND p.belongs_to = s.session_id)
    FROM $sessions AS s WHERE s.namespace = :namespace AND s.session_id = :session_id""")

_ONE = "SELECT 1 FROM $sessions AS s WHERE s.namespace = :namespace AND s.session_id = :session_id AND "
_LIVES = Statement(_ONE + "$live")
_HAS_EXPIRED = Statement(_ONE + "NOT $live")

_REVIVE = Statement(f"""
    UPDATE $sessions AS s SET status = :status, {session_rows.ACTIVE}
    WHERE s.namespace = :namespace AND s.session_id = :session_id AND $live AND s.status = 'dead'
    RETURNING {session_rows.COLUMNS}""")

# State, summaries and the session's own segments go with it, by ON DELETE CASCADE.
_DELETE = Statement("DELETE FROM $sessions WHERE namespace = :namespace AND session_id = :session_id")


def create(link: Link, session_id: str, columns: Mapping[str, Any]) -> Session | None:
    """Create a session, replacing an expired one; None if a living one has the id. Runs in a transaction.

    Raises:
        SessionNotFoundError: It is to belong to a session that does not exist, or has expired.
    """
    whole = columns.get("belongs_to")
    if whole is not None:
        # First: to insert a part locks the row of what it belongs to, and the lock of a family comes before any row's.
        erase_expired(link, session_id)
    while True:
        made = session_rows.insert(link, session_id, columns)
        if made is not None:
            return made
        if erase_expired(link, session_id):
            continue
        if link.one(_LIVES, session_id=session_id) is not None:
            return None
        if whole is not None and link.one(_LIVES, session_id=whole) is None:
            raise session_rows.not_found(link, whole)


def revive(link: Link, session_id: str, status: Status) -> Session | None:
    """Let a dead session live again; None if it is not dead, or no longer."""
    status = status if status == "starting" else "ready"
    row = link.one(_REVIVE, session_id=session_id, status=status)
    return None if row is None else session_rows.from_row(link, row, resumed=True)


def erase_expired(link: Link, session_id: str) -> bool:
    """Remove a session that has expired and was not swept yet. Runs in a transaction.

    Returns:
        Whether there was one.
    """
    # Looked at without a lock first: the family's has to come before the row's.
    if link.one(_HAS_EXPIRED, session_id=session_id) is None:
        return False
    if not segments.lock_for_release(link, session_id) or link.one(_HAS_EXPIRED, session_id=session_id) is None:
        return False
    erase(link, session_id)
    return True


def erase(link: Link, session_id: str, *, locked: bool = False) -> int | None:
    """Remove a session and all that is its own; forks keep what they see. Runs in a transaction.

    What belongs to it is gone from then on; the rows of these are left to the sweep.

    Args:
        link: Of the transaction.
        session_id: The session.
        locked: The lock for its release is held.

    Returns:
        How many entries were deleted; None if there was no such session, living or expired.
    """
    found = locked or segments.lock_for_release(link, session_id)
    row = link.one(_LAST_SEQ, session_id=session_id, erased=endings.ERASED) if found else None
    if row is None:
        return None
    last_seq, erased, has_parts = row
    if has_parts:
        parts.end(link, [session_id])
    deleted = segments.release(link, session_id, 1, last_seq)
    link.run(_DELETE, session_id=session_id)
    if erased:
        ledger.rename(link, [session_id])
    return deleted
