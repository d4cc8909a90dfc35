"""Operations on the history of a session."""

from collections.abc import AsyncIterator, Iterator
from datetime import timedelta

from statestore.engine.flows import run, run_async
from statestore.operations import erasing, follow, iterating
from statestore.operations.base import AsyncGroup, Group, async_operation, operation
from statestore.repositories.history.repository import HistoryRepository
from statestore.values.history import Entry


class History(Group):
    append = operation(HistoryRepository.append)
    read = operation(HistoryRepository.read)
    get = operation(HistoryRepository.get)
    count = operation(HistoryRepository.count)
    window = operation(HistoryRepository.window)
    pop_last = operation(HistoryRepository.pop_last)
    add_summary = operation(HistoryRepository.add_summary)
    summaries = operation(HistoryRepository.summaries)

    def iterate(self, session_id: str, *, batch: int = 500) -> Iterator[Entry]:
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
        return iterating.iterate(self._runner, session_id, batch)

    def trim(self, session_id: str, *, keep_last: int) -> int:
        """Let go of all entries but the newest *keep_last*. Positions stay as they are; forks keep what they see.

        More than 5,000 go in parts, the oldest first, each in a short transaction of its own, so that nobody waits for
        long. Inside a caller's transaction it is all or none.

        Returns:
            How many entries went.

        Raises:
            SessionNotFoundError: No such session, or it has expired. Nothing was written, unless it went meanwhile.
        """
        return run(self._runner, erasing.trim(session_id, keep_last))

    def clear(self, session_id: str) -> int:
        """Empty the history, summaries included; the next entry is number 1 again. Forks keep what they see.

        The session itself and its state stay. More than 5,000 entries go in parts, as by `trim`; the last part empties
        the history, what was appended meanwhile included.

        Returns:
            How many entries went.

        Raises:
            SessionNotFoundError: No such session, or it has expired. Nothing was written, unless it went meanwhile.
        """
        return run(self._runner, erasing.clear(session_id))

    def follow(self, session_id: str, *, after: int | None = None, timeout: timedelta | None = None) -> Iterator[Entry]:
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


class AsyncHistory(AsyncGroup):
    append = async_operation(HistoryRepository.append)
    read = async_operation(HistoryRepository.read)
    get = async_operation(HistoryRepository.get)
    count = async_operation(HistoryRepository.count)
    window = async_operation(HistoryRepository.window)
    pop_last = async_operation(HistoryRepository.pop_last)
    add_summary = async_operation(HistoryRepository.add_summary)
    summaries = async_operation(HistoryRepository.summaries)

    def iterate(self, session_id: str, *, batch: int = 500) -> AsyncIterator[Entry]:
        """The entries of a session, oldest first: `async for entry in history.iterate(…)`. See `History.iterate`."""
        return iterating.iterate_async(self._runner, session_id, batch)

    async def trim(self, session_id: str, *, keep_last: int) -> int:
        return await run_async(self._runner, erasing.trim(session_id, keep_last))

    trim.__doc__ = History.trim.__doc__

    async def clear(self, session_id: str) -> int:
        return await run_async(self._runner, erasing.clear(session_id))

    clear.__doc__ = History.clear.__doc__

    def follow(
        self, session_id: str, *, after: int | None = None, timeout: timedelta | None = None
    ) -> AsyncIterator[Entry]:
        """Pass on what is appended to a session, as it comes: `async for entry in store.history.follow(…)`.

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
        return follow.follow_async(self._runner, session_id, after=after, timeout=timeout)
