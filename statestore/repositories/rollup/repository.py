"""Keeping the sums of what was used: one step at a time, each in a short transaction of its own.

A sweep takes the steps; an append writes to no sum. What entries used that are gone is in the usage ledger.

What is to be done next is in the namespace's row of `usage_rollup_state`, whose lock a step holds, so any number of
workers may do so at once, and one that dies leaves the rest to the next.

The sums stay behind the clock, and move on in three steps. First it is announced up to when; from then on, triggers
note what happens before that. Then all transactions have to end that may not have seen the announcement. Then all that
is before it, and not noted, is there to be seen.
"""

from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any

from statestore.engine.calls import reported_as, writes
from statestore.engine.sql import Statement
from statestore.repositories.base import Repository
from statestore.repositories.expiry.batch import Batch
from statestore.repositories.rollup import days, sessions, totals
from statestore.repositories.usage import report_sql, rolled
from statestore.repositories.usage.periods import EARLIEST, QUARTER, quarter

# Behind the clock of the server by twice the time after which triggers look at what is inserted: so its clock may go
# back by that, or another server may take over, whose clock is behind.
LAG = timedelta(minutes=10)

_CLOCK = Statement(postgresql="SELECT least($now, clock_timestamp())", sqlite="SELECT $now")
_INIT = Statement("""
    INSERT INTO $usage_rollup_state (namespace, announced_until) VALUES (:namespace, :until)
    ON CONFLICT (namespace) DO NOTHING""")
# The oldest transaction that may write to this database: those of others on the server may take as long as they like.
_OLDEST = """coalesce((
            SELECT min(CAST(CAST(x.xid AS text) AS bigint)) FROM pg_snapshot_xip(pg_current_snapshot()) AS x (xid)
            WHERE NOT EXISTS (
                SELECT 1 FROM pg_stat_get_activity(NULL) AS a JOIN pg_database AS d ON d.oid = a.datid
                WHERE a.backend_xid = CAST(x.xid AS xid) AND d.datname <> current_database())
            AND NOT EXISTS (
                SELECT 1 FROM pg_prepared_xacts AS p
                WHERE p.transaction = CAST(x.xid AS xid) AND p.database <> current_database())),
            CAST(CAST(pg_snapshot_xmax(pg_current_snapshot()) AS text) AS bigint))"""
# What a step does is planned for the tables as they are then: a plan that was made while they were empty would go
# through all sums for each of some sessions.
_LOCK = Statement(
    postgresql=f"""
    SELECT t.announced_until, t.fence, t.filled_to, t.rolled_until, t.days_until,
        CASE WHEN t.fence <= CAST(CAST(pg_snapshot_xmin(pg_current_snapshot()) AS text) AS bigint)
            THEN t.fence ELSE {_OLDEST} END,
        CAST(CAST(pg_snapshot_xmax(pg_current_snapshot()) AS text) AS bigint),
        set_config('plan_cache_mode', 'force_custom_plan', true)
    FROM $usage_rollup_state AS t WHERE t.namespace = :namespace FOR UPDATE SKIP LOCKED""",
    sqlite="""
    SELECT t.announced_until, 0, t.filled_to, t.rolled_until, t.days_until, 0, 0, NULL
    FROM $usage_rollup_state AS t WHERE t.namespace = :namespace""",
)
_EXISTS = Statement("SELECT t.announced_until FROM $usage_rollup_state AS t WHERE t.namespace = :namespace")
_ANNOUNCE = Statement("""
    UPDATE $usage_rollup_state SET announced_until = :until, fence = NULL WHERE namespace = :namespace""")
_FENCE = Statement(
    postgresql="""
    UPDATE $usage_rollup_state SET fence = CAST(CAST(pg_snapshot_xmax(pg_current_snapshot()) AS text) AS bigint)
    WHERE namespace = :namespace"""
)
_FILLED_TO = Statement("UPDATE $usage_rollup_state SET filled_to = :to WHERE namespace = :namespace")
_ROLLED = Statement("UPDATE $usage_rollup_state SET rolled_until = :until WHERE namespace = :namespace")
_SOME_CHANGED = """
        SELECT c.part FROM $usage_rollup_changes AS c WHERE c.namespace = :namespace AND c.kind = 'session'
        ORDER BY c.part LIMIT :limit"""
# PostgreSQL may run what is IN (…) for each row.
_TAKE_CHANGED = Statement(
    postgresql=f"""
    WITH chosen AS MATERIALIZED ({_SOME_CHANGED})
    DELETE FROM $usage_rollup_changes AS t USING chosen
    WHERE t.namespace = :namespace AND t.kind = 'session' AND t.part = chosen.part
    RETURNING t.part""",
    sqlite=f"""
    DELETE FROM $usage_rollup_changes WHERE namespace = :namespace AND kind = 'session' AND part IN ({_SOME_CHANGED})
    RETURNING part""",
)

_DAYS = Statement("UPDATE $usage_rollup_state SET days_until = :day WHERE namespace = :namespace")
_TAKE_CHANGED_DAY = Statement("""
    DELETE FROM $usage_rollup_changes WHERE namespace = :namespace AND kind = 'day' AND part = (
        SELECT min(c.part) FROM $usage_rollup_changes AS c WHERE c.namespace = :namespace AND c.kind = 'day')
    RETURNING part""")

_DROP = Statement("DELETE FROM $usage_rollup_state WHERE namespace = :namespace")
_TRIGGERS = Statement(
    postgresql="""
    SELECT count(*) FROM pg_trigger AS g
    WHERE g.tgrelid = ANY (CAST(CAST(:tables AS text[]) AS regclass[])) AND g.tgenabled IN ('O', 'A')
        AND g.tgname IN ('usage_rollup_insert', 'usage_rollup_update', 'usage_rollup_delete')""",
    sqlite="""
    SELECT count(*) FROM sqlite_master AS g
    WHERE g.type = 'trigger' AND substr(g.name, 1, length('$usage_rollup') + 1) = '$usage_rollup' || '_'""",
)
# Of entries, records and the ledger three each; of sessions one.
_NOTED = 10

_MORE = ("more",)
# Steps of a sweep that make sums anew, of 200 sessions or of a day.
_MENDED_AT_MOST = 100


@dataclass(frozen=True, slots=True)
class _State:
    """How far the sums of the namespace are."""

    announced: datetime
    fence: int | None
    filled_to: str
    rolled: datetime | None
    days: date | None
    oldest_transaction: int
    next_transaction: int

    @property
    def has_fence(self) -> bool:
        """Not one of the server that this database was dumped from, whose transactions have other numbers."""
        return self.fence is not None and self.fence <= self.next_transaction

    @property
    def waits(self) -> bool:
        """Whether a transaction is still going on that may not have seen what was announced."""
        return self.fence is None or self.oldest_transaction < self.fence


class RollupRepository(Repository, group="store"):
    """What was used, summed up."""

    @reported_as("expiry.sum_usage")
    @writes
    def roll_up(self, batch_size: int, *, after: tuple[Any, ...] = ()) -> Batch:
        """Do the next thing that there is to do, if nobody else is at it.

        How much is in one transaction does not follow from *batch_size*, which counts deletions. Where changes are not
        noted, because somebody has removed the triggers, nothing is summed, and what was summed is read no more.
        """
        if not after and not self._are_changes_noted():
            self._link.run(_DROP)
            return Batch()
        state = self._locked()
        if state is None:
            return self._begin()
        until = state.announced
        if state.rolled == until:
            later = self._limit()
            if not after and later > until:
                self._link.run(_ANNOUNCE, until=later)
                return Batch(after=_MORE)
        elif not state.has_fence:
            self._link.run(_FENCE)
            return Batch(after=_MORE)
        elif not state.waits:
            self._add(state) if state.rolled else self._fill(state)
            return Batch(after=_MORE)
        if state.rolled is None:
            return Batch()
        if self._add_day(state):
            return Batch(after=_MORE)
        # Changes may come as fast as they are mended: the rest is the next sweep's.
        mended = after[1] if len(after) > 1 else 0
        if mended < _MENDED_AT_MOST and (self._mend(state.rolled) or self._mend_day(state)):
            return Batch(after=("mending", mended + 1))
        return Batch()

    def _are_changes_noted(self) -> bool:
        prefix = self._link.dialect.schema_prefix.replace("%%", "%")
        (found,) = self._link.only(_TRIGGERS, tables=[prefix + table for table in (*rolled.TIMES, "sessions")])
        return bool(found == _NOTED)

    def _locked(self) -> _State | None:
        row = self._link.one(_LOCK)
        if row is None:
            return None
        announced, fence, filled_to, rolled, days, oldest, following, _ = row
        time = self._link.dialect.time
        day = date.fromisoformat(days) if isinstance(days, str) else days
        return _State(time(announced), fence, filled_to, time(rolled), day, oldest, following)

    def _limit(self) -> datetime:
        """Up to when there may be sums by now."""
        (now,) = self._link.only(_CLOCK)
        lag = LAG if self._link.dialect.name == "postgresql" else timedelta(0)
        moment: datetime = self._link.dialect.time(now) - lag
        return quarter(moment)

    def _begin(self) -> Batch:
        if self._link.one(_EXISTS) is not None:
            return Batch()  # Somebody else is at it.
        until = self._limit()
        firsts = [
            self._link.dialect.time(value) for value in self._link.only(report_sql.span(report_sql.OWN))[:3] if value
        ]
        if not firsts or min(firsts) >= until:
            return Batch()
        # Once: another sweep may have begun, and added to them, since this one looked.
        if self._link.run(_INIT, until=until):
            totals.clear(self._link)
        return Batch(after=_MORE)

    def _fill(self, state: _State) -> None:
        found = sessions.following(self._link, state.filled_to)
        last = found[-1] if len(found) == sessions.SESSIONS_AT_ONCE else None
        sessions.forget(self._link, state.filled_to, last)
        sessions.make(self._link, found if state.filled_to else ["", *found], state.announced)
        if last is None:
            self._link.run(_ROLLED, until=state.announced)
        else:
            self._link.run(_FILLED_TO, to=last)

    def _add(self, state: _State) -> None:
        assert state.rolled is not None
        until = state.announced
        if (end := sessions.end(self._link, state.rolled, until)) is not None:
            until = min(until, quarter(end) + QUARTER)
        sessions.add(self._link, state.rolled, until)
        self._link.run(_ROLLED, until=until)

    def _mend(self, until: datetime) -> bool:
        """Make some of the sums anew of what has changed. Whether there were any."""
        changed = {part for (part,) in self._link.all(_TAKE_CHANGED, limit=sessions.SESSIONS_AT_ONCE)}
        sessions.make(self._link, sorted(changed), until)
        return bool(changed)

    def _mend_day(self, state: _State) -> bool:
        """Make the sums of a day anew if it has changed. Whether there was one."""
        changed = self._link.one(_TAKE_CHANGED_DAY)
        if changed is None:
            return False
        day = date.fromisoformat(changed[0])
        if state.days is not None and day < state.days:
            days.make(self._link, day)
        return True

    def _add_day(self, state: _State) -> bool:
        """Make the sums of the next day that is over. Whether there was one."""
        assert state.rolled is not None
        over = state.rolled.date()  # This one is not.
        if state.days is not None and state.days >= over:
            return False
        day = days.first(self._link, state.days or EARLIEST.date())
        days.forget(self._link, state.days, over)
        if day is not None and day < over:
            days.make(self._link, day)
            over = day + timedelta(days=1)
        self._link.run(_DAYS, day=over.isoformat() if self._link.dialect.name == "sqlite" else over)
        return True
