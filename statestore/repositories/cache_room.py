"""Keeping the cache within its limits: expired entries go first, then those that were used least recently.

The order of LRU is that of `last_accessed_at` and, at the same time, of `access_seq`. Both follow the hits only as far
as they are written, so what is noted of hits is written before anything is chosen.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from statestore.repositories.cache_base import (
    ADD_TO_LEDGER,
    KEYS_POSTGRESQL,
    KEYS_SQLITE,
    LIVE_RETURNED,
    NAMESPACE,
    TODAY,
    CacheBase,
)
from statestore.repositories.cache_state import Room
from statestore.schema import CACHE_COUNTERS
from statestore.sql import Row, Statement

# One at a time decides what goes, also among processes; on SQLite there is one writer anyway. The lock ends with the
# transaction, so it is safe behind a pooler. Plain sets go on meanwhile: those that may still add are reckoned with.
ALONE = Statement(
    postgresql="SELECT pg_advisory_xact_lock(hashtextextended('statestore.cache:' || CAST(:namespace AS text), 0))"
)

_COUNT = Statement("SELECT count(*) FROM {cache_entries} WHERE namespace = :namespace")
_COUNT_BYTES = Statement(
    "SELECT count(*), coalesce(sum(size_bytes), 0) FROM {cache_entries} WHERE namespace = :namespace"
)
_REPLACED = Statement(
    postgresql=f"""SELECT count(*), coalesce(sum(size_bytes), 0) FROM {{cache_entries}}
        WHERE namespace = :namespace AND key {KEYS_POSTGRESQL}""",
    sqlite=f"""SELECT count(*), coalesce(sum(size_bytes), 0) FROM {{cache_entries}}
        WHERE namespace = :namespace AND key {KEYS_SQLITE}""",
)

_ZEROS = dict.fromkeys(CACHE_COUNTERS, "0")


@dataclass(frozen=True, slots=True)
class Removed:
    """How many entries were removed: live ones, and others whose time was over; and how many bytes with them."""

    live: int
    expired: int
    size: int

    @property
    def entries(self) -> int:
        return self.live + self.expired


class Removal:
    """A statement that deletes entries, and what the ledger calls it.

    On PostgreSQL it stands twice: with its line in the ledger, and without, for transactions of the caller's. These
    would keep everybody else from the ledger's row for as long as they last, so there the counts are only noted.

    Args:
        counter: The name in the ledger.
        postgresql: Which entries `e`.
        sqlite: The same for SQLite.
        lock: How they are locked. Without any, in the order of their keys, so that two such statements do not wait for
            each other in a circle.
    """

    def __init__(
        self, counter: str, *, postgresql: str, sqlite: str, lock: str = "ORDER BY e.key FOR UPDATE OF e"
    ) -> None:
        self.counter = counter
        removed = f"""
            WITH doomed AS MATERIALIZED (SELECT e.key FROM {{cache_entries}} AS e {postgresql} {lock}),
            removed AS (
                DELETE FROM {{cache_entries}} AS e
                WHERE e.namespace = {NAMESPACE} AND e.key = ANY (array(SELECT doomed.key FROM doomed))
                RETURNING e.agent_name, e.size_bytes, (e.expires_at IS NULL OR e.expires_at > {{now}}) AS live),
            counted AS (
                SELECT coalesce(agent_name, '') AS agent_name, count(*) FILTER (WHERE live) AS live,
                    count(*) FILTER (WHERE NOT live) AS expired, sum(size_bytes) AS size
                FROM removed GROUP BY 1)"""
        counters = ", ".join({**_ZEROS, counter: "c.live", "expirations": "c.expired"}[name] for name in CACHE_COUNTERS)
        ledger = f""", ledger AS (
                INSERT INTO {{cache_ledger}} AS l (namespace, day, agent_name, {", ".join(CACHE_COUNTERS)})
                SELECT :namespace, {TODAY}, c.agent_name, {counters} FROM counted AS c ORDER BY c.agent_name
                {ADD_TO_LEDGER})"""
        result = " SELECT agent_name, live, expired, size FROM counted"
        self.alone = Statement(postgresql=removed + ledger + result)
        self.within = Statement(
            postgresql=removed + result,
            sqlite=f"DELETE FROM {{cache_entries}} AS e {sqlite} RETURNING agent_name, size_bytes, {LIVE_RETURNED}",
        )


# Those that somebody works on at the moment are left out: they are not the least recently used any more.
_EXPIRED = Removal(
    "evictions",
    postgresql=f"WHERE e.namespace = {NAMESPACE} AND e.keep_until <= {{now}} AND NOT e.key {KEYS_POSTGRESQL}",
    lock="ORDER BY e.keep_until LIMIT :most FOR UPDATE OF e SKIP LOCKED",
    sqlite=f"""WHERE e.rowid IN (
        SELECT x.rowid FROM {{cache_entries}} AS x
        WHERE x.namespace = :namespace AND x.keep_until <= {{now}} AND NOT x.key {KEYS_SQLITE}
        ORDER BY x.keep_until LIMIT :most)""",
)
_LEAST_RECENTLY_USED = Removal(
    "evictions",
    postgresql=f"WHERE e.namespace = {NAMESPACE} AND NOT e.key {KEYS_POSTGRESQL}",
    lock="ORDER BY e.last_accessed_at, e.access_seq LIMIT :most FOR UPDATE OF e SKIP LOCKED",
    sqlite=f"""WHERE e.rowid IN (
        SELECT x.rowid FROM {{cache_entries}} AS x WHERE x.namespace = :namespace AND NOT x.key {KEYS_SQLITE}
        ORDER BY x.last_accessed_at, x.access_seq LIMIT :most)""",
)
# How many of the least recently used make up so many bytes. Reads the index's order; each row counts itself in.
_HOW_MANY = Statement(
    postgresql=f"""
    SELECT count(*) FROM (
        SELECT sum(size_bytes) OVER (ORDER BY last_accessed_at, access_seq, key) - size_bytes AS before
        FROM {{cache_entries}} WHERE namespace = :namespace AND NOT key {KEYS_POSTGRESQL}) AS o
    WHERE o.before < :size""",
    sqlite=f"""
    SELECT count(*) FROM (
        SELECT sum(size_bytes) OVER (ORDER BY last_accessed_at, access_seq, key) - size_bytes AS before
        FROM {{cache_entries}} WHERE namespace = :namespace AND NOT key {KEYS_SQLITE}) AS o
    WHERE o.before < :size""",
)

_DROP_CLAIMS = Statement("DELETE FROM {cache_claims} WHERE namespace = :namespace AND claimed_until <= {now}")

_AT_ONCE = 10_000
_ALL = 2**62


class CacheRoom(CacheBase):
    """Removing entries, and making room for new ones."""

    def _remove(self, removal: Removal, **params: object) -> Removed:
        """Run *removal*, and see to the ledger and the bound."""
        within = self._state.in_transaction or not self._postgresql
        rows = self._link.all(removal.within if within else removal.alone, **params)
        if not self._postgresql:
            rows = _counted(rows)
        if self._postgresql and within:
            now = self._now()
            for agent_name, live, expired, _ in rows:
                self._notes.pending.count(now, agent_name, removal.counter, live)
                self._notes.pending.count(now, agent_name, "expirations", expired)
        elif not self._postgresql:
            self._count_on_sqlite(
                [(row[0], removal.counter, row[1]) for row in rows] + [(row[0], "expirations", row[2]) for row in rows]
            )
        removed = Removed(*(int(sum(row[column] for row in rows)) for column in (1, 2, 3)))
        self._notes.remove(removed.entries, removed.size)
        return removed

    def _make_room(
        self, keys: Sequence[str], entries: int, size: int, room: Room, replaced: tuple[int, int] | None
    ) -> None:
        """In a transaction: see to it that so much more fits, which happens once for every fiftieth of the limit.

        Args:
            keys: Those to be written, which must stay.
            entries: How many they are.
            size: How many bytes their values take.
            room: What others may be about to add.
            replaced: How many entries and bytes they replace; None if that is not known.
        """
        options = self._state.options
        if self._postgresql:
            self._link.all(ALONE)
        held, held_bytes = self._count()
        kept = self._list(keys)
        if replaced is None:
            row = self._link.all(_REPLACED, keys=kept)[0]
            replaced = int(row[0]), int(row[1])
        too_many, too_large = 0, 0
        if options.max_entries is not None and replaced[0] < entries:
            too_many = held + room.others_entries + entries - replaced[0] - options.max_entries
        if options.max_bytes is not None:
            too_large = held_bytes + room.others_bytes + size - replaced[1] - options.max_bytes
        if max(too_many, too_large) <= 0:
            return
        self._write_pending(keys)
        # With something to spare, so that the next sets find room without another look.
        spare_entries = options.spare_entries if too_many > 0 else 0
        spare_bytes = options.spare_bytes if too_large > 0 else 0
        gone = self._remove(_EXPIRED, keys=kept, most=max(too_many + spare_entries, _AT_ONCE))
        too_many, too_large = too_many - gone.entries, too_large - gone.size
        if max(too_many, too_large) > 0:
            self._evict(kept, too_many + spare_entries, too_large + spare_bytes if too_large > 0 else 0)

    def _shrink(self) -> Removed:
        """In a transaction: delete all that has expired, and what is over the limits."""
        options = self._state.options
        if self._postgresql:
            self._link.all(ALONE)
        self._write_pending()
        self._link.run(_DROP_CLAIMS)
        gone = self._remove(_EXPIRED, keys=self._list(()), most=_ALL)
        held, held_bytes = self._count()
        too_many = 0 if options.max_entries is None else held - options.max_entries
        too_large = 0 if options.max_bytes is None else held_bytes - options.max_bytes
        if max(too_many, too_large) <= 0:
            return gone
        more = self._evict(self._list(()), too_many, too_large)
        return Removed(gone.live + more.live, gone.expired + more.expired, gone.size + more.size)

    def _evict(self, kept: object, entries: int, size: int) -> Removed:
        """Delete the least recently used, so many at least, and so many bytes at least."""
        if size > 0:
            (needed,) = self._link.all(_HOW_MANY, keys=kept, size=size)[0]
            entries = max(entries, needed)
        return self._remove(_LEAST_RECENTLY_USED, keys=kept, most=max(entries, 0))

    def _count(self) -> tuple[int, int]:
        """How many entries there are, expired ones included, and with a limit in bytes how large they are."""
        token = self._state.start_count()
        if self._state.options.max_bytes is None:
            held, size = int(self._link.all(_COUNT)[0][0]), 0
        else:
            held, size = (int(number) for number in self._link.all(_COUNT_BYTES)[0])
        self._state.end_count(token, held, size, own=self._notes)
        return held, size


def _counted(rows: Sequence[Row]) -> list[Row]:
    """SQLite's deleted rows, by agent as PostgreSQL counts them."""
    by_agent: dict[str, list[int]] = {}
    for agent_name, size, live in rows:
        counts = by_agent.setdefault(agent_name or "", [0, 0, 0])
        counts[0 if live else 1] += 1
        counts[2] += size
    return [(agent_name, *counts) for agent_name, counts in by_agent.items()]
