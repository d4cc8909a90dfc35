"""Operations on the history of a session."""

from datetime import timedelta

from statestore.checking import checks
from statestore.engine.calls import Call
from statestore.engine.flows import Flow, Item, Stream
from statestore.errors import InvalidValueError
from statestore.operations import erasing, follow
from statestore.operations.base import AsyncGroup, Group, Operations, flow, operation, stream
from statestore.repositories.history.repository import HistoryRepository
from statestore.values.history import Entry

_LARGEST_BATCH = 10_000


class HistoryOperations(Operations):
    append = operation(HistoryRepository.append)
    read = operation(HistoryRepository.read)
    messages = operation(HistoryRepository.messages)
    get = operation(HistoryRepository.get)
    find = operation(HistoryRepository.find)
    last_many = operation(HistoryRepository.last_many)
    replace = operation(HistoryRepository.replace)
    annotate = operation(HistoryRepository.annotate)
    set_usage = operation(HistoryRepository.set_usage)
    locate = operation(HistoryRepository.locate)
    locate_many = operation(HistoryRepository.locate_many)
    count = operation(HistoryRepository.count)
    window = operation(HistoryRepository.window)
    pop_last = operation(HistoryRepository.pop_last)
    add_summary = operation(HistoryRepository.add_summary)
    summaries = operation(HistoryRepository.summaries)

    @stream
    def iterate(self, session_id: str, *, batch: int = 500) -> Stream[Entry]:
        """The entries of a session, oldest first, not all in memory at once: `for entry in history.iterate(…)`.

        Each batch is a separate read of what follows the last entry. So entries that are appended meanwhile come too;
        if entries are popped or replaced meanwhile, the result may mix entries that were never in the history
        together. Extends the session's TTL.

        Args:
            session_id: The session.
            batch: How many entries are read at a time, 1 to 10,000.

        Raises:
            SessionNotFoundError: No such session, or it was deleted or expired meanwhile.
        """
        checks.key(session_id, "session_id")
        if checks.count(batch, "batch", least=1) > _LARGEST_BATCH:
            raise InvalidValueError("batch", f"must be at most {_LARGEST_BATCH:,}")
        return _batches(session_id, batch)

    @flow
    def trim(self, session_id: str, *, keep_last: int) -> Flow[int]:
        """Remove all entries but the newest *keep_last*. Positions stay as they are; forks keep what they see.

        What the entries used stays in reports. Their ids are free: an entry that is appended again under one of them is
        stored again, and what it used counts again.

        More than 5,000 entries are removed in parts, oldest first, each in its own short transaction, so that nobody
        waits long. Inside a caller's transaction it is all or none.

        Returns:
            How many entries were removed.

        Raises:
            SessionNotFoundError: No such session, or it has expired. Nothing was written, unless it vanished meanwhile.
        """
        return erasing.trim(session_id, keep_last)

    @flow
    def clear(self, session_id: str) -> Flow[int]:
        """Empty the history, summaries included; the next entry is number 1 again. Forks keep what they see.

        The session itself and its state stay. More than 5,000 entries are removed in parts, as by `trim`; the last
        part empties the history, including what was appended meanwhile.

        Returns:
            How many entries were removed.

        Raises:
            SessionNotFoundError: No such session, or it has expired. Nothing was written, unless it vanished meanwhile.
        """
        return erasing.clear(session_id)

    @stream
    def follow(self, session_id: str, *, after: int | None = None, timeout: timedelta | None = None) -> Stream[Entry]:
        """Pass on what is appended to a session, as it comes: `for entry in store.history.follow(…)`.

        Every entry comes once, in order, even if the connection is lost or the database restarts meanwhile. Ends with
        `SessionNotFoundError` when the session is gone, even if another was created with its id, or after *timeout*;
        you can also stop iterating. On PostgreSQL all followers share one connection outside the pool, and hear of an
        append at once; on SQLite, behind a pooler and on a caller's `AsyncEngine` they look every 20 to 500
        milliseconds. Waiting does not extend the session's TTL.

        If entries are popped and others appended at their positions, those are passed on as well, as long as the
        popped ones were among the latest 256. Entries that are trimmed before they are passed on are skipped.

        Args:
            session_id: The session.
            after: The position after which to begin, 0 for the start; it may be beyond the end. By default only what
                is appended after the first step of the iteration.
            timeout: Stop when nothing has come for this long; by default never.

        Raises:
            SessionNotFoundError: No such session, or it was deleted or expired meanwhile.
            UnavailableError: The database has been away for two minutes.
        """
        return follow.follow(self._runner, session_id, after=after, timeout=timeout)


class History(HistoryOperations, Group):
    """Appending to the history of a session, and reading it: `store.history`."""


class AsyncHistory(HistoryOperations, AsyncGroup):
    """As `History`, awaited; iterate with `async for`."""


def _batches(session_id: str, batch: int) -> Stream[Entry]:
    after = 0
    while True:
        entries: list[Entry] = yield Call(HistoryRepository.read, (session_id,), {"after": after, "limit": batch})
        for entry in entries:
            yield Item(entry)
        if len(entries) < batch:
            return
        after = entries[-1].seq
