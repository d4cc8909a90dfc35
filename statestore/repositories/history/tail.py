"""The end of a history, and the entry at a position: whether it is still the one that was seen there."""

from dataclasses import dataclass
from datetime import datetime

from statestore.engine.sql import Link, Statement

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
class Found:
    """Where a living session ends, when it was created, and the id of the entry at the given position, if any."""

    end: int
    created_at: datetime
    entry_id: str | None


def look(link: Link, session_id: str, seq: int) -> Found | None:
    """What is at *seq*; None if there is no such session."""
    row = link.one(_LOOK, session_id=session_id, seq=seq)
    if row is None:
        return None
    end, created_at, entry_id = row
    return Found(end, link.dialect.time(created_at), entry_id)
