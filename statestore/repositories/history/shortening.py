"""Letting go of the front of a history, or of all of it, a part at a time."""

from operator import itemgetter

from statestore.checking import checks
from statestore.engine.calls import reported_as, writes_in_one_statement
from statestore.repositories.base import Repository
from statestore.repositories.history import ranges


class ShorteningRepository(Repository):
    """The steps of `history.trim` and `history.clear`; no operations of their own.

    Each is a trim by itself, and leaves what a reader could have seen anyway. So it does no harm where the next one
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
            at_once = ranges.trim_at_once(self._link, session_id, keep_last, limit)
            if at_once is not None:
                return at_once
            self._needs_transaction()
        locked = ranges.lock(self._link, session_id)
        session = locked.session
        excess = max(0, session.entry_count - keep_last)
        gone = min(excess, limit)
        if gone:
            first_seq, next_seq = session.first_seq + gone, session.next_seq
            ranges.shrink(self._link, session, first_seq=first_seq, next_seq=next_seq, last_turn=locked.last_turn)
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
            cleared = ranges.clear_at_once(self._link, session_id, limit)
            if cleared is not None:
                return cleared, False
            self._needs_transaction()
        locked = ranges.lock(self._link, session_id)
        session = locked.session
        if session.entry_count > limit:
            first_seq, next_seq = session.first_seq + limit, session.next_seq
            ranges.shrink(self._link, session, first_seq=first_seq, next_seq=next_seq, last_turn=locked.last_turn)
            return limit, True
        ranges.shrink(self._link, session, first_seq=1, next_seq=1, last_turn=0)
        return session.entry_count, False
