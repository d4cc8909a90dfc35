"""Operations on the history of a session."""

from datetime import timedelta

from statestore.engine.flows import Flow, Stream
from statestore.operations import erasing, follow, iterating
from statestore.operations.base import AsyncGroup, Group, Operations, flow, operation, stream
from statestore.repositories.history.repository import HistoryRepository
from statestore.values.history import Entry


class HistoryOperations(Operations):
    append = operation(HistoryRepository.append)
    read = operation(HistoryRepository.read)
    get = operation(HistoryRepository.get)
    locate = operation(HistoryRepository.locate)
    count = operation(HistoryRepository.count)
    window = operation(HistoryRepository.window)
    pop_last = operation(HistoryRepository.pop_last)
    add_summary = operation(HistoryRepository.add_summary)
    summaries = operation(HistoryRepository.summaries)

    @stream
    def iterate(self, session_id: str, *, batch: int = 500) -> Stream[Entry]:
        """The entries of a session, oldest first, without holding all of them: `for entry in history.iterate(…)`.

        Each batch is a read of its own, of what stands behind the entry before it. So what is appended meanwhile comes
        too; where entries are popped, or replaced, some may come that never stood there together. Extends the session's
        TTL.

        Args:
            session_id: The session.
            batch: How many entries are read at a time, 1 to 10,000.

        Raises:
            SessionNotFoundError: No such session, or it was deleted or has expired meanwhile.
        """
        return iterating.iterate(session_id, batch)

    @flow
    def trim(self, session_id: str, *, keep_last: int) -> Flow[int]:
        """Let go of all entries but the newest *keep_last*. Positions stay as they are; forks keep what they see.

        More than 5,000 go in parts, the oldest first, each in a short transaction of its own, so that nobody waits for
        long. Inside a caller's transaction it is all or none.

        Returns:
            How many entries went.

        Raises:
            SessionNotFoundError: No such session, or it has expired. Nothing was written, unless it went meanwhile.
        """
        return erasing.trim(session_id, keep_last)

    @flow
    def clear(self, session_id: str) -> Flow[int]:
        """Empty the history, summaries included; the next entry is number 1 again. Forks keep what they see.

        The session itself and its state stay. More than 5,000 entries go in parts, as by `trim`; the last part empties
        the history, what was appended meanwhile included.

        Returns:
            How many entries went.

        Raises:
            SessionNotFoundError: No such session, or it has expired. Nothing was written, unless it went meanwhile.
        """
        return erasing.clear(session_id)

    @stream
    def follow(self, session_id: str, *, after: int | None = None, timeout: timedelta | None = None) -> Stream[Entry]:
        """Pass on what is appended to a session, as it comes: `for entry in store.history.follow(…)`.

        Every entry comes once, in order, whatever happens to the connection meanwhile, also when the database restarts.
        Ends when the session is gone, also where another was made under its id, with `SessionNotFoundError`, or after
        *timeout*; or stop iterating. On PostgreSQL all who follow share one connection beside the pool, and
        hear of an append at once; elsewhere, or behind a pooler, it looks every 20 to 500 milliseconds. Waiting does
        not extend the session's TTL.

        Where entries are popped and others appended in their place, these are passed on as well, as long as they were
        among the latest 256 that were. What is trimmed before it was passed on is not.

        Args:
            session_id: The session.
            after: The position behind which to begin, 0 for the start; it may lie beyond the end. By default only what
                is appended from the first step of the iteration on.
            timeout: End when nothing has come for so long; by default never.

        Raises:
            SessionNotFoundError: No such session, or it was deleted or has expired meanwhile.
            UnavailableError: The database has been away for two minutes.
        """
        return follow.follow(self._runner, session_id, after=after, timeout=timeout)


class History(HistoryOperations, Group):
    """Appending to the history of a session, and reading it: `store.history`."""


class AsyncHistory(HistoryOperations, AsyncGroup):
    """As `History`, awaited; what is iterated over takes `async for`."""
