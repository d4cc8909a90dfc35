"""What is due for deletion and is still there."""

from datetime import timedelta

from statestore.checking import checks
from statestore.engine.calls import reads
from statestore.engine.sql import Statement
from statestore.repositories.base import Repository
from statestore.repositories.sessions import endings
from statestore.repositories.usage.periods import EARLIEST
from statestore.values.operations import Figures
from statestore.values.sessions import STATUSES
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


def _due(kind: str, table: str, column: str) -> str:
    """How much is due, counted up to a bound, and since when; both by the index that the sweep uses."""
    due = f"FROM ${table} AS d WHERE d.namespace = :namespace AND d.{column} <= $now"
    return f"""
    SELECT '{kind}', (SELECT count(*) FROM (SELECT 1 AS one {due} LIMIT :most) AS bounded),
        (SELECT min(d.{column}) {due}), $now"""


_FIGURES = Statement(f"""{_due("expired_sessions", "sessions", "expires_at")}
    UNION ALL {_due("expired_state", "state_entries", "expires_at")}
    UNION ALL {_due("expired_cache", "cache_entries", "keep_until")}
    UNION ALL
    SELECT s.status, count(*), NULL, $now FROM (
        SELECT s.status FROM $sessions AS s WHERE s.namespace = :namespace LIMIT :most) AS s GROUP BY s.status""")

_MAX_IDLE = Statement("""
    SELECT $now, (SELECT value FROM $store_settings WHERE namespace = :namespace AND name = 'max_idle')""")


class BacklogRepository(Repository, group="usage"):
    """How far the sweep is behind."""

    may_lag = True

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


class FiguresRepository(Repository, group="store"):
    """What those see who watch a namespace; no operation of its own."""

    @reads
    def figures(self, most: int) -> Figures:
        """Counted up to *most*, so that it costs no more in a large namespace."""
        time = self._link.dialect.time
        statuses, backlog, lag = dict.fromkeys(STATUSES, 0), {}, {}
        for name, count, since, now in self._link.all(_FIGURES, most=most):
            if name in statuses:
                statuses[name] = count
            else:
                backlog[name] = count
                lag[name] = 0.0 if since is None else (time(now) - time(since)).total_seconds()
        return Figures(sessions=statuses, backlog=backlog, lag=lag)
