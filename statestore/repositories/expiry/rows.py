"""The sweep's deletion of what expires by itself, state keys and cache entries, and of rows that no session sees."""

from collections import Counter
from typing import Any

from statestore.engine.calls import writes
from statestore.engine.sql import Statement
from statestore.engine.sql_parts import each
from statestore.repositories.base import Repository
from statestore.repositories.cache.base import NAMESPACE
from statestore.repositories.cache.eviction import ALONE
from statestore.repositories.cache.options import CacheOptions
from statestore.repositories.expiry.batch import Batch
from statestore.repositories.sessions import segments
from statestore.repositories.usage import ledger


def _delete_keys(table: str, *owner: str) -> Statement:
    """Expired keys of a table, which says by the columns *owner* whose they are."""
    key = (*owner, "key")
    same = " AND ".join(f"e.{column} = due.{column}" for column in key)
    expired = "e.namespace = :namespace AND e.expires_at <= $now"
    due = f"FROM {table} AS e WHERE {expired} ORDER BY e.expires_at LIMIT :limit"
    return Statement(
        postgresql=f"""
    WITH due AS (
        SELECT {each("e.{0}", key)} {due} FOR UPDATE OF e SKIP LOCKED), gone AS (
        DELETE FROM {table} AS e USING due WHERE {expired} AND {same}
        RETURNING $bytes(e.value) AS size)
    SELECT count(*), sum(size) FROM gone""",
        sqlite=f"DELETE FROM {table} WHERE rowid IN (SELECT e.rowid {due}) RETURNING $bytes(value)",
    )


_DELETE_STATE = (
    _delete_keys("$state_entries", "session_id"),
    _delete_keys("$shared_state", "scope", "owner_id"),
)

# Tags go with the entry. What is deleted is counted in the cache's own ledger, as the cache does it.
_EXPIRED_CACHE = "c.keep_until <= $now ORDER BY c.keep_until LIMIT :limit"
_OVERFLOW = "(c.keep_until IS NULL OR c.keep_until > $now) ORDER BY c.last_accessed_at, c.access_seq LIMIT :limit"


def _delete_cache(which: str, counter: str, recheck: str) -> Statement:
    return Statement(
        postgresql=f"""
    WITH due AS (
        SELECT c.key FROM $cache_entries AS c WHERE c.namespace = {NAMESPACE} AND {which}
        FOR UPDATE OF c SKIP LOCKED), gone AS (
        DELETE FROM $cache_entries AS c
        WHERE c.namespace = {NAMESPACE} AND c.key = ANY (array(SELECT due.key FROM due)) {recheck}
        RETURNING coalesce(c.agent_name, '') AS agent_name, c.size_bytes + $bytes(c.request) + $bytes(c.metadata)
            AS size), noted AS (
        INSERT INTO $cache_ledger AS l (namespace, day, agent_name, {counter})
        SELECT :namespace, CAST($now AT TIME ZONE 'UTC' AS date), agent_name, count(*) FROM gone
        GROUP BY agent_name ORDER BY agent_name
        ON CONFLICT (namespace, day, agent_name) DO UPDATE SET {counter} = l.{counter} + excluded.{counter})
    SELECT count(*), sum(size) FROM gone""",
        sqlite=f"""
    DELETE FROM $cache_entries WHERE rowid IN (
        SELECT c.rowid FROM $cache_entries AS c WHERE c.namespace = :namespace AND {which})
    RETURNING coalesce(agent_name, ''), size_bytes + $bytes(request) + $bytes(metadata)""",
    )


def _note(counter: str) -> Statement:
    return Statement(
        sqlite=f"""
    INSERT INTO $cache_ledger AS l (namespace, day, agent_name, {counter})
    VALUES (:namespace, substr(:now, 1, 10), :agent_name, :number)
    ON CONFLICT (namespace, day, agent_name) DO UPDATE SET {counter} = l.{counter} + excluded.{counter}"""
    )


# Whether something is due that a step has passed by, since somebody else had it locked.
_STATE_IS_LEFT = Statement("""
    SELECT 1 FROM $state_entries AS e WHERE e.namespace = :namespace AND e.expires_at <= $now
    UNION ALL SELECT 1 FROM $shared_state AS e WHERE e.namespace = :namespace AND e.expires_at <= $now LIMIT 1""")
_CACHE_IS_LEFT = Statement("""
    SELECT 1 FROM $cache_entries AS c WHERE c.namespace = :namespace AND c.keep_until <= $now LIMIT 1""")

_DELETE_EXPIRED_CACHE = _delete_cache(_EXPIRED_CACHE, "expirations", "AND c.keep_until <= $now")
_NOTE_EXPIRED = _note("expirations")
_DELETE_OVERFLOW = _delete_cache(_OVERFLOW, "evictions", "")
_NOTE_OVERFLOW = _note("evictions")
_KEPT = "c.namespace = :namespace AND (c.keep_until IS NULL OR c.keep_until > $now)"
_COUNT_CACHE = Statement(f"SELECT count(*) FROM $cache_entries AS c WHERE {_KEPT}")
# So many of the least recently used that what is left fits.
_COUNT_EXCESS_BYTES = Statement(f"""
    SELECT count(*) FROM (
        SELECT sum(c.size_bytes) OVER (ORDER BY c.last_accessed_at DESC, c.access_seq DESC) AS so_far
        FROM $cache_entries AS c WHERE {_KEPT}) AS recent
    WHERE so_far > :max_bytes""")

# Sessions in the order of their ids, a page at a time, and of each what is stored beyond its ends.
_PAGE = Statement("""
    SELECT max(session_id), count(*) FROM (
        SELECT s.session_id FROM $sessions AS s WHERE s.namespace = :namespace AND s.session_id > :after_id
        ORDER BY s.session_id LIMIT :limit) AS page""")
BEYOND = """
    FROM $sessions AS s JOIN $history_entries AS h
        ON h.namespace = s.namespace AND h.session_id = s.session_id AND h.seq %s
    WHERE s.namespace = :namespace AND s.session_id > :after_id AND s.session_id <= :last_id"""
_FIND_UNSEEN = Statement(f"""
    SELECT DISTINCT session_id FROM (
        SELECT h.session_id {BEYOND % "< s.first_seq"} UNION ALL SELECT h.session_id {BEYOND % ">= s.next_seq"}
    ) AS unseen ORDER BY session_id""")
_LOCK_UNSEEN = Statement(
    postgresql="""
    SELECT s.first_seq, s.next_seq FROM $sessions AS s
    WHERE s.namespace = :namespace AND s.session_id = :session_id FOR UPDATE OF s SKIP LOCKED""",
    sqlite="""
    SELECT s.first_seq, s.next_seq FROM $sessions AS s
    WHERE s.namespace = :namespace AND s.session_id = :session_id""",
)
_UNSEEN_OF_SESSION = Statement("""
    SELECT h.seq, h.content_bytes + $bytes(h.metadata) FROM $history_entries AS h
    WHERE h.namespace = :namespace AND h.session_id = :session_id AND h.seq BETWEEN :from_seq AND :to_seq
        AND NOT EXISTS (SELECT 1 FROM $session_segments AS g WHERE g.namespace = :namespace
            AND g.owner_session_id = h.session_id AND h.seq BETWEEN g.from_seq AND g.to_seq)
    ORDER BY h.seq LIMIT :limit""")

_FAR = 2**62


class ExpiredRows(Repository):
    """Steps of a sweep for what is not a session."""

    @writes
    def sweep_state(self, limit: int, after: tuple[Any, ...] = ()) -> Batch:
        """Delete up to *limit* expired keys of state: of sessions first, then of users and agents."""
        batch = Batch()
        left = limit
        for delete in _DELETE_STATE:
            if not left:
                break
            rows = self._link.all(delete, limit=left)
            if self._link.dialect.name == "postgresql":
                ((count, size),) = rows
            else:
                count, size = len(rows), sum(size for (size,) in rows)
            batch.add("expired_state", count, size)
            left -= count
        self._end_step(batch, not left, _STATE_IS_LEFT)
        return batch

    @writes
    def sweep_cache(self, limit: int, after: tuple[Any, ...] = ()) -> Batch:
        """Delete up to *limit* cache entries whose time is over."""
        batch = Batch()
        count, size = self._delete_cache(_DELETE_EXPIRED_CACHE, _NOTE_EXPIRED, limit)
        batch.add("expired_cache", count, size)
        self._end_step(batch, count == limit, _CACHE_IS_LEFT)
        return batch

    @writes
    def sweep_overflow(self, limit: int, after: tuple[Any, ...] = ()) -> Batch:
        """Delete up to *limit* of the cache entries beyond the cache's limits, those that were used least recently."""
        batch = Batch()
        excess = min(self._excess(), limit)
        if excess > 0 and self._link.dialect.name == "postgresql":
            # One at a time, as the cache itself does it: two that count the same excess would delete twice as much.
            self._link.all(ALONE)
            excess = min(self._excess(), limit)
        if excess > 0:
            count, size = self._delete_cache(_DELETE_OVERFLOW, _NOTE_OVERFLOW, excess)
            batch.add("cache_overflow", count, size)
            batch.after = () if count == limit else None
        return batch

    def _end_step(self, batch: Batch, more: bool, is_left: Statement) -> None:
        """Say where the next step goes on, and at the end whether something was passed by."""
        if more:
            batch.after = ()
        elif self._link.dialect.name == "postgresql":
            batch.left = self._link.one(is_left) is not None

    def _excess(self) -> int:
        """How many live cache entries there are beyond the store's limits."""
        options = self._link.settings.of(CacheOptions)
        excess = 0
        if options.max_entries is not None:
            (count,) = self._link.only(_COUNT_CACHE)
            excess = count - options.max_entries
        if options.max_bytes is not None:
            (count,) = self._link.only(_COUNT_EXCESS_BYTES, max_bytes=options.max_bytes)
            excess = max(excess, count)
        return max(excess, 0)

    @writes
    def sweep_unseen(self, limit: int, after: tuple[Any, ...] = ()) -> Batch:
        """Look at *limit* sessions, and delete up to *limit* entries that are stored with them and seen by nobody.

        There should be none: what lets go of entries deletes them or hands them over at once. This is for databases
        that something else has written to.
        """
        after_id = after[0] if after else ""
        batch = Batch()
        last_id, sessions = self._link.only(_PAGE, after_id=after_id, limit=limit)
        if last_id is None:
            return batch
        room = limit
        for (session_id,) in self._link.all(_FIND_UNSEEN, after_id=after_id, last_id=last_id):
            found = self._link.one(_LOCK_UNSEEN, session_id=session_id)
            if found is None:
                batch.left = True
                continue
            first_seq, next_seq = found
            for from_seq, to_seq in ((1, first_seq - 1), (next_seq, _FAR)):
                room -= self._delete_unseen(session_id, from_seq, to_seq, room, batch)
            if room <= 0:
                batch.after = (after_id,)  # This page again: there may be more.
                return batch
        batch.after = (last_id,) if sessions == limit else None
        return batch

    def _delete_unseen(self, session_id: str, from_seq: int, to_seq: int, limit: int, batch: Batch) -> int:
        rows = self._link.all(_UNSEEN_OF_SESSION, session_id=session_id, from_seq=from_seq, to_seq=to_seq, limit=limit)
        # One by one: what a fork sees may be between them.
        for seq, size in rows:
            ledger.fold(self._link, session_id, seq, seq)
            self._link.run(segments.DELETE_ROWS, session_id=session_id, from_seq=seq, to_seq=seq)
            batch.add("unseen_entries", 1, size)
        return len(rows)

    def _delete_cache(self, delete: Statement, note: Statement, limit: int) -> tuple[int, int]:
        rows = self._link.all(delete, limit=limit)
        if self._link.dialect.name == "postgresql":
            ((count, size),) = rows
            return count, int(size or 0)
        for agent_name, number in Counter(agent_name for agent_name, _ in rows).items():
            self._link.run(note, agent_name=agent_name, number=number)
        return len(rows), sum(size for _, size in rows)
