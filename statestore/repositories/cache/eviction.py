"""Keeping the cache within its limits: expired entries go first, then those that were used least recently.

The order of LRU is that of `last_accessed_at` and, at the same time, of `access_seq`. Both follow the hits only as far
as they are written, so those that are only noted go into the choice: writing them first would make a set wait for
whoever holds one of their entries, and others wait for the set.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from statestore.engine.sql import Row, Statement
from statestore.repositories.base import one_row
from statestore.repositories.cache.base import (
    ADD_TO_LEDGER,
    KEYS,
    LIVE,
    LIVE_RETURNED,
    NAMESPACE,
    NOTED,
    TODAY,
)
from statestore.repositories.cache.holding import CacheHolding
from statestore.repositories.cache.limits import Pending, Room
from statestore.schema import CACHE_COUNTERS

# One at a time decides what goes, also among processes; on SQLite there is one writer anyway. The lock ends with the
# transaction, so it is safe behind a pooler. Plain sets go on meanwhile: those that may still add are reckoned with. A
# caller's transaction does not take it, since it may last: two that choose at once remove some more than needed.
ALONE = Statement(
    postgresql=f"""
    SELECT pg_advisory_xact_lock(hashtextextended('statestore.cache:' || CAST(:namespace AS text), 0))
    FROM {one_row("cache_claims", "key")}"""
)

_COUNT = Statement("SELECT count(*) FROM $cache_entries WHERE namespace = :namespace")
_COUNT_BYTES = Statement(
    "SELECT count(*), coalesce(sum(size_bytes), 0) FROM $cache_entries WHERE namespace = :namespace"
)
_REPLACED = Statement(f"""
    SELECT count(*), coalesce(sum(size_bytes), 0) FROM $cache_entries WHERE namespace = :namespace AND key {KEYS}""")

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

    def plus(self, more: "Removed") -> "Removed":
        return Removed(self.live + more.live, self.expired + more.expired, self.size + more.size)


class Removal:
    """A statement that deletes entries, and what the ledger calls it.

    PostgreSQL has two forms: with its line in the ledger, and without, for transactions. A transaction would keep
    everybody else from the ledger's row until it ends, so there the counts are only noted.

    Args:
        counter: The name in the ledger.
        postgresql: Which entries `e`.
        sqlite: The same for SQLite.
        lock: How they are locked. Without any, in the order of their keys, so that two such statements do not wait for
            each other in a circle.
        given: What both find in a `WITH`, for either database.
    """

    def __init__(
        self,
        counter: str,
        *,
        postgresql: str,
        sqlite: str,
        lock: str = "ORDER BY e.key FOR UPDATE OF e",
        given: tuple[str, str] = ("", ""),
    ) -> None:
        self.counter = counter
        removed = f"""
            WITH {given[0]} doomed AS MATERIALIZED (SELECT e.key FROM $cache_entries AS e {postgresql} {lock}),
            removed AS (
                DELETE FROM $cache_entries AS e
                WHERE e.namespace = {NAMESPACE} AND e.key = ANY (array(SELECT doomed.key FROM doomed))
                RETURNING e.agent_name, e.size_bytes, e.expires_at),
            counted AS (
                SELECT coalesce(e.agent_name, '') AS agent_name, count(*) FILTER (WHERE {LIVE}) AS live,
                    count(*) FILTER (WHERE NOT {LIVE}) AS expired, sum(e.size_bytes) AS size
                FROM removed AS e GROUP BY 1)"""
        counters = ", ".join({**_ZEROS, counter: "c.live", "expirations": "c.expired"}[name] for name in CACHE_COUNTERS)
        ledger = f""", ledger AS (
                INSERT INTO $cache_ledger AS l (namespace, day, agent_name, {", ".join(CACHE_COUNTERS)})
                SELECT :namespace, {TODAY}, c.agent_name, {counters} FROM counted AS c ORDER BY c.agent_name
                {ADD_TO_LEDGER})"""
        result = " SELECT agent_name, live, expired, size FROM counted"
        self.alone = Statement(postgresql=removed + ledger + result)
        self.within = Statement(
            postgresql=removed + result,
            sqlite=f"{given[1]} DELETE FROM $cache_entries AS e {sqlite}".lstrip()
            + f" RETURNING agent_name, size_bytes, {LIVE_RETURNED}",
        )


# Those that somebody works on at the moment are left out: they are no longer the least recently used.
_EXPIRED = Removal(
    "evictions",
    postgresql=f"WHERE e.namespace = {NAMESPACE} AND e.keep_until <= $now AND NOT e.key {KEYS}",
    lock="ORDER BY e.keep_until LIMIT :most FOR UPDATE OF e SKIP LOCKED",
    sqlite=f"""WHERE e.rowid IN (
        SELECT x.rowid FROM $cache_entries AS x
        WHERE x.namespace = :namespace AND x.keep_until <= $now AND NOT x.key {KEYS}
        ORDER BY x.keep_until LIMIT :most)""",
)
_LEAST_RECENTLY_USED = Removal(
    "evictions",
    postgresql=f"WHERE e.namespace = {NAMESPACE} AND NOT e.key {KEYS}",
    lock="ORDER BY e.last_accessed_at, e.access_seq LIMIT :most FOR UPDATE OF e SKIP LOCKED",
    sqlite=f"""WHERE e.rowid IN (
        SELECT x.rowid FROM $cache_entries AS x WHERE x.namespace = :namespace AND NOT x.key {KEYS}
        ORDER BY x.last_accessed_at, x.access_seq LIMIT :most)""",
)
# The same with the hits that are only noted. These only move entries back, so that what goes is among the first of the
# index, as many as are to go and as many as have such hits; on PostgreSQL some more, since others may hold some.
_NOTED_POSTGRESQL = f"noted AS MATERIALIZED ({NOTED['postgresql']}),"
_NOTED_SQLITE = f"WITH noted AS MATERIALIZED ({NOTED['sqlite']})"
_USED = """$greatest(x.last_accessed_at, coalesce(n.at, x.last_accessed_at)),
    $greatest(x.access_seq, coalesce(n.stamp, x.access_seq))"""
_LEAST_RECENTLY_USED_OR_NOTED = Removal(
    "evictions",
    given=(
        f"""{_NOTED_POSTGRESQL}
            candidates AS MATERIALIZED (
                SELECT x.key, x.version, x.last_accessed_at, x.access_seq FROM $cache_entries AS x
                WHERE x.namespace = {NAMESPACE} AND NOT x.key {KEYS}
                ORDER BY x.last_accessed_at, x.access_seq LIMIT :among),""",
        _NOTED_SQLITE,
    ),
    postgresql=f"""
        JOIN candidates AS x ON x.key = e.key LEFT JOIN noted AS n ON n.key = x.key AND n.version = x.version
        WHERE e.namespace = {NAMESPACE}""",
    lock=f"ORDER BY {_USED} LIMIT :most FOR UPDATE OF e SKIP LOCKED",
    sqlite=f"""WHERE e.rowid IN (
        SELECT x.place FROM (
            SELECT rowid AS place, key, version, last_accessed_at, access_seq FROM $cache_entries
            WHERE namespace = :namespace AND NOT key {KEYS}
            ORDER BY last_accessed_at, access_seq LIMIT :among) AS x
        LEFT JOIN noted AS n ON n.key = x.key AND n.version = x.version
        ORDER BY {_USED} LIMIT :most)""",
)
# How many of the least recently used make up so many bytes.
_HOW_MANY = Statement(
    **{
        dialect: f"""
    WITH noted AS MATERIALIZED ({NOTED[dialect]})
    SELECT count(*) FROM (
        SELECT sum(x.size_bytes) OVER (ORDER BY {_USED}, x.key) - x.size_bytes AS before
        FROM $cache_entries AS x LEFT JOIN noted AS n ON n.key = x.key AND n.version = x.version
        WHERE x.namespace = :namespace AND NOT x.key {KEYS}) AS o
    WHERE o.before < :size"""
        for dialect in ("postgresql", "sqlite")
    }
)

_DROP_CLAIMS = Statement("DELETE FROM $cache_claims WHERE namespace = :namespace AND claimed_until <= $now")

# How many a set removes at most, of each sort, to make room; more only if it adds more than that by itself.
AT_ONCE = 10_000
_ALL = 2**62
# How many of those that go first may be held by others before it takes a second look.
_SLACK = 100


class CacheRoom(CacheHolding):
    """Removing entries, and making room for new ones."""

    def _remove(self, removal: Removal, **params: object) -> Removed:
        """Run *removal*, and see to the ledger and the bound."""
        alone = self._postgresql and not self._link.in_transaction
        rows = self._link.all(removal.alone if alone else removal.within, **params)
        if not self._postgresql:
            rows = _counted(rows)
        if not alone:
            counts, now = Pending(), self._now()
            for agent_name, live, expired, _ in rows:
                counts.count(now, agent_name, removal.counter, live)
                counts.count(now, agent_name, "expirations", expired)
            if self._postgresql or self._state.in_transaction:
                self._notes.pending.add(counts)
            else:
                self._add_on_sqlite(counts)
        removed = Removed(0, 0, 0)
        for _, live, expired, size in rows:
            removed = removed.plus(Removed(live, expired, int(size)))
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
        if not self._state.in_transaction:
            # First what may take long: nobody is to wait for one who waits.
            self._hold(keys)
            self._alone()
        held, held_bytes = self._count()
        kept = list(keys)
        if replaced is None:
            ((old_entries, old_bytes),) = self._link.all(_REPLACED, keys=kept)
            replaced = int(old_entries), int(old_bytes)
        too_many, too_large = 0, 0
        if options.max_entries is not None and replaced[0] < entries:
            too_many = held + room.others_entries + entries - replaced[0] - options.max_entries
        if options.max_bytes is not None:
            too_large = held_bytes + room.others_bytes + size - replaced[1] - options.max_bytes
        if max(too_many, too_large) <= 0:
            return
        # With something to spare, so that the next sets find room without another look.
        spare_entries = options.spare_entries if too_many > 0 else 0
        spare_bytes = options.spare_bytes if too_large > 0 else 0
        own = max(0, entries - replaced[0]) + spare_entries, max(0, size - replaced[1]) + spare_bytes
        gone = self._remove(_EXPIRED, keys=kept, most=max(AT_ONCE, own[0]))
        too_many, too_large = too_many - gone.entries, too_large - gone.size
        if max(too_many, too_large) > 0:
            # Where a limit was lowered there may be any number of them: the sets that follow go on with it, or a sweep.
            bytes_needed = too_large + spare_bytes if too_large > 0 else 0
            self._evict(kept, held, too_many + spare_entries, bytes_needed, own=own)

    def _shrink(self) -> Removed:
        """In a transaction: delete all that has expired, and what is over the limits."""
        options = self._state.options
        if not self._state.in_transaction:
            self._alone()
            # Whoever wants a claim that a transaction has removed would wait for its end.
            self._link.run(_DROP_CLAIMS)
        gone = self._remove(_EXPIRED, keys=[], most=_ALL)
        held, held_bytes = self._count()
        too_many = 0 if options.max_entries is None else held - options.max_entries
        too_large = 0 if options.max_bytes is None else held_bytes - options.max_bytes
        if max(too_many, too_large) <= 0:
            return gone
        return gone.plus(self._evict([], held, too_many, too_large))

    def _evict(
        self, kept: object, held: int, entries: int, size: int, *, own: tuple[int, int] | None = None
    ) -> Removed:
        """Delete the least recently used of *held*, so many at least, and so many bytes at least.

        With *own*, the entries and bytes that a set adds, only so many at once, and what makes room for these.
        """
        noted = self._state.noted().hits
        most = _ALL if own is None else max(AT_ONCE, own[0])
        if size > 0:
            needed = self._how_many(kept, size)
            if own is not None and needed > most:
                most = max(most, self._how_many(kept, min(size, own[1])))
            entries = max(entries, needed)
        entries = min(entries, most)
        if entries <= 0:
            return Removed(0, 0, 0)
        if not noted:
            return self._remove(_LEAST_RECENTLY_USED, keys=kept, most=entries)
        gone = Removed(0, 0, 0)
        among = entries + len(noted) + (_SLACK if self._postgresql else 0)
        while True:
            params = self._noted(noted) | {"keys": kept, "most": entries - gone.entries, "among": among}
            gone = gone.plus(self._remove(_LEAST_RECENTLY_USED_OR_NOTED, **params))
            if gone.entries >= entries or not self._postgresql or among > held:
                return gone
            among *= 10

    def _how_many(self, kept: object, size: int) -> int:
        """How many of the least recently used make up so many bytes."""
        noted = self._noted(self._state.noted().hits)
        (needed,) = self._link.only(_HOW_MANY, keys=kept, size=size, **noted)
        return int(needed)

    def _alone(self) -> None:
        """Until the end of the transaction, which is one of ours and short, nobody else of ours decides what goes."""
        if self._postgresql:
            self._link.all(ALONE)

    def _count(self) -> tuple[int, int]:
        """How many entries there are, expired ones included, and with a limit in bytes how large they are."""
        token = self._state.start_count()
        if self._state.options.max_bytes is None:
            ((held,),), size = self._link.all(_COUNT), 0
        else:
            ((held, size),) = self._link.all(_COUNT_BYTES)
        held, size = int(held), int(size)
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
