"""The data of the page, as the store returns it."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from typing import Any, TypeGuard

from statestore.repositories.usage.periods import EARLIEST, Moment, zone
from statestore.store import StateStore
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
    """All reports of a period. `before` is the period before it, as long as this one has lasted so far."""

    namespace: str
    made_at: datetime
    tz: str
    first: date
    last: date
    totals: UsageTotals
    before: UsageTotals | None
    users: int
    users_before: int | None
    by_day: Sequence[DayUsage]
    by_model_and_day: Sequence[ModelUsage]
    by_model: Sequence[ModelUsage]
    by_hour: Sequence[HourUsage]
    sessions: Sequence[SessionUsage]
    by_user: Sequence[UserUsage]
    by_agent: Sequence[AgentUsage]
    by_tool: Sequence[ToolUsage]
    cache: Sequence[CacheDayUsage]
    storage: Sequence[StorageUsage]
    backlog: Sequence[ExpiryBacklog]


def collect(store: StateStore, *, since: Moment = None, until: Moment = None, tz: Any = "UTC") -> Collected:
    """Run all reports of a period; by default it begins with the first day that has usage."""
    found = zone(tz)
    now = time_now()
    usage = store.usage
    period: dict[str, Any] = {"since": since, "until": until, "tz": tz}
    by_day = usage.by_day(**period)
    first = _day(since, found) or (by_day[0].day if by_day else now.astimezone(found).date())
    last = _last_day(until, found) or max(now.astimezone(found).date(), by_day[-1].day if by_day else first)
    first = min(first, last)
    before = _before(since, until, now, found, tz)
    return Collected(
        namespace=store.namespace,
        made_at=now.astimezone(found),
        tz=str(tz),
        first=first,
        last=last,
        totals=usage.totals(**period),
        before=None if before is None else usage.totals(**before),
        users=_users(usage.by_user(**period)),
        users_before=None if before is None else _users(usage.by_user(**before)),
        by_day=by_day,
        by_model_and_day=usage.by_model(**period, daily=True),
        by_model=usage.by_model(**period),
        by_hour=usage.by_hour(**period),
        sessions=usage.by_session(**period, limit=_TOP),
        by_user=usage.by_user(**period, limit=_TOP),
        by_agent=usage.by_agent(**period, limit=_TOP),
        by_tool=usage.by_tool(**period),
        cache=usage.cache_by_day(since=since, until=until),
        storage=usage.storage(),
        backlog=usage.expiry_backlog(),
    )


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
