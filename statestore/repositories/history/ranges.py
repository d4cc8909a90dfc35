"""Which positions a session has: letting go of some at either end."""

from statestore.engine.sql import Link, Statement
from statestore.repositories.sessions import segments, session_rows
from statestore.repositories.sessions.session_rows import LockedSession
from statestore.values.sessions import Session

_SET_RANGE = Statement(f"""
    UPDATE $sessions AS s
    SET first_seq = :first_seq, next_seq = :next_seq, last_turn = :last_turn, {session_rows.ACTIVE}
    WHERE s.namespace = :namespace AND s.session_id = :session_id""")

_DELETE_SUMMARIES = Statement("""
    DELETE FROM $summaries WHERE namespace = :namespace AND session_id = :session_id AND end_seq > :last_seq""")


def lock(link: Link, session_id: str) -> LockedSession:
    """Lock the session's row and its family, so that entries can be released.

    Raises:
        SessionNotFoundError: No such session, or it has expired.
    """
    if not segments.lock_for_release(link, session_id):
        raise session_rows.not_found(link, session_id)
    return session_rows.lock(link, session_id)


def shrink(link: Link, session: Session, *, first_seq: int, next_seq: int, last_turn: int) -> None:
    """Release what lies outside the range *first_seq* to *next_seq* - 1, and give the session this range."""
    session_id = session.session_id
    segments.release(link, session_id, session.first_seq, min(first_seq, session.next_seq) - 1)
    segments.release(link, session_id, max(next_seq, session.first_seq), session.next_seq - 1)
    set_range(link, session_id, first_seq=first_seq, next_seq=next_seq, last_turn=last_turn)


def set_range(link: Link, session_id: str, *, first_seq: int, next_seq: int, last_turn: int) -> None:
    """Give the session this range; summaries that reach beyond it go."""
    link.run(_SET_RANGE, session_id=session_id, first_seq=first_seq, next_seq=next_seq, last_turn=last_turn)
    link.run(_DELETE_SUMMARIES, session_id=session_id, last_seq=next_seq - 1)
