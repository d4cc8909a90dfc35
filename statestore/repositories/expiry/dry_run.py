"""The dry run of a sweep: what it would delete, counted and not deleted."""

from statestore.checking import checks
from statestore.engine.calls import reads
from statestore.engine.sql import Statement
from statestore.repositories.expiry.batch import Batch
from statestore.repositories.expiry.ending import COUNT_IN_USE, LEAST_ACTIVE
from statestore.repositories.expiry.repository import ExpiryRepository
from statestore.repositories.expiry.rows import BEYOND
from statestore.repositories.sessions import endings
from statestore.repositories.usage.periods import EARLIEST
from statestore.values.usage import SweepKind

_KINDS: tuple[SweepKind, ...] = ("expired_sessions", "idle_sessions", "session_overflow")

_DOOMED = f"""whole AS (
        SELECT s.session_id, CASE WHEN s.expires_at > $now OR s.expires_at IS NULL OR s.ttl = :ended THEN 1
            WHEN s.ttl = :evicted THEN 2 ELSE 0 END AS kind
        FROM $sessions AS s WHERE s.namespace = :namespace AND ({endings.DUE} OR ({endings.IS_IDLE}))
        UNION ALL SELECT session_id, 2 FROM (
            SELECT s.session_id FROM $sessions AS s
            WHERE s.namespace = :namespace AND {endings.EVICTABLE} AND NOT ({endings.IS_IDLE})
            ORDER BY {LEAST_ACTIVE} LIMIT :excess_sessions) AS excess),
    doomed AS (
        SELECT session_id, kind FROM whole
        UNION ALL SELECT p.session_id, whole.kind FROM whole JOIN $sessions AS p
            ON p.namespace = :namespace AND p.belongs_to = whole.session_id AND p.expires_at IS NULL)"""

_SESSIONS = Statement(f"""
    WITH {_DOOMED}
    SELECT d.kind, count(*), sum($bytes(s.title) + $bytes(s.instructions) + $bytes(s.metadata)
        + coalesce((SELECT sum($bytes(e.value)) FROM $state_entries AS e
            WHERE e.namespace = :namespace AND e.session_id = s.session_id), 0)
        + coalesce((SELECT sum($bytes(m.content)) FROM $summaries AS m
            WHERE m.namespace = :namespace AND m.session_id = s.session_id), 0)
        + coalesce((SELECT sum($bytes(i.value)) FROM $session_list_items AS i
            WHERE i.namespace = :namespace AND i.session_id = s.session_id), 0))
    FROM doomed AS d JOIN $sessions AS s ON s.namespace = :namespace AND s.session_id = d.session_id
    GROUP BY d.kind""")

# Only what no session sees that lives on: the rest is handed over.
_ENTRIES = Statement(f"""
    WITH {_DOOMED}
    SELECT count(*), sum(h.content_bytes + $bytes(h.metadata)) FROM doomed AS d
    JOIN $history_entries AS h ON h.namespace = :namespace AND h.session_id = d.session_id
    WHERE NOT EXISTS (
        SELECT 1 FROM $session_segments AS g WHERE g.namespace = :namespace AND g.owner_session_id = h.session_id
            AND h.seq BETWEEN g.from_seq AND g.to_seq AND g.session_id NOT IN (SELECT session_id FROM doomed))""")

_STATE = Statement(f"""
    WITH {_DOOMED}
    SELECT count(*), sum(size) FROM (
        SELECT $bytes(e.value) AS size FROM $state_entries AS e
        WHERE e.namespace = :namespace AND e.expires_at <= $now
            AND e.session_id NOT IN (SELECT session_id FROM doomed)
        UNION ALL SELECT $bytes(e.value) AS size FROM $shared_state AS e
        WHERE e.namespace = :namespace AND e.expires_at <= $now) AS expired""")

_BEYOND = f"{BEYOND} AND s.session_id NOT IN (SELECT session_id FROM doomed)"
_UNSEEN = Statement(f"""
    WITH {_DOOMED}
    SELECT count(*), sum(size) FROM (
        SELECT h.content_bytes + $bytes(h.metadata) AS size {_BEYOND % "< s.first_seq"}
        UNION ALL SELECT h.content_bytes + $bytes(h.metadata) {_BEYOND % ">= s.next_seq"}) AS unseen""")

_CACHE = Statement("""
    SELECT count(*), sum(c.size_bytes + $bytes(c.request) + $bytes(c.metadata)) FROM $cache_entries AS c
    WHERE c.namespace = :namespace AND c.keep_until <= $now""")
_OVERFLOW = Statement("""
    SELECT count(*), sum(size) FROM (
        SELECT c.size_bytes + $bytes(c.request) + $bytes(c.metadata) AS size FROM $cache_entries AS c
        WHERE c.namespace = :namespace AND (c.keep_until IS NULL OR c.keep_until > $now)
        ORDER BY c.last_accessed_at, c.access_seq LIMIT :excess) AS least_used""")


class DryRunRepository(ExpiryRepository):
    """Counts what the steps of a sweep would delete."""

    @reads
    def due(self, *, limits: bool = True) -> Batch:
        """What a sweep would delete now, exactly, if nobody else were to do anything meanwhile.

        Args:
            limits: Whether what is beyond the limits of the store counts.
        """
        batch = Batch()
        # None is idle if there is no policy: nothing is older than the earliest time.
        idle = self._idle(None) or endings.idle_params(EARLIEST, checks.MAX_TTL)
        doomed = idle | {"ended": endings.IDLE, "evicted": endings.EVICTED} | endings.DUE_PARAMS
        doomed["excess_sessions"] = self._excess_sessions(COUNT_IN_USE, **idle) if limits else 0
        for kind, count, size in self._link.all(_SESSIONS, **doomed):
            batch.add(_KINDS[kind], count, size)
        batch.add("history_entries", *self._link.only(_ENTRIES, **doomed))
        batch.add("expired_state", *self._link.only(_STATE, **doomed))
        batch.add("expired_cache", *self._link.only(_CACHE))
        if limits:
            batch.add("cache_overflow", *self._link.only(_OVERFLOW, excess=self._excess()))
        every = {"after_id": "", "last_id": "\U0010ffff" * checks.MAX_KEY_LENGTH}
        batch.add("unseen_entries", *self._link.only(_UNSEEN, **doomed, **every))
        return batch
