"""The data of the page, as the store returns it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from typing import Any, TypeGuard

from statestore.operations.usage import UsageReports
from statestore.reports.bins import Bins
from statestore.reports.queries import Label, Latency, PageQueries, Spent
from statestore.repositories.usage.periods import EARLIEST, Moment, Period, zone
from statestore.store import StateStore, Transaction
from statestore.values.usage import (
    AgentUsage,
    CacheDayUsage,
    DayUsage,
    ExpiryBacklog,
    HourUsage,
    ModelUsage,
    SessionUsage,
    StorageUsage,
    ToolUsage,
    UsageTotals,
    UserUsage,
)

_TOP = 10
_SECOND_DAY = date(1, 1, 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Collected:
    """All reports of a period. `before` is the period before it, as long as this one has lasted so far.

    `spent` and `latencies` are by the bars of `bins`; `all_latencies` are those of the whole period, by kind.
    """

    namespace: str
    made_at: datetime
    tz: str
    user_id: str | None
    first: date
    last: date
    bins: Bins
    totals: UsageTotals
    before: UsageTotals | None
    users: int
    users_before: int | None
    by_day: Sequence[DayUsage]
    spent: Sequence[Spent]
    latencies: Mapping[tuple[int, str], Latency]
    all_latencies: Mapping[str, Latency]
    tool_latencies: Mapping[str | None, Latency]
    by_model: Sequence[ModelUsage]
    by_hour: Sequence[HourUsage]
    sessions: Sequence[SessionUsage]
    labels: Mapping[str, Label]
    by_user: Sequence[UserUsage]
    by_agent: Sequence[AgentUsage]
    by_tool: Sequence[ToolUsage]
    cache: Sequence[CacheDayUsage]
    storage: Sequence[StorageUsage]
    backlog: Sequence[ExpiryBacklog]


def collect(
    store: StateStore,
    *,
    since: Moment = None,
    until: Moment = None,
    tz: Any = "UTC",
    user_id: str | None = None,
) -> Collected:
    """Run all reports of a period, as of one moment; by default the period is the one that has usage.

    With *user_id* they are of this user alone, and what is nobody's own is left out.
    """
    with store.transaction(read_only=True) as tx:
        return collect_in(tx, store.namespace, since=since, until=until, tz=tz, user_id=user_id)


def collect_in(
    tx: Transaction,
    namespace: str,
    *,
    since: Moment = None,
    until: Moment = None,
    tz: Any = "UTC",
    user_id: str | None = None,
) -> Collected:
    """As `collect`, in a transaction that has begun."""
    found = zone(tz)
    now = time_now()
    usage = tx.usage
    queries = PageQueries.of(tx)
    period: dict[str, Any] = {"since": since, "until": until, "tz": tz, "user_id": user_id}
    by_day = usage.by_day(**period)
    today = now.astimezone(found).date()
    first = _day(since, found) or (by_day[0].day if by_day else today)
    last = _last_day(until, found) or _last_used(by_day, today, open_end=since is None)
    first = min(first, last)
    before = _before(since, until, now, found, tz)
    bins = Bins(first, last, found, since=_start(since, found))
    exact = Period.of(since, until, tz)
    by_model = usage.by_model(**period)
    by_user = usage.by_user(**period)
    sessions = usage.by_session(**period, limit=_TOP)
    return Collected(
        namespace=namespace,
        made_at=now.astimezone(found),
        tz=str(tz),
        user_id=user_id,
        first=first,
        last=last,
        bins=bins,
        totals=usage.totals(**period),
        before=None if before is None else usage.totals(**before, user_id=user_id),
        users=_users(by_user),
        users_before=None if before is None else _users(usage.by_user(**before, user_id=user_id)),
        by_day=by_day,
        spent=_spent(usage, queries, exact, period, bins),
        latencies=queries.latencies(exact.since, exact.until, bins.boundaries, user_id),
        all_latencies={
            kind: latency for (_, kind), latency in queries.latencies(exact.since, exact.until, (), user_id).items()
        },
        tool_latencies=queries.tool_latencies(exact.since, exact.until, user_id),
        by_model=by_model,
        by_hour=usage.by_hour(**period),
        sessions=sessions,
        labels=queries.labels([row.session_id for row in sessions if row.session_id is not None]),
        by_user=by_user[:_TOP],
        by_agent=usage.by_agent(**period, limit=_TOP),
        by_tool=usage.by_tool(**period),
        cache=usage.cache_by_day(since=since, until=until) if user_id is None else (),
        storage=usage.storage() if user_id is None else (),
        backlog=usage.expiry_backlog() if user_id is None else (),
    )


def _spent(
    usage: UsageReports, queries: PageQueries, exact: Period, period: dict[str, Any], bins: Bins
) -> Sequence[Spent]:
    """Tokens and cost by bar and model: of longer periods from the report by day, which is cheap at any length."""
    if bins.unit == "hour":
        return queries.sums(exact.since, exact.until, bins.boundaries, period["user_id"])
    return [
        Spent(
            bar,
            row.model,
            row.input_tokens,
            row.output_tokens,
            row.cache_read_input_tokens,
            None if row.cost_usd is None else float(row.cost_usd),
        )
        for row in usage.by_model(**period, daily=True)
        if row.day is not None and (bar := bins.of_day(row.day)) is not None
    ]


def _last_used(by_day: Sequence[DayUsage], today: date, *, open_end: bool) -> date:
    """Where a period without an end ends: today, or with the last usage if it has no beginning either."""
    if not by_day:
        return today
    return by_day[-1].day if open_end else max(today, by_day[-1].day)


def _start(since: Moment, tz: tzinfo) -> datetime | None:
    return None if since is None or _is_day(since) else _instant(since, tz)


def time_now() -> datetime:
    return datetime.now(UTC)


def _before(since: Moment, until: Moment, now: datetime, found: tzinfo, tz: Any) -> dict[str, Any] | None:
    """The period before, with the same length: in days if it is whole days; if it is not over yet, its length so far.

    None if the period has no beginning, has not begun yet, or leaves no room before it.
    """
    if since is None:
        return None
    try:
        if _is_day(since) and _is_day(until) and _instant(until, found) <= now:
            earlier: Moment = since - (until - since)
        else:
            start, end = _instant(since, found), min(now, now if until is None else _instant(until, found))
            if start >= end:
                return None
            earlier = start - (end - start)
    except OverflowError:
        return None
    return {"since": earlier, "until": since, "tz": tz}


def _is_day(moment: Moment) -> TypeGuard[date]:
    return moment is not None and not isinstance(moment, datetime)


def _instant(moment: datetime | date, tz: tzinfo) -> datetime:
    at = moment if isinstance(moment, datetime) else datetime.combine(moment, time(), tz)
    return at.astimezone(UTC)


def _users(rows: Sequence[UserUsage]) -> int:
    return sum(row.user_id is not None for row in rows)


def _day(moment: Moment, tz: tzinfo) -> date | None:
    if not isinstance(moment, datetime):
        return moment
    try:
        return moment.astimezone(tz).date()
    except OverflowError:  # The first or the last day of the calendar.
        return moment.date()


def _last_day(until: Moment, tz: tzinfo) -> date | None:
    if isinstance(until, datetime):
        return _day(max(until, EARLIEST) - timedelta(microseconds=1), tz)
    return None if until is None else max(until, _SECOND_DAY) - timedelta(days=1)
