"""Reading the history of a session, or of many."""

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from statestore.checking import checks
from statestore.engine.calls import in_batches, reads
from statestore.engine.sql import Statement
from statestore.errors import EntryNotFoundError, InvalidValueError
from statestore.repositories.base import Repository
from statestore.repositories.history import entry_filters, entry_lookups, entry_reads
from statestore.repositories.history.read_batches import MESSAGES, READS
from statestore.repositories.sessions import holding, session_rows
from statestore.values.history import Entry

_COUNT = Statement("""
    SELECT s.next_seq - s.first_seq FROM $sessions AS s
    WHERE s.namespace = :namespace AND s.session_id = :session_id AND $live""")


class ReadingRepository(Repository):
    """The entries of a session as they are."""

    @in_batches(READS)
    @reads
    def read(
        self,
        session_id: str,
        *,
        last: int | None = None,
        after: int | None = None,
        before: int | None = None,
        limit: int | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        role: str | None = None,
        turn: int | None = None,
    ) -> list[Entry]:
        """The entries of a session, oldest first; by default all of them.

        One round trip; two if the store sees a fork for the first time, at any depth. Extends the session's TTL. With
        *since*, *until*, *role* or *turn* the database goes through the entries of the range, from the end at which it
        begins to count, until enough of them match.

        Args:
            session_id: The session to read.
            last: Return only this many, the newest of those that match.
            after: Only entries after this position.
            before: Only entries before this position. `before=` with `last=` pages backwards, `after=` with `limit=`
                forwards.
            limit: Return only this many, the oldest of those that match. Not together with *last*.
            since: Only entries with a `created_at` from this time on: an aware datetime.
            until: Only entries with a `created_at` before this time.
            role: Only entries of this role.
            turn: Only entries of this turn; 0 for those before the first.

        Raises:
            SessionNotFoundError: No such session, or it has expired.
            InvalidValueError: A negative number, a time without a time zone, or *last* together with *limit*.
        """
        _check_range(session_id, last, after, before, limit)
        since, until = checks.optional_time(since, "since"), checks.optional_time(until, "until")
        checks.optional_key(role, "role")
        checks.optional_count(turn, "turn")
        if (since, until, role, turn) == (None, None, None, None):
            return entry_reads.read(self._link, session_id, last=last, after=after, before=before, limit=limit)
        return entry_filters.read(
            self._link,
            session_id,
            last=last,
            after=after,
            before=before,
            limit=limit,
            since=since,
            until=until,
            role=role,
            turn=turn,
        )

    @in_batches(MESSAGES)
    @reads
    def messages(
        self,
        session_id: str,
        *,
        last: int | None = None,
        after: int | None = None,
        before: int | None = None,
        limit: int | None = None,
    ) -> list[Any]:
        """The contents of the entries alone, oldest first: what a prompt needs, at about half the price of `read`.

        One round trip; two if the store sees a fork for the first time. Extends the session's TTL.

        Args:
            session_id: The session to read.
            last: As for `read`, like the next three.
            after: …
            before: …
            limit: …

        Raises:
            SessionNotFoundError: No such session, or it has expired.
            InvalidValueError: A negative number, or *last* together with *limit*.
        """
        _check_range(session_id, last, after, before, limit)
        return entry_reads.read_contents(self._link, session_id, entry_reads.window_of(last, after, before, limit))

    @reads
    def get(self, session_id: str, seq: int) -> Entry:
        """The entry at one position. Extends the session's TTL.

        Raises:
            SessionNotFoundError: No such session, or it has expired.
            EntryNotFoundError: The session has no entry there, or no longer has one.
        """
        checks.key(session_id, "session_id")
        checks.count(seq, "seq")
        entries = (
            entry_reads.read(self._link, session_id, after=max(seq - 1, 0), before=seq + 1)
            if seq < entry_reads.FAR
            else []
        )
        if not entries:
            raise EntryNotFoundError(session_id, seq)
        return entries[0]

    @reads
    def find(self, session_id: str, entry_id: str) -> Entry | None:
        """The entry with this id in the session, wherever it stands; None if there is none. Extends the session's TTL.

        Raises:
            SessionNotFoundError: No such session, or it has expired.
        """
        checks.key(session_id, "session_id")
        checks.key(entry_id, "entry_id")
        return entry_lookups.find(self._link, session_id, entry_id)

    @reads
    def last_many(self, session_ids: Iterable[str], n: int) -> dict[str, list[Entry]]:
        """The newest *n* entries of each of many sessions, oldest first, in one statement however many there are.

        Extends the TTLs of the sessions, which takes a second statement if one of them is due. In a caller's
        transaction on PostgreSQL each session is read, and held, by itself.

        Args:
            session_ids: The sessions.
            n: How many entries of each; 0 only tells which sessions there are.

        Returns:
            The entries by session id, in the order given. Sessions that do not exist, or have expired, are left out.

        Raises:
            InvalidValueError: An id can never be stored, or *session_ids* is a single string.
        """
        ids = self._once("session_ids", lambda: checks.keys(session_ids, "session_ids"))
        checks.count(n, "n")
        return entry_lookups.last_of_many(self._link, ids, n) if ids else {}

    @reads
    def count(self, session_id: str) -> int:
        """How many entries the session has. Does not extend its TTL.

        Raises:
            SessionNotFoundError: No such session, or it has expired.
        """
        checks.key(session_id, "session_id")
        rows = holding.read(self._link, _COUNT, session_id=session_id)
        if not rows:
            raise session_rows.not_found(self._link, session_id)
        ((entries,),) = rows
        found: int = entries
        return found


def _check_range(session_id: str, last: int | None, after: int | None, before: int | None, limit: int | None) -> None:
    checks.key(session_id, "session_id")
    for name, value in (("last", last), ("after", after), ("before", before), ("limit", limit)):
        if value is not None:
            checks.count(value, name)
    if last is not None and limit is not None:
        raise InvalidValueError("limit", "cannot be combined with last; limit counts from the start, last from the end")
