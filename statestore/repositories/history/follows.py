"""Following a history: how appends wake those who follow it, and what was appended since their last look.

PostgreSQL only, for the waking. Who follows a session holds a shared advisory lock for it, on a connection beside the
pool (see `listening`). An append looks whether it could have that lock for itself: if so nobody follows, if not it
sends a notification. So the price of NOTIFY, whose commits queue behind each other in the whole cluster, is paid only
while somebody listens: an append costs 1.03 with the look, 1.23 with a notification, and 2.7 when eight writers notify.
The lock is given back at once, in the same expression: nothing is left on a pooled connection, and a transaction over
many sessions does not fill the lock table.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from statestore.checking import checks
from statestore.engine.calls import reads, reported_as
from statestore.engine.listening import ListenStatements
from statestore.repositories.base import Repository
from statestore.repositories.history import entry_lookups, entry_reads
from statestore.repositories.sessions import session_rows
from statestore.values.history import Entry

# The database computes the key, so that it is the same for all that take part. The namespace is hashed into the seed:
# joined into one text, `acme` and `prod/1` would share their lock with `acme/prod` and `1`. The innermost number tells
# this kind of lock from the families' (7, see `segments`), from that on
# missing sessions (13, see `holding`), and from the cache's.
_KEY = "hashtextextended({0}.session_id, hashtextextended({0}.namespace, 11))"
_CHANNEL = "'statestore_' || to_hex({key})"


def notify(alias: str) -> str:
    """For a SELECT from rows *alias* of sessions that the statement has changed; it is evaluated for each row.

    In a materialized CTE that nothing but such rows are in: a distributed database runs that where the statement came
    from, and there its followers listen.
    """
    key = _KEY.format(alias)
    return (
        f"CASE WHEN pg_try_advisory_lock({key}) THEN CAST(pg_advisory_unlock({key}) AS text) "
        f"ELSE CAST(pg_notify({_CHANNEL.format(key=key)}, '') AS text) END AS woken"
    )


_FOLLOWED = "(SELECT CAST(%s AS text) AS namespace, CAST(%s AS text) AS session_id) AS f"

# For the connection of who follows, which psycopg serves without our layers: hence the %s.
_LISTEN_TO = f"SELECT {_CHANNEL.format(key=_KEY.format('f'))} FROM {_FOLLOWED}"
_UNLOCK = f"SELECT pg_advisory_unlock_shared({_KEY.format('f')}) FROM {_FOLLOWED}"
_TRY_LOCK = f"SELECT pg_try_advisory_lock_shared({_KEY.format('f')}) FROM {_FOLLOWED}"

LISTENING = ListenStatements(listen_to=_LISTEN_TO, try_lock=_TRY_LOCK, unlock=_UNLOCK)


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
        found = entry_lookups.tail(self._link, session_id, 0)
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
        found = entry_lookups.tail(self._link, session_id, position)
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
            found = None if first is None else entry_lookups.tail(self._link, session_id, first.seq)
            if first is None or found is None or found.entry_id in (None, first.entry_id):
                return end, []
            return first.seq - 1, entry_reads.read(self._link, session_id, after=first.seq - 1, limit=_AT_ONCE)
        known = {(one.seq, one.entry_id) for one in seen}
        entries = entry_reads.read(self._link, session_id, after=seen[0].seq - 1, limit=len(seen) + _AT_ONCE)
        new = next((n for n, entry in enumerate(entries) if (entry.seq, entry.entry_id) not in known), len(entries))
        return entries[new - 1].seq if new else seen[0].seq - 1, entries[new:]
