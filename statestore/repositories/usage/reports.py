"""What was used and what it cost: the report views, for a period, filtered, and by the days of any time zone."""

from collections.abc import Iterable
from datetime import UTC, datetime, time, timedelta, tzinfo
from decimal import Decimal
from typing import Any, TypeAlias, TypeVar

from statestore import schema
from statestore.checking import checks
from statestore.checking.namespaces import chosen
from statestore.engine.calls import reads
from statestore.engine.sql import Params
from statestore.engine.sql_parts import in_namespaces
from statestore.errors import InvalidValueError
from statestore.repositories.base import Repository
from statestore.repositories.usage import latencies, report_sql, rolled
from statestore.repositories.usage.periods import Moment, Period
from statestore.values.usage import (
    AgentUsage,
    CacheDayUsage,
    DayUsage,
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
Namespaces: TypeAlias = str | Iterable[str] | None

_FILTERS = ("user_id", "agent_name", "provider_name", "model", "tool_name", "session_id")


class UsageRepository(Repository):
    """What was used, by whom and for what, deleted entries and recorded calls included. Nothing here extends a TTL.

    All reports take the same arguments:

        since, until: From `since` up to but not including `until`: aware datetimes, truncated to a quarter of an hour,
            or dates, which begin at midnight of the time zone. None for no limit.
        tz: The time zone that defines days: a name such as `Europe/Berlin`, or a tzinfo.
        user_id, agent_name, provider_name, model, tool_name, session_id: Only the usage of these.
        include_parts: Also the usage of what belongs to the session `session_id`. Parts that were deleted by themselves
            are no longer known as such.
        namespaces: That of these namespaces together instead of the store's own: a name, a prefix such as `acme/*`, or
            a list of these; see `sessions.page`.
        limit: The largest number of rows, highest cost first.
        daily: One row per day instead of one for the whole period.
    """

    may_lag = True

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
        namespaces: Namespaces = None,
        include_parts: bool = False,
    ) -> UsageTotals:
        """Everything together."""
        filters = _filters(user_id, agent_name, provider_name, model, tool_name, session_id, include_parts)
        return self._report(UsageTotals, (), Period.of(since, until, tz), filters, namespaces=namespaces)[0]

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
        namespaces: Namespaces = None,
    ) -> list[DayUsage]:
        """A row for each day on which something was used, the earliest first."""
        filters = _filters(user_id, agent_name, provider_name, model, tool_name, session_id)
        period = Period.of(since, until, tz)
        return self._report(DayUsage, ("local_day",), period, filters, namespaces=namespaces)

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
        namespaces: Namespaces = None,
        include_parts: bool = False,
        limit: int | None = None,
    ) -> list[SessionUsage]:
        """A row for each session and the user it belonged to, deleted sessions included, the most expensive first.

        Recorded calls of no session are a row whose `session_id` is None.
        """
        filters = _filters(user_id, agent_name, provider_name, model, tool_name, session_id, include_parts)
        period = Period.of(since, until, tz)
        return self._report(
            SessionUsage, ("session_id", "user_id"), period, filters, limit=limit, ends=True, namespaces=namespaces
        )

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
        namespaces: Namespaces = None,
        daily: bool = False,
        limit: int | None = None,
    ) -> list[UserUsage]:
        """A row for each user, the most expensive first."""
        filters = _filters(user_id, agent_name, provider_name, model, tool_name, session_id)
        period = Period.of(since, until, tz)
        keys = ("user_id",)
        if checks.flag(daily, "daily"):
            return self._report(UserUsage, ("local_day", *keys), period, filters, limit=limit, namespaces=namespaces)
        return self._report(UserUsage, keys, period, filters, limit=limit, namespaces=namespaces)

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
        namespaces: Namespaces = None,
        daily: bool = False,
        limit: int | None = None,
    ) -> list[AgentUsage]:
        """A row for each agent, the most expensive first."""
        filters = _filters(user_id, agent_name, provider_name, model, tool_name, session_id)
        period = Period.of(since, until, tz)
        keys = ("agent_name",)
        if checks.flag(daily, "daily"):
            return self._report(AgentUsage, ("local_day", *keys), period, filters, limit=limit, namespaces=namespaces)
        return self._report(AgentUsage, keys, period, filters, limit=limit, namespaces=namespaces)

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
        namespaces: Namespaces = None,
        daily: bool = False,
        limit: int | None = None,
    ) -> list[ModelUsage]:
        """A row for each provider and model, the most expensive first."""
        filters = _filters(user_id, agent_name, provider_name, model, tool_name, session_id)
        period = Period.of(since, until, tz)
        keys = ("provider_name", "model")
        if checks.flag(daily, "daily"):
            return self._report(ModelUsage, ("local_day", *keys), period, filters, limit=limit, namespaces=namespaces)
        return self._report(ModelUsage, keys, period, filters, limit=limit, namespaces=namespaces)

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
        namespaces: Namespaces = None,
        daily: bool = False,
        limit: int | None = None,
    ) -> list[ToolUsage]:
        """A row for each tool, the most expensive first, then the most used."""
        filters = _filters(user_id, agent_name, provider_name, model, tool_name, session_id)
        period = Period.of(since, until, tz)
        keys = ("tool_name",)
        if checks.flag(daily, "daily"):
            return self._report(ToolUsage, ("local_day", *keys), period, filters, limit=limit, namespaces=namespaces)
        return self._report(ToolUsage, keys, period, filters, limit=limit, namespaces=namespaces)

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
        namespaces: Namespaces = None,
    ) -> list[HourUsage]:
        """A row for each hour of the week in which something was used, in local time of the time zone."""
        filters = _filters(user_id, agent_name, provider_name, model, tool_name, session_id)
        period = Period.of(since, until, tz)
        return self._report(HourUsage, ("weekday", "hour"), period, filters, namespaces=namespaces)

    @reads
    def cache_by_day(
        self,
        *,
        since: Moment = None,
        until: Moment = None,
        agent_name: str | None = None,
        namespaces: Namespaces = None,
    ) -> list[CacheDayUsage]:
        """What happened in the result cache, by UTC day and agent. Times are truncated to their day."""
        period = Period.of(since, until, "UTC")
        checks.optional_key(agent_name, "agent_name")
        within, named = in_namespaces(chosen(namespaces))
        days_of = {"since": self._day(period.since), "until": self._day(period.until, up=True)}
        rows = self._link.all(report_sql.cache_by_day(within), **days_of, **named)
        days = [CacheDayUsage(**report_sql.CACHE_DAY.named(self._link.dialect, row)) for row in rows]
        return [day for day in days if agent_name is None or day.agent_name == agent_name]

    @reads
    def storage(self, *, namespaces: Namespaces = None) -> list[StorageUsage]:
        """What is stored, by table and user."""
        within, named = in_namespaces(chosen(namespaces))
        rows = self._link.all(report_sql.storage(within), **named)
        return [StorageUsage(**report_sql.STORED.named(self._link.dialect, row)) for row in rows]

    @reads
    def lineage(self, *, root_session_id: str | None = None) -> list[SessionDescent]:
        """Where living sessions come from, the oldest first; with *root_session_id*, only those of that family."""
        root = checks.optional_key(root_session_id, "root_session_id")
        rows = (
            self._link.all(report_sql.LINEAGE)
            if root is None
            else self._link.all(report_sql.LINEAGE_OF_ROOT, root=root)
        )
        return [SessionDescent(**report_sql.DESCENT.named(self._link.dialect, row)) for row in rows]

    def _report(
        self,
        kind: type[T],
        keys: tuple[str, ...],
        period: Period,
        filters: dict[str, str],
        *,
        namespaces: Namespaces = None,
        limit: int | None = None,
        ends: bool = False,
    ) -> list[T]:
        checks.optional_count(limit, "limit")
        several = chosen(namespaces)
        within, named = in_namespaces(several)
        if several is not None and ends:
            keys = ("namespace", *keys)
        in_local_time = "local_day" in keys or "hour" in keys or ends
        if period.zone is not UTC and in_local_time:
            period = period.within(*self._span(within, named))
        params: Params = {"since": period.since, "until": period.until, "limit": limit, **filters, **named}
        # To look for changes of the clocks takes a while, and most reports have no use for them.
        first, changes = period.offsets() if in_local_time else (timedelta(0), [])
        if in_local_time:
            offsets = [first, *(offset for _, offset in changes)]
            params |= {f"offset_{index}": self._offset(offset) for index, offset in enumerate(offsets)}
            params |= {f"change_{index}": moment for index, (moment, _) in enumerate(changes)}
        time_first = [key for key in keys if key in ("local_day", "weekday", "hour")]
        names = [key for key in keys if key not in time_first]
        order = ", ".join(
            [*time_first, *([report_sql.HEAVIEST] if names else []), *(_nulls_first(name) for name in names)]
        )
        summed = _summed(keys, period, filters, ends)
        if several is not None and (summed in rolled.DAYS_BY or self._link.dialect.distributed):
            # Percentiles of the days of several do not add up, and a distributed database keeps no sums.
            summed = ""
        if summed in rolled.DAYS_BY:
            params |= {"from_day": str(period.since.date()), "to_day": str(period.until.date())}
        limited = limit is not None
        statement = report_sql.measured(keys, tuple(filters), len(changes), order, ends, limited, summed, within)
        rows = self._link.all(statement, **params)
        columns = report_sql.columns(keys, ends, summed)
        found = [columns.named(self._link.dialect, row) for row in rows]
        if several is None and ends:
            found = [row | {"namespace": self._link.settings.namespace} for row in found]
        return [_report_row(kind, row) for row in found]

    def _span(self, within: str, named: Params) -> tuple[datetime | None, datetime | None]:
        """The first and the last time of which there is something."""
        times = [self._link.dialect.time(value) for value in self._link.only(report_sql.span(within), **named)]
        firsts, lasts = [t for t in times[:3] if t], [t for t in times[3:] if t]
        return (min(firsts), max(lasts)) if firsts else (None, None)

    def _offset(self, offset: timedelta) -> Any:
        return f"{offset.total_seconds():+.0f} seconds" if self._link.dialect.name == "sqlite" else offset

    def _day(self, moment: datetime, *, up: bool = False) -> Any:
        day = moment.date()
        if up and moment.time() != moment.min.time():
            day += timedelta(days=1)
        return day.isoformat() if self._link.dialect.name == "sqlite" else day


_CENTS = Decimal("1e-10")


def _report_row(kind: type[T], found: dict[str, Any]) -> T:
    day = found.pop("local_day", None)
    if "day" in kind.__dataclass_fields__:
        found["day"] = day
    whole, fraction = found.pop("cost"), found.pop("cost_fraction")
    found["cost_usd"] = None if whole is None else (Decimal(whole) + Decimal(fraction) / 10**10).quantize(_CENTS)
    found["duration"] = timedelta(microseconds=int(found.pop("duration_us")))
    counts = [found.pop(name, None) for name in schema.LATENCY_COLUMNS]
    if any(counts):
        found |= {"latency_p50": latencies.percentile(counts, 0.5), "latency_p95": latencies.percentile(counts, 0.95)}
    for name in ("latency_p50", "latency_p95"):
        # What lies between two durations has at most five decimals; the rest is a float's.
        found[name] = None if found[name] is None else timedelta(milliseconds=round(found[name], 6))
    return kind(**found)


def _summed(keys: tuple[str, ...], period: Period, filters: Iterable[str], ends: bool) -> str:
    """Of which sums a report may be made, for `report_sql.measured`."""
    if period.zone is not UTC and (ends or "local_day" in keys):
        return ""  # Sums know days of UTC.
    if "weekday" in keys:
        return ""
    if "local_day" not in keys:
        by_use = {*keys, *filters} & {"provider_name", "model", "tool_name"}
        return ("use" if by_use else "session") if period.is_all else ""
    whole = period.since.time() == period.until.time() == time()
    [kind] = [kind for kind, by in rolled.DAYS_BY.items() if keys == ("local_day", *by)]
    return kind if whole and not tuple(filters) else ""


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
    include_parts: bool = False,
) -> dict[str, str]:
    given = zip(_FILTERS, (user_id, agent_name, provider_name, model, tool_name, session_id), strict=True)
    filters = {name: checks.key(value, name) for name, value in given if value is not None}
    if checks.flag(include_parts, "include_parts"):
        if session_id is None:
            raise InvalidValueError("include_parts", "needs session_id, the session whose parts are meant")
        filters[report_sql.WITH_PARTS] = filters.pop("session_id")
    return filters
