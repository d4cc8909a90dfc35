"""What was used and what it cost: the report views, for a period, filtered, and by the days of any time zone."""

import re
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta, tzinfo
from decimal import Decimal
from functools import lru_cache
from typing import Any, TypeVar

from statestore import checks
from statestore.repositories.base import Repository, reads
from statestore.repositories.usage_periods import EARLIEST, Moment, Period
from statestore.sql import Params, Row, Statement
from statestore.usage_values import (
    AgentUsage,
    CacheDayUsage,
    DayUsage,
    ExpiryBacklog,
    HourUsage,
    ModelUsage,
    SessionDescent,
    SessionUsage,
    StorageUsage,
    ToolUsage,
    UsageTotals,
    UserUsage,
)

T = TypeVar("T", bound=UsageTotals)

_FILTERS = ("user_id", "agent_name", "provider_name", "model", "tool_name", "session_id")
_SUMS = (
    "entries",
    "turns",
    "model_calls",
    "tool_calls",
    "errors",
    "input_tokens",
    "output_tokens",
    "cache_read_input_tokens",
    "cache_write_input_tokens",
    "reasoning_output_tokens",
    "unpriced_calls",
    "content_bytes",
)
_MEASURES = ("sessions", *_SUMS, "duration_ms", "timed_entries", "latency_p50", "latency_p95", "cost", "cost_fraction")

# As the views have it; `place` and `timed` are SQLite's way to a percentile.
_MEASURED_POSTGRESQL = ", ".join(
    (
        "count(DISTINCT session_id) AS sessions",
        *(f"CAST(coalesce(sum({name}), 0) AS bigint) AS {name}" for name in _SUMS),
        "coalesce(sum(duration_ms), 0) AS duration_ms, count(latency_ms) AS timed_entries",
        "percentile_cont(0.5) WITHIN GROUP (ORDER BY latency_ms) AS latency_p50",
        "percentile_cont(0.95) WITHIN GROUP (ORDER BY latency_ms) AS latency_p95",
        "sum(cost_usd) AS cost, 0 AS cost_fraction",
    )
)
_MEASURED_SQLITE = ", ".join(
    (
        "count(DISTINCT session_id) AS sessions",
        *(f"coalesce(sum({name}), 0) AS {name}" for name in _SUMS),
        "coalesce(sum(duration_ms), 0) AS duration_ms, coalesce(max(timed), 0) AS timed_entries",
        "max(CASE WHEN place = (timed + 1) / 2 THEN latency_ms END) * (1 - (timed - 1) % 2 * 0.5)"
        " + max(CASE WHEN place = timed / 2 + 1 THEN latency_ms END) * ((timed - 1) % 2 * 0.5) AS latency_p50",
        "max(CASE WHEN place = (timed - 1) * 19 / 20 + 1 THEN latency_ms END) * (1 - (timed - 1) * 19 % 20 / 20.0)"
        " + max(CASE WHEN place = min(timed, (timed - 1) * 19 / 20 + 2) THEN latency_ms END)"
        " * ((timed - 1) * 19 % 20 / 20.0) AS latency_p95",
        # Whole dollars and whole ten-billionths of one: exact, where a float sum of the two would not be.
        "sum(CAST(cost_usd AS INTEGER)) AS cost,"
        " sum(CAST(round((cost_usd - CAST(cost_usd AS INTEGER)) * 1e10) AS INTEGER)) AS cost_fraction",
    )
)
_HEAVIEST = "cost IS NULL, cost DESC, cost_fraction DESC, input_tokens + output_tokens DESC, entries DESC"

# Both ends are found in an index. A minute may lie before the first entry, never after the last.
_SPAN = Statement("""
    SELECT (SELECT min(created_at) FROM {history_entries} WHERE namespace = :namespace),
        (SELECT min(bucket_at) FROM {usage_ledger} WHERE namespace = :namespace),
        (SELECT max(created_at) FROM {history_entries} WHERE namespace = :namespace),
        (SELECT max(bucket_at) FROM {usage_ledger} WHERE namespace = :namespace)""")

_CACHE_BY_DAY = Statement("""
    SELECT day, agent_name, hits, misses, sets, evictions, expirations, invalidations, hit_rate
    FROM {cache_usage_by_day} WHERE namespace = :namespace AND day >= :since AND day < :until
    ORDER BY day, agent_name IS NOT NULL, agent_name""")

_STORAGE = Statement("""
    SELECT table_name, user_id, row_count, bytes FROM {storage_usage}
    WHERE namespace = :namespace
    ORDER BY table_name, user_id IS NOT NULL, user_id""")

# The view does the same by the database's clock; here the store's decides.
_BACKLOG = Statement("""
    SELECT 'expired_sessions', count(*), min(s.expires_at), {now} FROM {sessions} AS s
    WHERE s.namespace = :namespace AND s.expires_at <= {now}
    UNION ALL
    SELECT 'idle_sessions', count(*), min(s.last_activity_at), {now} FROM {sessions} AS s
    WHERE s.namespace = :namespace AND s.active_hour <= :idle_since AND s.last_activity_at <= :idle_since AND {live}
    UNION ALL
    SELECT 'expired_state', count(*), min(e.expires_at), {now} FROM {state_entries} AS e
    WHERE e.namespace = :namespace AND e.expires_at <= {now}
    UNION ALL
    SELECT 'expired_cache', count(*), min(c.keep_until), {now} FROM {cache_entries} AS c
    WHERE c.namespace = :namespace AND c.keep_until <= {now}""")

_MAX_IDLE = Statement("""
    SELECT {now}, (SELECT value FROM {store_settings} WHERE namespace = :namespace AND name = 'max_idle')""")

_LINEAGE = Statement("""
    SELECT session_id, user_id, parent_session_id, root_session_id, forked_at_seq, depth, forks, entries, own_entries,
        created_at
    FROM {session_lineage} WHERE namespace = :namespace ORDER BY created_at, session_id""")
_LINEAGE_OF_ROOT = Statement("""
    SELECT session_id, user_id, parent_session_id, root_session_id, forked_at_seq, depth, forks, entries, own_entries,
        created_at
    FROM {session_lineage} WHERE namespace = :namespace AND root_session_id = :root ORDER BY created_at, session_id""")


@lru_cache(maxsize=256)
def _statement(
    keys: tuple[str, ...], filters: tuple[str, ...], changes: int, order: str, ends: bool, limited: bool
) -> Statement:
    """The measures of `usage_lines` for each of *keys*, which are columns of it or parts of the local time."""
    where = " AND ".join(
        ["namespace = :namespace", "at >= :since", "at < :until", *(f"{name} = :{name}" for name in filters)]
    )
    computed = [*keys, "local_day"] if ends else keys
    selected = "".join(f"{key}, " for key in keys)
    if ends:
        selected += "min(local_day) AS first_day, max(local_day) AS last_day, "
    grouped = f"GROUP BY {', '.join(keys)}" if keys else ""
    partition = f"PARTITION BY {', '.join(keys)}" if keys else ""
    tail = f"SELECT * FROM measured{f' ORDER BY {order}' if order else ''}{' LIMIT :limit' if limited else ''}"
    postgresql, sqlite = _local_time(changes)
    days_postgresql = _parts(computed, local_day=f"CAST({postgresql} AS date)",
        weekday=f"CAST(extract(isodow FROM {postgresql}) AS integer) - 1",
        hour=f"CAST(extract(hour FROM {postgresql}) AS integer)")  # fmt: skip
    days_sqlite = _parts(computed, local_day=f"date({sqlite})",
        weekday=f"(strftime('%w', {sqlite}) + 6) % 7",
        hour=f"CAST(strftime('%H', {sqlite}) AS INTEGER)")  # fmt: skip
    return Statement(
        postgresql=f"""
    WITH lines AS (SELECT *{days_postgresql} FROM {{usage_lines}} WHERE {where}),
    measured AS (SELECT {selected}{_MEASURED_POSTGRESQL} FROM lines {grouped})
    {tail}""",
        sqlite=f"""
    WITH lines AS (SELECT *{days_sqlite} FROM {{usage_lines}} WHERE {where}),
    placed AS (SELECT *, count(latency_ms) OVER ({partition}) AS timed,
        row_number() OVER ({partition} ORDER BY latency_ms IS NULL, latency_ms) AS place FROM lines),
    measured AS (SELECT {selected}{_MEASURED_SQLITE} FROM placed {grouped})
    {tail}""",
    )


def _parts(keys: Sequence[str], **expressions: str) -> str:
    return "".join(f", {expressions[key]} AS {key}" for key in keys if key in expressions)


def _local_time(changes: int) -> tuple[str, str]:
    """The time of a line on the clocks of the time zone, for PostgreSQL and for SQLite."""
    cases = " ".join(f"WHEN at < {{change:{index}}} THEN {{offset:{index}}}" for index in range(changes))
    offset = f"CASE {cases} ELSE {{offset:{changes}}} END" if changes else "{offset:0}"
    postgresql = re.sub(r"\{change:(\d+)\}", r"CAST(:change_\1 AS timestamptz)", offset)
    postgresql = re.sub(r"\{offset:(\d+)\}", r"CAST(:offset_\1 AS interval)", postgresql)
    sqlite = re.sub(r"\{(\w+):(\d+)\}", r":\1_\2", offset)
    # SQLite rounds fractions of a second, the last of a day into the next.
    return f"((at + {postgresql}) AT TIME ZONE 'UTC')", f"substr(at, 1, 19), {sqlite}"


class UsageRepository(Repository):
    """What was used, by whom and for what, deleted entries included. Nothing here extends a TTL.

    All reports take the same arguments:

        since, until: From `since` up to, and without, `until`: aware datetimes, cut to a quarter of an hour, or dates,
            which begin at midnight of the time zone. None for no limit.
        tz: The time zone whose days are meant: a name such as `Europe/Berlin`, or a tzinfo.
        user_id, agent_name, provider_name, model, tool_name, session_id: Only what is of these.
        limit: Only so many rows, those with the highest cost first.
        daily: A row for each day instead of one for the whole period.
    """

    @reads
    def totals(
        self,
        *,
        since: Moment = None,
        until: Moment = None,
        tz: str | tzinfo = "UTC",
        user_id: str | None = None,
        agent_name: str | None = None,
        provider_name: str | None = None,
        model: str | None = None,
        tool_name: str | None = None,
        session_id: str | None = None,
    ) -> UsageTotals:
        """Everything together."""
        filters = _filters(user_id, agent_name, provider_name, model, tool_name, session_id)
        return self._report(UsageTotals, (), Period.of(since, until, tz), filters)[0]

    @reads
    def by_day(
        self,
        *,
        since: Moment = None,
        until: Moment = None,
        tz: str | tzinfo = "UTC",
        user_id: str | None = None,
        agent_name: str | None = None,
        provider_name: str | None = None,
        model: str | None = None,
        tool_name: str | None = None,
        session_id: str | None = None,
    ) -> list[DayUsage]:
        """A row for each day on which something was used, the earliest first."""
        filters = _filters(user_id, agent_name, provider_name, model, tool_name, session_id)
        period = Period.of(since, until, tz)
        return self._report(DayUsage, ("local_day",), period, filters)

    @reads
    def by_session(
        self,
        *,
        since: Moment = None,
        until: Moment = None,
        tz: str | tzinfo = "UTC",
        user_id: str | None = None,
        agent_name: str | None = None,
        provider_name: str | None = None,
        model: str | None = None,
        tool_name: str | None = None,
        session_id: str | None = None,
        limit: int | None = None,
    ) -> list[SessionUsage]:
        """A row for each session and the user it belonged to, deleted sessions included, the most expensive first."""
        filters = _filters(user_id, agent_name, provider_name, model, tool_name, session_id)
        period = Period.of(since, until, tz)
        return self._report(SessionUsage, ("session_id", "user_id"), period, filters, limit=limit, ends=True)

    @reads
    def by_user(
        self,
        *,
        since: Moment = None,
        until: Moment = None,
        tz: str | tzinfo = "UTC",
        user_id: str | None = None,
        agent_name: str | None = None,
        provider_name: str | None = None,
        model: str | None = None,
        tool_name: str | None = None,
        session_id: str | None = None,
        daily: bool = False,
        limit: int | None = None,
    ) -> list[UserUsage]:
        """A row for each user, the most expensive first."""
        filters = _filters(user_id, agent_name, provider_name, model, tool_name, session_id)
        period = Period.of(since, until, tz)
        keys = ("user_id",)
        if daily:
            return self._report(UserUsage, ("local_day", *keys), period, filters, limit=limit)
        return self._report(UserUsage, keys, period, filters, limit=limit)

    @reads
    def by_agent(
        self,
        *,
        since: Moment = None,
        until: Moment = None,
        tz: str | tzinfo = "UTC",
        user_id: str | None = None,
        agent_name: str | None = None,
        provider_name: str | None = None,
        model: str | None = None,
        tool_name: str | None = None,
        session_id: str | None = None,
        daily: bool = False,
        limit: int | None = None,
    ) -> list[AgentUsage]:
        """A row for each agent, the most expensive first."""
        filters = _filters(user_id, agent_name, provider_name, model, tool_name, session_id)
        period = Period.of(since, until, tz)
        keys = ("agent_name",)
        if daily:
            return self._report(AgentUsage, ("local_day", *keys), period, filters, limit=limit)
        return self._report(AgentUsage, keys, period, filters, limit=limit)

    @reads
    def by_model(
        self,
        *,
        since: Moment = None,
        until: Moment = None,
        tz: str | tzinfo = "UTC",
        user_id: str | None = None,
        agent_name: str | None = None,
        provider_name: str | None = None,
        model: str | None = None,
        tool_name: str | None = None,
        session_id: str | None = None,
        daily: bool = False,
        limit: int | None = None,
    ) -> list[ModelUsage]:
        """A row for each provider and model, the most expensive first."""
        filters = _filters(user_id, agent_name, provider_name, model, tool_name, session_id)
        period = Period.of(since, until, tz)
        keys = ("provider_name", "model")
        if daily:
            return self._report(ModelUsage, ("local_day", *keys), period, filters, limit=limit)
        return self._report(ModelUsage, keys, period, filters, limit=limit)

    @reads
    def by_tool(
        self,
        *,
        since: Moment = None,
        until: Moment = None,
        tz: str | tzinfo = "UTC",
        user_id: str | None = None,
        agent_name: str | None = None,
        provider_name: str | None = None,
        model: str | None = None,
        tool_name: str | None = None,
        session_id: str | None = None,
        daily: bool = False,
        limit: int | None = None,
    ) -> list[ToolUsage]:
        """A row for each tool, the most expensive first, then the one most used."""
        filters = _filters(user_id, agent_name, provider_name, model, tool_name, session_id)
        period = Period.of(since, until, tz)
        keys = ("tool_name",)
        if daily:
            return self._report(ToolUsage, ("local_day", *keys), period, filters, limit=limit)
        return self._report(ToolUsage, keys, period, filters, limit=limit)

    @reads
    def by_hour(
        self,
        *,
        since: Moment = None,
        until: Moment = None,
        tz: str | tzinfo = "UTC",
        user_id: str | None = None,
        agent_name: str | None = None,
        provider_name: str | None = None,
        model: str | None = None,
        tool_name: str | None = None,
        session_id: str | None = None,
    ) -> list[HourUsage]:
        """A row for each hour of the week in which something was used, on the clocks of the time zone."""
        filters = _filters(user_id, agent_name, provider_name, model, tool_name, session_id)
        period = Period.of(since, until, tz)
        return self._report(HourUsage, ("weekday", "hour"), period, filters)

    @reads
    def cache_by_day(
        self, *, since: Moment = None, until: Moment = None, agent_name: str | None = None
    ) -> list[CacheDayUsage]:
        """What happened in the result cache, by UTC day and agent. Times are cut to their day."""
        period = Period.of(since, until, "UTC")
        checks.optional_key(agent_name, "agent_name")
        rows = self._link.all(_CACHE_BY_DAY, since=self._day(period.since), until=self._day(period.until, up=True))
        return [
            CacheDayUsage(
                day=_date(row[0]), agent_name=row[1], hits=row[2], misses=row[3], sets=row[4], evictions=row[5],
                expirations=row[6], invalidations=row[7], hit_rate=row[8],
            )
            for row in rows
            if agent_name is None or row[1] == agent_name
        ]  # fmt: skip

    @reads
    def storage(self) -> list[StorageUsage]:
        """What is stored, by table and user."""
        rows = self._link.all(_STORAGE)
        return [StorageUsage(table_name=row[0], user_id=row[1], row_count=row[2], bytes=row[3]) for row in rows]

    @reads
    def expiry_backlog(self) -> list[ExpiryBacklog]:
        """What is due to be deleted and was not swept yet; nothing, where all was."""
        head = self._link.one(_MAX_IDLE)
        assert head is not None
        now = self._link.dialect.time(head[0])
        max_idle = None if head[1] is None else timedelta(microseconds=head[1])
        idle_since = EARLIEST if max_idle is None else max(EARLIEST, now - max_idle)
        backlog = []
        for kind, due, oldest, at in self._link.all(_BACKLOG, idle_since=idle_since):
            if due:
                since = self._link.dialect.time(oldest) + (max_idle or timedelta(0)) * (kind == "idle_sessions")
                overdue = self._link.dialect.time(at) - since
                backlog.append(ExpiryBacklog(kind=kind, due=due, oldest_due_at=since, overdue=overdue))
        return backlog

    @reads
    def lineage(self, *, root_session_id: str | None = None) -> list[SessionDescent]:
        """Where living sessions come from, the oldest first; only those that come from one, if it is given."""
        root = checks.optional_key(root_session_id, "root_session_id")
        rows = self._link.all(_LINEAGE) if root is None else self._link.all(_LINEAGE_OF_ROOT, root=root)
        names = ("session_id", "user_id", "parent_session_id", "root_session_id", "forked_at_seq", "depth", "forks",
            "entries", "own_entries")  # fmt: skip
        return [
            SessionDescent(**dict(zip(names, row[:-1], strict=True)), created_at=self._link.dialect.time(row[-1]))
            for row in rows
        ]

    def _report(
        self,
        kind: type[T],
        keys: tuple[str, ...],
        period: Period,
        filters: dict[str, str],
        *,
        limit: int | None = None,
        ends: bool = False,
    ) -> list[T]:
        checks.optional_count(limit, "limit")
        if period.zone is not UTC and ("local_day" in keys or "hour" in keys or ends):
            period = period.within(*self._span())
        first, changes = period.offsets()
        params: Params = {"since": period.since, "until": period.until, "limit": limit, **filters}
        offsets = [first, *(offset for _, offset in changes)]
        if "local_day" in keys or "hour" in keys or ends:
            params |= {f"offset_{index}": self._offset(offset) for index, offset in enumerate(offsets)}
            params |= {f"change_{index}": moment for index, (moment, _) in enumerate(changes)}
        time_first = [key for key in keys if key in ("local_day", "weekday", "hour")]
        names = [key for key in keys if key not in time_first]
        order = ", ".join([*time_first, *([_HEAVIEST] if names else []), *(_nulls_first(name) for name in names)])
        statement = _statement(keys, tuple(filters), len(changes), order, ends, limit is not None)
        rows = self._link.all(statement, **params)
        return [self._row(kind, [*keys, *(("first_day", "last_day") if ends else ())], row) for row in rows]

    def _row(self, kind: type[T], keys: list[str], row: Row) -> T:
        found: dict[str, Any] = dict(zip([*keys, *_MEASURES], row, strict=True))
        for name in ("local_day", "first_day", "last_day"):
            if name in found:
                found[name] = _date(found[name])
        day = found.pop("local_day", None)
        if "day" in kind.__dataclass_fields__:
            found["day"] = day
        whole, fraction = found.pop("cost"), found.pop("cost_fraction")
        found["cost_usd"] = None if whole is None else (Decimal(whole) + Decimal(fraction) / 10**10).quantize(_CENTS)
        found["duration"] = timedelta(milliseconds=found.pop("duration_ms"))
        for name in ("latency_p50", "latency_p95"):
            found[name] = None if found[name] is None else timedelta(milliseconds=found[name])
        return kind(**found)

    def _span(self) -> tuple[datetime | None, datetime | None]:
        """The first and the last time of which there is something."""
        row = self._link.one(_SPAN) or (None,) * 4
        times = [self._link.dialect.time(value) for value in row]
        firsts, lasts = [t for t in times[:2] if t], [t for t in times[2:] if t]
        return (min(firsts), max(lasts)) if firsts else (None, None)

    def _offset(self, offset: timedelta) -> Any:
        return f"{offset.total_seconds():+.0f} seconds" if self._link.dialect.name == "sqlite" else offset

    def _day(self, moment: datetime, *, up: bool = False) -> Any:
        day = moment.date()
        if up and moment.time() != moment.min.time():
            day += timedelta(days=1)
        return day.isoformat() if self._link.dialect.name == "sqlite" else day


_CENTS = Decimal("1e-10")


def _date(value: Any) -> Any:
    return date.fromisoformat(value) if isinstance(value, str) else value


def _nulls_first(name: str) -> str:
    """The same place for NULL on both databases."""
    return f"{name} IS NOT NULL, {name}"


def _filters(
    user_id: str | None,
    agent_name: str | None,
    provider_name: str | None,
    model: str | None,
    tool_name: str | None,
    session_id: str | None,
) -> dict[str, str]:
    given = zip(_FILTERS, (user_id, agent_name, provider_name, model, tool_name, session_id), strict=True)
    return {name: checks.key(value, name) for name, value in given if value is not None}
