"""Days of a time zone, for databases of which one knows no time zones.

A time zone is a list of moments at which its distance from UTC changes. Within a period there are few, two in a year at
most places, so they go into the statement as parameters, and both databases cut days in the same way.
"""

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from functools import lru_cache
from typing import Any, TypeAlias
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from statestore.errors import InvalidValueError

Moment: TypeAlias = datetime | date | None

QUARTER = timedelta(minutes=15)
EARLIEST = datetime(1, 1, 2, tzinfo=UTC)
LATEST = datetime(9999, 12, 30, tzinfo=UTC)


def zone(value: Any) -> tzinfo:
    """A time zone from its name or as an object."""
    if isinstance(value, tzinfo):
        return value
    if not isinstance(value, str):
        raise InvalidValueError("tz", f"must be the name of a time zone or a tzinfo, not {type(value).__name__}")
    if value.upper() == "UTC":
        return UTC
    try:
        return ZoneInfo(value)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise InvalidValueError(
            "tz", f"{value!r} is not a time zone known on this machine; names look like 'Europe/Berlin'"
        ) from None


@dataclass(frozen=True, slots=True)
class Period:
    """From `since` up to, and without, `until`: whole quarters of an hour, since the ledger knows no shorter times."""

    since: datetime
    until: datetime
    zone: tzinfo

    @classmethod
    def of(cls, since: Moment, until: Moment, tz: Any) -> "Period":
        """The period that a caller names. A date means the midnight at which it begins in the time zone."""
        found = zone(tz)
        return cls(_moment(since, "since", found) or EARLIEST, _moment(until, "until", found) or LATEST, found)

    def within(self, first: datetime | None, last: datetime | None) -> "Period":
        """As much of the period as there is something in; if there is nothing, none of it.

        To look for changes of the clocks in the thousands of years of a period without limits would take seconds.
        """
        if first is None or last is None:
            return Period(self.since, self.since, self.zone)
        return Period(max(self.since, quarter(first)), min(self.until, quarter(last) + QUARTER), self.zone)

    @property
    def is_all(self) -> bool:
        """Whether it has no limit."""
        return self.since == EARLIEST and self.until == LATEST

    def offsets(self) -> tuple[timedelta, list[tuple[datetime, timedelta]]]:
        """The distance from UTC at the beginning, and the moments at which it changes."""
        return _offsets(self.zone, self.since, self.until)


def _moment(value: Any, argument: str, tz: tzinfo) -> datetime | None:
    if value is None:
        return None
    if isinstance(value, date) and not isinstance(value, datetime):
        value = datetime.combine(value, time(), tz)
    if not isinstance(value, datetime) or value.tzinfo is None:
        raise InvalidValueError(argument, "must be an aware datetime or a date; add tzinfo")
    try:
        moment = value.astimezone(UTC)
    except OverflowError:
        raise InvalidValueError(argument, "is outside the years 1 to 9999 in UTC") from None
    return quarter(min(max(moment, EARLIEST), LATEST))


def quarter(moment: datetime) -> datetime:
    """The beginning of the quarter of an hour."""
    return moment.replace(minute=moment.minute // 15 * 15, second=0, microsecond=0)


@lru_cache(maxsize=64)
def _offsets(tz: tzinfo, since: datetime, until: datetime) -> tuple[timedelta, list[tuple[datetime, timedelta]]]:
    first = _offset(tz, since)
    changes: list[tuple[datetime, timedelta]] = []
    if tz is UTC:
        return first, changes
    # A day at a time, then the minute within it: no zone changes twice within a day.
    held, moment = first, since
    while moment < until:
        later = min(moment + timedelta(days=1), until)
        offset = _offset(tz, later)
        if offset != held:
            low, high = moment, later
            while high - low > timedelta(minutes=1):
                middle = low + (high - low) / 2
                middle = middle.replace(second=0, microsecond=0)
                low, high = (middle, high) if _offset(tz, middle) == held else (low, middle)
            changes.append((high, offset))
            held = offset
        moment = later
    return first, changes


def _offset(tz: tzinfo, moment: datetime) -> timedelta:
    return moment.astimezone(tz).utcoffset() or timedelta(0)
