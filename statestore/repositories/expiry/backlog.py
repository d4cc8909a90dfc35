"""What is due for deletion and is still there."""

from datetime import timedelta

from statestore.checking import checks
from statestore.engine.calls import reads
from statestore.engine.sql import Statement
from statestore.repositories.base import Repository
from statestore.repositories.sessions import endings
from statestore.repositories.usage.periods import EARLIEST
from statestore.values.usage import ExpiryBacklog

# The view does the same by the database's clock; here the store's decides.
_BACKLOG = Statement(f"""
    SELECT 'expired_sessions', count(*), min(s.expires_at), $now FROM $sessions AS s
    WHERE s.namespace = :namespace AND s.expires_at <= $now
    UNION ALL
    SELECT 'idle_sessions', count(*), min(s.last_activity_at), $now FROM $sessions AS s
    WHERE s.namespace = :namespace AND {endings.IS_IDLE}
    UNION ALL
    SELECT 'expired_state', count(*), min(e.expires_at), $now FROM (
        SELECT e.expires_at FROM $state_entries AS e WHERE e.namespace = :namespace AND e.expires_at <= $now
        UNION ALL SELECT e.expires_at FROM $shared_state AS e
        WHERE e.namespace = :namespace AND e.expires_at <= $now) AS e
    UNION ALL
    SELECT 'expired_cache', count(*), min(c.keep_until), $now FROM $cache_entries AS c
    WHERE c.namespace = :namespace AND c.keep_until <= $now""")

_MAX_IDLE = Statement("""
    SELECT $now, (SELECT value FROM $store_settings WHERE namespace = :namespace AND name = 'max_idle')""")


class BacklogRepository(Repository, group="usage"):
    """How far the sweep is behind."""

    @reads
    def expiry_backlog(self) -> list[ExpiryBacklog]:
        """What is due for deletion but not swept yet; empty if everything was swept."""
        ((now, setting),) = self._link.all(_MAX_IDLE)
        now = self._link.dialect.time(now)
        max_idle = None if setting is None else timedelta(microseconds=setting)
        idle = endings.idle_params(*((EARLIEST, checks.MAX_TTL) if max_idle is None else (now, max_idle)))
        backlog = []
        for kind, due, oldest, at in self._link.all(_BACKLOG, **idle):
            if due:
                since = self._link.dialect.time(oldest) + (max_idle or timedelta(0)) * (kind == "idle_sessions")
                overdue = self._link.dialect.time(at) - since
                backlog.append(ExpiryBacklog(kind=kind, due=due, oldest_due_at=since, overdue=overdue))
        return backlog
