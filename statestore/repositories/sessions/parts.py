"""Sessions that belong to another: its parts.

A part lives as long as its session: `$live` looks for that one with each statement. Before the session's row goes, or
is hidden, its parts are ended in the same transaction, under the lock of its row, which whoever makes a part takes too.
So none is left that could come to life with another session of the same id, and the sweep finds them by their end.
"""

from collections.abc import Iterable

from statestore.engine.sql import Link, Statement
from statestore.repositories.sessions import endings

# A part that is not ended has no end. With the TTL of its session it counts as gone in the same way.
_END = Statement(f"""
    UPDATE $sessions AS s SET ttl = coalesce(w.ttl, :deleted), lease_owner = NULL, lease_until = NULL, {endings.END}
    FROM $sessions AS w
    WHERE w.namespace = :namespace AND w.session_id $in(:session_ids) AND s.namespace = w.namespace
        AND s.belongs_to = w.session_id AND s.expires_at IS NULL""")

_IDS = Statement("""
    SELECT session_id FROM $sessions WHERE namespace = :namespace AND belongs_to = :session_id ORDER BY session_id""")

# Sessions that are due and have parts are ended once more, long ago: nothing can revive them from then on.
_HAS_PARTS = """EXISTS (SELECT 1 FROM $sessions AS p
        WHERE p.namespace = :namespace AND p.belongs_to = s.session_id AND p.expires_at IS NULL)"""
_END_DUE = Statement(
    postgresql=f"""
    WITH due AS MATERIALIZED (
        SELECT s.session_id, s.ttl FROM $sessions AS s
        WHERE s.namespace = :namespace AND {endings.DUE} AND {_HAS_PARTS}
        ORDER BY s.expires_at LIMIT :limit FOR NO KEY UPDATE OF s SKIP LOCKED),
    hidden AS (
        UPDATE $sessions AS s SET {endings.END} FROM due
        WHERE s.namespace = :namespace AND s.session_id = due.session_id
            AND s.expires_at > $later(-CAST(:back AS interval))),
    ended AS (
        UPDATE $sessions AS s SET ttl = due.ttl, lease_owner = NULL, lease_until = NULL, {endings.END} FROM due
        WHERE s.namespace = :namespace AND s.belongs_to = due.session_id AND s.expires_at IS NULL)
    SELECT count(*) FROM due""",
    sqlite=f"""
    UPDATE $sessions AS s SET ttl = due.ttl, lease_owner = NULL, lease_until = NULL, {endings.END}
    FROM (SELECT s.session_id, s.ttl FROM $sessions AS s
        WHERE s.namespace = :namespace AND {endings.DUE} AND {_HAS_PARTS}
        ORDER BY s.expires_at LIMIT :limit) AS due
    WHERE s.namespace = :namespace AND s.belongs_to = due.session_id AND s.expires_at IS NULL
    RETURNING belongs_to""",
)


def of(link: Link, session_id: str) -> list[str]:
    """The ids of a session's parts, ended or not."""
    return [part_id for (part_id,) in link.all(_IDS, session_id=session_id)]


def end(link: Link, session_ids: Iterable[str]) -> None:
    """Let the parts of sessions end, whose rows are locked and about to go."""
    link.run(_END, session_ids=list(session_ids), deleted=endings.DELETED, back=endings.BACK)


def end_due(link: Link, limit: int) -> int:
    """Let the parts of up to *limit* sessions end that are due, past those that somebody has locked.

    Returns:
        How many sessions there were.
    """
    rows = link.all(_END_DUE, limit=limit, back=endings.BACK, **endings.DUE_PARAMS)
    if link.dialect.name == "sqlite":
        return len({whole for (whole,) in rows})
    ((sessions,),) = rows
    found: int = sessions
    return found
