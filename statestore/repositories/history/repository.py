"""The history of a session: append, read and remove."""

from collections.abc import Sequence
from typing import Literal, TypeAlias

from statestore.checking import checks
from statestore.engine.calls import in_batches, reported_as, writes_in_one_statement, writes_once_in_one_statement
from statestore.errors import ConflictError, SessionNotFoundError
from statestore.repositories.history import appending, entry_lookups, entry_reads, entry_rows, ranges
from statestore.repositories.history.append_batches import APPENDS
from statestore.repositories.history.editing import EditingRepository
from statestore.repositories.history.entry_rows import PreparedEntry
from statestore.repositories.history.reading import LocatingRepository, ReadingRepository
from statestore.repositories.history.summaries import SummariesRepository
from statestore.repositories.history.windows import WindowsRepository
from statestore.repositories.sessions import lease_checks, segments, session_columns
from statestore.values.history import Entry, EntryLike
from statestore.values.sessions import Lease, NewSession, Session

OnConflict: TypeAlias = Literal["raise", "keep", "replace"]


class HistoryRepository(
    ReadingRepository, EditingRepository, WindowsRepository, SummariesRepository, LocatingRepository
):
    """The ordered entries of a session. Positions (`seq`) start at 1 and have no gaps."""

    @in_batches(APPENDS)
    @reported_as(model_calls=entry_rows.model_calls)
    @writes_in_one_statement
    def append(
        self,
        session_id: str,
        entries: Sequence[EntryLike],
        *,
        after_seq: int | None = None,
        create: bool | NewSession = False,
        lease: Lease | None = None,
        on_conflict: OnConflict = "raise",
    ) -> list[Entry]:
        """Append *entries* to the end of a session's history.

        All are stored or none. Their positions are consecutive and follow the order given; appends to one session
        queue up and never interleave. Concurrent appends through one store, without *lease* or *after_seq*, are stored
        in the order of the calls as long as none takes longer than a second; on a caller's `AsyncEngine` the database
        decides. Repeating an append is safe if the entries have an `entry_id` or *after_seq* is
        given: entries that are already stored are returned and not stored again.

        Args:
            session_id: The session to append to.
            entries: What to append, oldest first: `NewEntry`; messages, which are mappings with a role and are kept
                verbatim; or what an SDK returned, see `EntryLike`. Empty is allowed and only checks that the session
                exists.
            after_seq: The position that the first entry is to follow; 0 for the start. Entries that are already
                there are skipped.
            create: Create the session if there is none, or if it has expired; nothing of an expired one remains. A
                `NewSession` says what it is to be like.
            lease: Append only while this lease is valid; the writing statement itself checks it.
            on_conflict: What to do about each entry whose `entry_id` is there already, with another content or other
                fields: `raise` refuses the whole append, `keep` leaves what is stored, and `replace` puts the new one
                in its place, as `history.replace` does.

        Returns:
            The stored entries, with `seq`, `turn` and `created_at` filled in; for one that was kept, what is stored.
            Entries that *after_seq* skips as stored, but that have been trimmed since, are left out.

        Raises:
            SessionNotFoundError: No such session, or it has expired, and *create* is false. Nothing was written.
            ConflictError: *after_seq* is beyond the end; or the entry stored at a position or under an `entry_id`
                differs from the one given: in its content, or, for a `NewEntry`, in usage, metadata, tool name or any
                other field, except a cost or time that was not given. The error's `entry_id` names the stored entry.
                Nothing was written.
            StaleLeaseError: *lease* is no longer valid. Nothing was written.
            InvalidValueError: A payload is not exact JSON or is too large, or a mapping has no role. Nothing was
                written.
        """
        checks.key(session_id, "session_id")
        checks.optional_count(after_seq, "after_seq")
        checks.one_of(on_conflict, ("raise", "keep", "replace"), "on_conflict")
        token = lease_checks.token(lease, session_id)
        columns = session_columns.of_new(self._link, create)
        max_bytes = self._link.settings.max_value_bytes
        batch = self._once("batch", lambda: entry_rows.prepare(entries, max_bytes=max_bytes))

        own = entry_rows.own_ids(batch)
        self._fits("entry_id", session_id, *own)
        own_ids = bool(own) or self._call.attempt > 1
        undisputed = after_seq is None and not own_ids
        # In a caller's transaction on PostgreSQL a duplicate that the statement cannot see would be the end of it. In a
        # transaction that the first try has shown to be needed, there is something to decide.
        inside = self._once("inside", lambda: self._link.in_transaction)
        seen = undisputed or after_seq is not None or self._link.dialect.name == "sqlite"
        may_try = seen if inside else not self._link.in_transaction
        if 0 < len(batch) <= appending.CHUNK and may_try:
            stored = appending.insert(
                self._link, session_id, batch, after_seq=after_seq, only_new=own_ids, lease_token=token
            )
            if stored is not None:
                return stored
        self._needs_transaction()

        # A new session ends at 0: an append that follows another position must not create it.
        makes = None if after_seq else columns
        if on_conflict == "replace":
            # Others may see what is replaced: that lock comes before the session's row.
            segments.lock_for_release(self._link, session_id)
        try:
            session = appending.lock(self._link, session_id, create=makes, lease=lease)
        except SessionNotFoundError:
            if columns is not None and after_seq:
                raise _gap(session_id, after_seq, 0) from None
            raise
        present = self._already_stored(session, batch, after_seq)
        turns_moved = False
        for index, stored_entry in present.items():
            if stored_entry is not None and (differs := appending.difference(stored_entry, batch[index])) is not None:
                present[index] = settled = self._settle(
                    session, index, stored_entry, batch[index], differs, on_conflict
                )
                turns_moved |= (settled.role == "user") != (stored_entry.role == "user")
        if turns_moved:
            present = self._already_stored(session, batch, after_seq)
        missing = [entry for index, entry in enumerate(batch) if index not in present]
        fresh = iter(appending.insert_all(self._link, session_id, missing))
        found = (present[index] if index in present else next(fresh) for index in range(len(batch)))
        return [entry for entry in found if entry is not None]

    @writes_once_in_one_statement
    def pop_last(self, session_id: str, n: int = 1) -> list[Entry]:
        """Remove the newest *n* entries of the session, and return them, oldest first.

        The next append reuses their positions. Forks keep what they see. Summaries that cover popped entries are
        removed too.

        Args:
            session_id: The session.
            n: How many; all if it has fewer.

        Raises:
            SessionNotFoundError: No such session, or it has expired. Nothing was written.
        """
        checks.key(session_id, "session_id")
        checks.count(n, "n")
        if not self._link.in_transaction:
            # The statement that deletes is committed before its rows are looked at, so an entry that cannot be read has
            # to be found before. To look may be repeated.
            self._call.repeatable = True
            entry_reads.read(self._link, session_id, last=n)
            self._call.repeatable = False
            at_once = ranges.pop_at_once(self._link, session_id, n)
            if at_once is not None:
                return at_once
            self._needs_transaction()
        session = ranges.lock(self._link, session_id).session
        popped = entry_reads.read(self._link, session_id, last=n)
        if popped:
            oldest = popped[0]
            turn = oldest.turn - (oldest.role == "user")
            ranges.shrink(self._link, session, first_seq=session.first_seq, next_seq=oldest.seq, last_turn=turn)
        return popped

    def _already_stored(
        self, session: Session, batch: Sequence[PreparedEntry], after_seq: int | None
    ) -> dict[int, Entry | None]:
        """The entries of the batch that the session already has, by index in the batch; None for a trimmed one."""
        present: dict[int, Entry | None] = {}
        is_empty = session.next_seq == 1
        if batch and not is_empty and (self._call.attempt > 1 or any(entry.own_id for entry in batch)):
            ids = [entry.entry_id for entry in batch]
            by_id = entry_lookups.find_many(self._link, session.session_id, ids)
            present = {index: by_id[entry_id] for index, entry_id in enumerate(ids) if entry_id in by_id}
        if after_seq is not None:
            end = session.next_seq - 1
            if after_seq > end:
                raise _gap(session.session_id, after_seq, end)
            overlap = min(end - after_seq, len(batch))
            if overlap == 0:
                return present
            for index in range(overlap):
                present.setdefault(index, None)
            for entry in entry_reads.read(
                self._link, session.session_id, after=after_seq, before=after_seq + overlap + 1
            ):
                present[entry.seq - after_seq - 1] = entry
        return present

    def _settle(
        self, session: Session, index: int, stored: Entry, given: PreparedEntry, field: str, on_conflict: OnConflict
    ) -> Entry:
        """What is to be there instead of two different entries."""
        same_id = given.entry_id == stored.entry_id
        if not same_id or on_conflict == "raise":
            raise appending.another(session.session_id, index, stored, same_id, field)
        if on_conflict == "keep":
            return stored
        return self._put(session, self._find(session.session_id, "entry_id", given.entry_id), given)


def _gap(session_id: str, after_seq: int, end: int) -> ConflictError:
    return ConflictError(
        f"after_seq: session {session_id!r} ends at {end}, so nothing can follow {after_seq}; "
        "first append what comes between",
        session_id=session_id,
        expected=after_seq,
        actual=end,
    )
