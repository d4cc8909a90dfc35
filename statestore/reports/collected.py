"""What the page shows, as it comes from the store."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, tzinfo
from typing import Any

from statestore.repositories.usage_periods import Moment, zone
from statestore.store import StateStore
from statestore.usage_values import (
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Collected:
    """All reports of a period. `before` is the period of the same length that ends where this one begins."""

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
    """Run all reports of a period; without *since* from the first day on which something was used."""
    found = zone(tz)
    now = datetime.now(UTC)
    usage = store.usage
    period: dict[str, Any] = {"since": since, "until": until, "tz": tz}
    by_day = usage.by_day(**period)
    first = _day(since, found) or (by_day[0].day if by_day else now.astimezone(found).date())
    last = _last_day(until, found) or max(now.astimezone(found).date(), by_day[-1].day if by_day else first)
    first = min(first, last)
    before = None if since is None else _before(first, last, since, until, now, tz)
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


def _before(first: date, last: date, since: Moment, until: Moment, now: datetime, tz: Any) -> dict[str, Any]:
    """As many days before the period, or as long a time where it is one of hours."""
    if isinstance(since, datetime):
        end = until if isinstance(until, datetime) else now
        return {"since": since - (end - since), "until": since, "tz": tz}
    days = last - first + timedelta(days=1)
    return {"since": first - days, "until": first, "tz": tz}


def _users(rows: Sequence[UserUsage]) -> int:
    return sum(row.user_id is not None for row in rows)


def _day(moment: Moment, tz: tzinfo) -> date | None:
    return moment.astimezone(tz).date() if isinstance(moment, datetime) else moment


def _last_day(until: Moment, tz: tzinfo) -> date | None:
    if isinstance(until, datetime):
        return (until - timedelta(microseconds=1)).astimezone(tz).date()
    return None if until is None else until - timedelta(days=1)
