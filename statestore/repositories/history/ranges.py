"""Which positions a session has: letting go of some at either end."""

from collections.abc import Sequence
from operator import itemgetter

from statestore.checking import checks
from statestore.engine.calls import reported_as, writes_in_one_statement
from statestore.engine.sql import Link, Row, Statement
from statestore.repositories.base import Repository
from statestore.repositories.history import entry_reads, entry_rows
from statestore.repositories.sessions import segments, session_rows, unshared
from statestore.repositories.sessions.session_rows import LockedSession
from statestore.values.history import Entry
from statestore.values.sessions import Session

_SET_RANGE = Statement(f"""
    UPDATE $sessions AS s
    SET first_seq = :first_seq, next_seq = :next_seq, last_turn = :last_turn, {session_rows.ACTIVE}
    WHERE s.namespace = :namespace AND s.session_id = :session_id""")

_DELETE_SUMMARIES = Statement("""
    DELETE FROM $summaries WHERE namespace = :namespace AND session_id = :session_id AND end_seq > :last_seq""")

_SHORTENED = f"""shortened AS (
        UPDATE $sessions AS s SET %s, {session_rows.ACTIVE} FROM own
        WHERE s.namespace = :namespace AND s.session_id = own.session_id RETURNING 1)"""
_FORGOTTEN = """forgotten AS (
        DELETE FROM $summaries AS m USING own
        WHERE m.namespace = :namespace AND m.session_id = own.session_id AND m.end_seq >= %s RETURNING 1)"""

# The turn before the oldest of the entries that go is that of the entry before it.
_LAST_TURN = "(SELECT g.turn - CASE WHEN g.role = 'user' THEN 1 ELSE 0 END FROM gone AS g WHERE g.seq = own.from_seq)"
_POP = unshared.release(
    f""", {_SHORTENED % f"next_seq = own.from_seq, last_turn = {_LAST_TURN}"}, {_FORGOTTEN % "own.from_seq"}
    SELECT held.lives, (SELECT count(*) FROM own), g.* FROM held LEFT JOIN gone AS g ON true""",
    from_seq="greatest(s.first_seq, s.next_seq - CAST(:n AS bigint))",
    # Not `:n > 0`, which may be false for all: Citus then looks at no table, and finds no `xmin`.
    where="$live AND s.next_seq > greatest(s.first_seq, s.next_seq - CAST(:n AS bigint))",
    rows=entry_rows.COLUMNS,
)

_EXCESS = "s.next_seq - s.first_seq - CAST(:keep_last AS bigint)"
_TRIM = unshared.release(
    f""", {_SHORTENED % "first_seq = own.to_seq + 1"}
    SELECT held.lives, own.to_seq - own.from_seq + 1, own.excess > CAST(:limit AS bigint), (
        SELECT {_EXCESS} FROM $sessions AS s WHERE s.namespace = :namespace AND s.session_id = :session_id)
    FROM held LEFT JOIN own ON true""",
    to_seq=f"s.first_seq + least({_EXCESS}, CAST(:limit AS bigint)) - 1",
    where=f"$live AND {_EXCESS} > 0",
    columns=f", {_EXCESS} AS excess",
)
_CLEAR = unshared.release(
    f""", {_SHORTENED % "first_seq = 1, next_seq = 1, last_turn = 0"}, {_FORGOTTEN % "1"}
    SELECT held.lives, own.to_seq - own.from_seq + 1 FROM held LEFT JOIN own ON true""",
    where="$live AND s.next_seq - s.first_seq <= CAST(:limit AS bigint)",
)


def pop_at_once(link: Link, session_id: str, n: int) -> list[Entry] | None:
    """Let go of the newest *n* entries, in one statement of PostgreSQL; None if that takes a transaction.

    Raises:
        SessionNotFoundError: No such session, or it has expired.
    """
    rows = _lives(link, session_id, link.all(_POP, session_id=session_id, n=min(n, entry_reads.FAR)))
    found = [(None, *entry) for _, popped, *entry in rows if popped]
    return sorted(entry_rows.from_rows(link, session_id, found), key=lambda entry: entry.seq) if found else None


def trim_at_once(link: Link, session_id: str, keep_last: int, limit: int) -> tuple[int, bool] | None:
    """As `pop_at_once`, of up to *limit* entries that are not among the newest *keep_last*: how many, and if more."""
    rows = link.all(_TRIM, session_id=session_id, keep_last=min(keep_last, entry_reads.FAR), limit=limit)
    ((_, gone, more, excess),) = _lives(link, session_id, rows)
    if gone is None:
        return (0, False) if excess is not None and excess <= 0 else None
    return gone, more


def clear_at_once(link: Link, session_id: str, limit: int) -> int | None:
    """As `pop_at_once`, of all entries, if there are not more than *limit*: how many there were."""
    ((_, gone),) = _lives(link, session_id, link.all(_CLEAR, session_id=session_id, limit=limit))
    found: int | None = gone
    return found


def _lives(link: Link, session_id: str, rows: Sequence[Row]) -> Sequence[Row]:
    if not rows or not rows[0][0]:
        raise session_rows.not_found(link, session_id)
    return rows


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


class ShorteningRepository(Repository):
    """The steps of `history.trim` and `history.clear`; no operations of their own.

    Each is a trim by itself, and leaves what a reader could have seen anyway. So it does no harm if the next one
    does not come, and what others append or delete meanwhile is reckoned with.
    """

    @reported_as(rows=itemgetter(0))
    @writes_in_one_statement
    def trim(self, session_id: str, keep_last: int, limit: int) -> tuple[int, bool]:
        """Let go of up to *limit* of the oldest entries that are not among the newest *keep_last*.

        Returns:
            How many went, and whether there are more of them.
        """
        checks.key(session_id, "session_id")
        checks.count(keep_last, "keep_last")
        if not self._link.in_transaction:
            at_once = trim_at_once(self._link, session_id, keep_last, limit)
            if at_once is not None:
                return at_once
            self._needs_transaction()
        locked = lock(self._link, session_id)
        session = locked.session
        excess = max(0, session.entry_count - keep_last)
        gone = min(excess, limit)
        if gone:
            first_seq, next_seq = session.first_seq + gone, session.next_seq
            shrink(self._link, session, first_seq=first_seq, next_seq=next_seq, last_turn=locked.last_turn)
        return gone, excess > gone

    @reported_as(rows=itemgetter(0))
    @writes_in_one_statement
    def clear(self, session_id: str, limit: int) -> tuple[int, bool]:
        """Empty a history of up to *limit* entries; trim a longer one by so many.

        Returns:
            How many entries went, and whether there are more.
        """
        checks.key(session_id, "session_id")
        if not self._link.in_transaction:
            cleared = clear_at_once(self._link, session_id, limit)
            if cleared is not None:
                return cleared, False
            self._needs_transaction()
        locked = lock(self._link, session_id)
        session = locked.session
        if session.entry_count > limit:
            first_seq, next_seq = session.first_seq + limit, session.next_seq
            shrink(self._link, session, first_seq=first_seq, next_seq=next_seq, last_turn=locked.last_turn)
            return limit, True
        shrink(self._link, session, first_seq=1, next_seq=1, last_turn=0)
        return session.entry_count, False
