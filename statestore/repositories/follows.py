"""What came since one last looked at a history."""

from collections.abc import Sequence
from dataclasses import dataclass

from statestore import checks
from statestore.repositories import entry_reads, session_rows
from statestore.repositories.base import Repository, reads
from statestore.sql import Statement
from statestore.values import Entry

_AT_ONCE = 500
REMEMBERED_AT_START = 32

# The end of the history, and whether the entry at the position reached is still the one that was seen there: a popped
# position is used again. Looking extends no TTL.
_LOOK = Statement("""
    SELECT s.next_seq - 1, coalesce(
        (SELECT h.entry_id FROM {history_entries} AS h
        WHERE h.namespace = :namespace AND h.session_id = :session_id AND h.seq = :seq),
        (SELECT h.entry_id FROM {session_segments} AS g
        JOIN {history_entries} AS h ON h.namespace = g.namespace AND h.session_id = g.owner_session_id AND h.seq = :seq
        WHERE g.namespace = :namespace AND g.session_id = :session_id AND :seq BETWEEN g.from_seq AND g.to_seq))
    FROM {sessions} AS s WHERE s.namespace = :namespace AND s.session_id = :session_id AND {live}""")


@dataclass(frozen=True, slots=True)
class Seen:
    """An entry that was passed on."""

    seq: int
    entry_id: str


class FollowWork(Repository):
    """The steps of `history.follow`; no operations of their own."""

    @reads
    def start(self, session_id: str, after: int | None) -> tuple[int, list[Seen]]:
        """The position to go on from, and what stands there and shortly before."""
        checks.key(session_id, "session_id")
        checks.optional_count(after, "after")
        row = self._link.one(_LOOK, session_id=session_id, seq=0)
        if row is None:
            raise session_rows.not_found(self._link, session_id)
        position: int = row[0] if after is None else after
        entries = entry_reads.read(self._link, session_id, last=REMEMBERED_AT_START, before=position + 1)
        return position, [Seen(entry.seq, entry.entry_id) for entry in entries]

    @reads
    def look(self, session_id: str, position: int, seen: Sequence[Seen]) -> tuple[int, list[Entry]]:
        """The entries to be passed on next, and the position that they follow.

        *seen* are the latest entries that were passed on, up to *position*. Where they are not what the history holds
        now, it goes on from the last one that still is.
        """
        row = self._link.one(_LOOK, session_id=session_id, seq=position)
        if row is None:
            raise session_rows.not_found(self._link, session_id)
        end, entry_id = row
        if seen and (end < position or entry_id != seen[-1].entry_id):
            return self._look_back(session_id, end, seen)
        if end <= position:
            return position, []
        return position, entry_reads.read(self._link, session_id, after=position, limit=_AT_ONCE)

    def _look_back(self, session_id: str, end: int, seen: Sequence[Seen]) -> tuple[int, list[Entry]]:
        if end < seen[0].seq:
            return end, []
        known = {(one.seq, one.entry_id) for one in seen}
        entries = entry_reads.read(self._link, session_id, after=seen[0].seq - 1, limit=len(seen) + _AT_ONCE)
        new = next((n for n, entry in enumerate(entries) if (entry.seq, entry.entry_id) not in known), len(entries))
        return entries[new - 1].seq if new else seen[0].seq - 1, entries[new:]
