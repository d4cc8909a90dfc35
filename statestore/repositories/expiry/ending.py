"""The sweep's first steps: they end sessions that do not expire by themselves, the idle, the too many, the orphaned.

To end a session is to make it expire long ago, in one update. From then on nothing brings it back, and its rows go as
those of any other expired session.
"""

from datetime import datetime, timedelta
from typing import Any

from statestore.checking import checks
from statestore.engine.calls import reads, reported_as, writes, writes_in_one_statement
from statestore.engine.sql import Params, Statement
from statestore.repositories.base import one_row
from statestore.repositories.expiry.batch import Batch
from statestore.repositories.expiry.rows import ExpiredRows
from statestore.repositories.sessions import endings, lease_checks, parts
from statestore.repositories.sessions.session_columns import SessionOptions

_NOW_AND_MAX_IDLE = Statement("""
    SELECT $now, (SELECT value FROM $store_settings WHERE namespace = :namespace AND name = 'max_idle')""")
_SET_MAX_IDLE = Statement("""
    INSERT INTO $store_settings (namespace, name, value) VALUES (:namespace, 'max_idle', :value)
    ON CONFLICT (namespace, name) DO UPDATE SET value = excluded.value""")
_DROP_MAX_IDLE = Statement("DELETE FROM $store_settings WHERE namespace = :namespace AND name = 'max_idle'")


def _end(which: str, order: str) -> Statement:
    """End up to `:limit` sessions, past those that somebody has locked.

    They are looked for once, whatever the plan: a subquery may be run again for each row, and then finds others.
    """
    return Statement(
        postgresql=f"""
    WITH those AS MATERIALIZED (
        SELECT s.session_id FROM $sessions AS s WHERE s.namespace = :namespace AND {which}
        ORDER BY {order} LIMIT :limit FOR NO KEY UPDATE OF s SKIP LOCKED)
    UPDATE $sessions AS s SET ttl = :ended, {endings.END} FROM those
    WHERE s.namespace = :namespace AND s.session_id = those.session_id AND {which}""",
        sqlite=f"""
    UPDATE $sessions SET ttl = :ended, {endings.END} WHERE rowid IN (
        SELECT s.rowid FROM $sessions AS s WHERE s.namespace = :namespace AND {which} ORDER BY {order} LIMIT :limit)""",
    )


_END_IDLE = _end(endings.IS_IDLE, "s.active_hour")
LEAST_ACTIVE = "s.active_hour, s.last_activity_at, s.session_id"
_END_EXCESS = _end(endings.EVICTABLE, LEAST_ACTIVE)
_COUNT = """
    SELECT count(*) FROM $sessions AS s WHERE s.namespace = :namespace AND s.belongs_to IS NULL AND $live"""
_COUNT_LIVING = Statement(_COUNT)
COUNT_IN_USE = Statement(f"{_COUNT} AND NOT ({endings.IS_IDLE})")
# Two that count the same excess would end twice as many.
_ALONE = Statement(
    postgresql=f"""
    SELECT pg_advisory_xact_lock(hashtextextended(CAST(:namespace AS text), 9))
    FROM {one_row("sessions", "session_id")}"""
)

# Somebody else has it locked.
_IDLE_IS_LEFT = Statement(f"SELECT 1 FROM $sessions AS s WHERE s.namespace = :namespace AND {endings.IS_IDLE} LIMIT 1")


# By the indexes of what is used most: an append, a read that extends a TTL, a hit.
_NEWEST = Statement("""
    SELECT $now, (SELECT max(s.last_activity_at) FROM $sessions AS s WHERE s.namespace = :namespace
            AND s.active_hour = (SELECT max(t.active_hour) FROM $sessions AS t WHERE t.namespace = :namespace)),
        (SELECT max(c.last_accessed_at) FROM $cache_entries AS c WHERE c.namespace = :namespace)""")


class EndingRepository(ExpiredRows):
    """The steps of a sweep that end sessions, and how long these may be idle."""

    @reads
    def newest(self) -> tuple[datetime, datetime | None]:
        """What time it is, and when something of the namespace was last used; None if it is empty."""
        now, *found = (self._link.dialect.time(at) for at in self._link.only(_NEWEST))
        return now, max((at for at in found if at is not None), default=None)

    @reported_as("store.retention")
    @reads
    def retention(self) -> timedelta | None:
        """How long a session of the namespace may be idle before the sweep deletes it; None for no limit."""
        return self._now_and_max_idle()[1]

    @reported_as("store.set_retention")
    @writes
    def set_retention(self, max_idle: timedelta | None) -> None:
        """Set how long a session of the namespace may be idle, with or without a TTL, before the sweep deletes it.

        Idle means not written to. A read counts only if it has extended the TTL, so sessions without a TTL that are
        only read have to be touched now and then. Sessions that are busy or under a lease are spared;
        `sessions.repair_abandoned` finds those that a process left busy when it died. What belongs to a session goes
        with it, and keeps it while it is itself written to, busy or under a lease. This applies to all processes, from
        their next sweep on.

        Args:
            max_idle: The longest idle time; None for no limit.
        """
        value = checks.ttl(max_idle, "max_idle", hint="use None for no limit")
        if value is None:
            self._link.run(_DROP_MAX_IDLE)
        else:
            self._link.run(_SET_MAX_IDLE, value=value // timedelta(microseconds=1))

    @writes
    def end_idle(self, limit: int, max_idle: timedelta | None = None) -> Batch:
        """Make up to *limit* idle sessions expire, whose sweep then is that of other expired ones."""
        batch = Batch()
        idle = self._idle(max_idle)
        if idle is None:
            return batch
        if self._link.run(_END_IDLE, limit=limit, ended=endings.IDLE, back=endings.BACK, **idle) == limit:
            batch.after = ()
        elif self._link.dialect.name == "postgresql":
            batch.left = self._link.one(_IDLE_IS_LEFT, **idle) is not None
        return batch

    @writes_in_one_statement
    def end_others(self, limit: int, after: tuple[Any, ...] = (), *, excess: bool = True) -> Batch:
        """Make up to *limit* sessions expire beyond the store's limit, and what belongs to as many expired ones.

        With *excess* false, only the latter.
        """
        batch = Batch()
        ended = 0
        if excess and self._link.settings.of(SessionOptions).max_sessions is not None:
            self._needs_transaction()
            ended = self._end_excess(limit)
        if limit in (ended, parts.end_due(self._link, limit)):
            batch.after = ()
        return batch

    def _end_excess(self, limit: int) -> int:
        """Those that were used least recently."""
        if self._link.dialect.name == "postgresql":
            self._link.all(_ALONE)
        excess = min(self._excess_sessions(_COUNT_LIVING), limit)
        if excess <= 0:
            return 0
        marks = {"ended": endings.EVICTED, "back": endings.BACK, "latest_lease": lease_checks.LATEST}
        return self._link.run(_END_EXCESS, limit=excess, **marks)

    def _excess_sessions(self, count: Statement, **params: Any) -> int:
        """How many living sessions there are beyond the store's limit."""
        most = self._link.settings.of(SessionOptions).max_sessions
        if most is None:
            return 0
        (living,) = self._link.only(count, **params)
        return max(0, int(living) - most)

    def _now_and_max_idle(self) -> tuple[datetime, timedelta | None]:
        ((now, max_idle),) = self._link.all(_NOW_AND_MAX_IDLE)
        return self._link.dialect.time(now), None if max_idle is None else timedelta(microseconds=max_idle)

    def _idle(self, max_idle: timedelta | None) -> Params | None:
        """The parameters of `endings.IS_IDLE`; None if no session is idle, however long it was not used."""
        now, setting = self._now_and_max_idle()
        longest = setting if max_idle is None else max_idle
        return None if longest is None else endings.idle_params(now, longest)
