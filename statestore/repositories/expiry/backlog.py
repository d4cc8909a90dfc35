"""What is due for deletion and is still there."""

import re
from collections.abc import Iterable
from datetime import datetime, timedelta
from functools import lru_cache

from statestore.checking.namespaces import chosen
from statestore.engine.calls import reads
from statestore.engine.sql import Statement
from statestore.engine.sql_parts import in_namespaces
from statestore.repositories.base import Repository
from statestore.repositories.sessions import endings, lease_checks
from statestore.schema.liveness import LIVE_ANYWHERE
from statestore.values.operations import Figures
from statestore.values.sessions import STATUSES
from statestore.values.usage import ExpiryBacklog

_KINDS = ("expired_sessions", "idle_sessions", "expired_state", "expired_cache")
_OWN = "r.namespace = :namespace"


# SQLite takes so many terms of a UNION, and each takes PostgreSQL time to plan; few have more than three retentions.
_AT_ONCE = 50


@lru_cache(maxsize=16)
def _backlog(within: str, idle: tuple[str, ...], *, first: bool = True) -> Statement:
    """What is due in namespaces, together. The view does the same by the database's clock; here the store's decides.

    *within* says of row `r` in which it is; *idle* the same, for each time after which sessions are idle. Only the
    *first* has what is due by itself.
    """
    idle_after = _IS_IDLE if within == _OWN else _IS_IDLE_AT_HOME
    sessions, state, cache = [within.replace("r.", f"{row}.") for row in "sec"]
    by_itself = f"""
    SELECT 'expired_sessions', count(*), min(s.expires_at), $now FROM $sessions AS s
    WHERE {sessions} AND s.expires_at <= $now
    UNION ALL
    SELECT 'expired_state', count(*), min(e.expires_at), $now FROM (
        SELECT e.expires_at FROM $state_entries AS e WHERE {state} AND e.expires_at <= $now
        UNION ALL SELECT e.expires_at FROM $shared_state AS e WHERE {state} AND e.expires_at <= $now) AS e
    UNION ALL
    SELECT 'expired_cache', count(*), min(c.keep_until), $now FROM $cache_entries AS c
    WHERE {cache} AND c.keep_until <= $now"""
    after_a_time = [
        f"""
    SELECT 'idle_{number}', count(*), min(s.last_activity_at), $now FROM $sessions AS s
    WHERE {which.replace("r.", "s.")} AND {idle_after.replace("#", str(number))}"""
        for number, which in enumerate(idle)
    ]
    return Statement("\n    UNION ALL".join([*([by_itself] if first else ()), *after_a_time]))


# After one of several times.
_IS_IDLE = re.sub(":(idle_since|max_idle)", r":\1_#", endings.IS_IDLE)
_IS_IDLE_AT_HOME = _IS_IDLE.replace("p.namespace = :namespace", "p.namespace = s.namespace").replace(
    "$live", LIVE_ANYWHERE
)


@lru_cache(maxsize=16)
def _max_idle(within: str) -> Statement:
    """After how long sessions are idle, by namespace, and the time."""
    return Statement(f"""
    SELECT $now, r.namespace, r.value FROM $store_settings AS r WHERE r.name = 'max_idle' AND {within}""")


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


class BacklogRepository(Repository, group="usage"):
    """How far the sweep is behind."""

    may_lag = True

    @reads
    def expiry_backlog(self, *, namespaces: str | Iterable[str] | None = None) -> list[ExpiryBacklog]:
        """What is due for deletion but not swept yet; empty if everything was swept.

        Args:
            namespaces: In these namespaces together instead of the store's own: a name, a prefix such as `acme/*`, or a
                list of these; see `sessions.page`. What is idle goes by the retention of each.
        """
        several = chosen(namespaces)
        within, params = in_namespaces(several, "r")
        time = self._link.dialect.time
        idle: dict[timedelta, list[str]] = {}
        for at, name, value in self._link.all(_max_idle(within), **params):
            now, max_idle = time(at), timedelta(microseconds=value)
            idle.setdefault(max_idle, []).append(name)
        found: dict[str, tuple[int, datetime, datetime]] = {}
        for start in range(0, len(idle) or 1, _AT_ONCE):
            longest = list(idle)[start : start + _AT_ONCE]
            these = dict(params)
            for number, max_idle in enumerate(longest):
                these |= {f"{name}_{number}": value for name, value in endings.idle_params(now, max_idle).items()}
                these |= {f"names_{number}": idle[max_idle]} if several else {}
            which = tuple(f"r.namespace $in(:names_{number})" if several else within for number in range(len(longest)))
            statement = _backlog(within, which, first=not start)
            for kind, due, oldest, at in self._link.all(statement, latest_lease=lease_checks.LATEST, **these):
                if due:
                    since = time(oldest)
                    if kind.startswith("idle_"):
                        kind, since = "idle_sessions", since + longest[int(kind.removeprefix("idle_"))]
                    before = found.get(kind, (0, since, time(at)))
                    found[kind] = (before[0] + due, min(before[1], since), before[2])
        return [
            ExpiryBacklog(kind=kind, due=due, oldest_due_at=since, overdue=at - since)
            for kind, (due, since, at) in sorted(found.items(), key=lambda one: _KINDS.index(one[0]))
        ]


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
