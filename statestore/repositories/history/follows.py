"""What was appended to a history since the last look."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from statestore.checking import checks
from statestore.engine.calls import reads, reported_as
from statestore.repositories.base import Repository
from statestore.repositories.history import entry_reads, tail
from statestore.repositories.sessions import session_rows
from statestore.values.history import Entry

_AT_ONCE = 500
REMEMBERED_AT_START = 32


@dataclass(frozen=True, slots=True)
class Seen:
    """An entry that was passed on."""

    seq: int
    entry_id: str


@dataclass(frozen=True, slots=True)
class Start:
    """The position to continue from, when the session was created, and the entries at that position and just before."""

    position: int
    created_at: datetime
    seen: Sequence[Seen]


class FollowWork(Repository):
    """The steps of `history.follow`; no operations of their own."""

    @reported_as("history.follow")
    @reads
    def start(self, session_id: str, after: int | None) -> Start:
        """Where to begin. If the history does not reach that far yet, nothing was seen."""
        checks.key(session_id, "session_id")
        checks.optional_count(after, "after")
        found = tail.look(self._link, session_id, 0)
        if found is None:
            raise session_rows.not_found(self._link, session_id)
        position = found.end if after is None else after
        entries: list[Entry] = []
        if position <= found.end:
            entries = entry_reads.read(self._link, session_id, last=REMEMBERED_AT_START, before=position + 1)
        return Start(position, found.created_at, [Seen(entry.seq, entry.entry_id) for entry in entries])

    @reported_as("history.follow", rows=lambda found: len(found[1]))
    @reads
    def look(
        self, session_id: str, created_at: datetime, position: int, seen: Sequence[Seen], first: Seen | None
    ) -> tuple[int, list[Entry]]:
        """The entries to be passed on next, and the position that they follow.

        *seen* are the latest entries that were passed on, up to *position*. If the history no longer has all of them,
        it continues from the last one that is still there. *first* is the first entry that was ever seen.

        Raises:
            SessionNotFoundError: No such session, or another was created with its id since *created_at*.
        """
        found = tail.look(self._link, session_id, position)
        if found is None or found.created_at != created_at:
            raise session_rows.not_found(self._link, session_id)
        if seen and (found.end < position or found.entry_id != seen[-1].entry_id):
            return self._look_back(session_id, found.end, seen, first)
        if found.end <= position:
            return position, []
        return position, entry_reads.read(self._link, session_id, after=position, limit=_AT_ONCE)

    def _look_back(
        self, session_id: str, end: int, seen: Sequence[Seen], first: Seen | None
    ) -> tuple[int, list[Entry]]:
        if end < seen[0].seq:
            # Popped back beyond all that is remembered, or cleared: then even the first entry has changed.
            found = None if first is None else tail.look(self._link, session_id, first.seq)
            if first is None or found is None or found.entry_id in (None, first.entry_id):
                return end, []
            return first.seq - 1, entry_reads.read(self._link, session_id, after=first.seq - 1, limit=_AT_ONCE)
        known = {(one.seq, one.entry_id) for one in seen}
        entries = entry_reads.read(self._link, session_id, after=seen[0].seq - 1, limit=len(seen) + _AT_ONCE)
        new = next((n for n, entry in enumerate(entries) if (entry.seq, entry.entry_id) not in known), len(entries))
        return entries[new - 1].seq if new else seen[0].seq - 1, entries[new:]
