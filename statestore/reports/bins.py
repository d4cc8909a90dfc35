"""The time axis of the charts: hours, days, weeks, months or years, by the length of the period."""

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from typing import Literal

Unit = Literal["hour", "day", "week", "month", "year"]

# More bars than these would be too thin to point at.
_HOURS = 4
_DAYS = 92
_WEEKS = 7 * 106
_MONTHS = 31 * 120
_MOST_YEARS = 120
_FIRST, _LAST = date(1, 1, 3), date(9999, 12, 28)


class Bins:
    """Bars that follow one another. Days, weeks, months and years are those of the time zone's calendar.

    Attributes:
        unit: What a bar is; of a very long period, several years.
        starts: When each begins.
        end: When the last one ends.
    """

    def __init__(self, first: date, last: date, tz: tzinfo, *, since: datetime | None = None) -> None:
        """From *first* up to *last*, or from the hour of *since* if bars are hours."""
        first, last = max(min(first, _LAST), _FIRST), max(min(last, _LAST), _FIRST)
        days = (last - first).days + 1
        self.unit: Unit = (
            "hour"
            if days <= _HOURS
            else "day"
            if days <= _DAYS
            else "week"
            if days <= _WEEKS
            else "month"
            if days <= _MONTHS
            else "year"
        )
        self._tz = tz
        self._span = (first, last)
        self.end = _midnight(last + timedelta(days=1), tz)
        self.starts = (
            list(self._hours(max(_midnight(first, tz), since) if since else _midnight(first, tz)))
            if self.unit == "hour"
            else [_midnight(day, tz) for day in self._days()]
        )
        self._dates = [start.astimezone(tz).date() for start in self.starts]

    def _hours(self, moment: datetime) -> Iterator[datetime]:
        """Each hour that is there: one fewer, or one more, on the days on which the clocks change."""
        moment = moment.replace(second=0, microsecond=0)
        moment -= timedelta(minutes=moment.astimezone(self._tz).minute)
        while moment < self.end:
            yield moment
            moment += timedelta(hours=1)

    def _days(self) -> Iterator[date]:
        """The first day of each bar; the period's own first day begins the first."""
        first, last = self._span
        years = -(-(last.year - first.year + 1) // _MOST_YEARS)
        day = first
        while day <= last:
            yield day
            if self.unit == "day":
                day += timedelta(days=1)
            elif self.unit == "week":
                day += timedelta(days=7 - day.weekday())
            elif self.unit == "month":
                day = date(day.year + day.month // 12, day.month % 12 + 1, 1)
            elif day.year + years > last.year:
                return
            else:
                day = date(day.year + years, 1, 1)

    @property
    def count(self) -> int:
        return len(self.starts)

    @property
    def boundaries(self) -> list[datetime]:
        """The times between the bars."""
        return self.starts[1:]

    def of_day(self, day: date) -> int | None:
        """The bar that a day belongs to."""
        first, last = self._span
        return bisect_right(self._dates, day) - 1 if first <= day <= last else None

    def sums(self, points: Iterable[tuple[int | None, float]]) -> list[float]:
        sums = [0.0] * self.count
        for index, value in points:
            if index is not None:
                sums[index] += value
        return sums

    def label(self, index: int) -> str:
        """For the axis."""
        start = self.starts[index].astimezone(self._tz)
        first, last = self._span
        if self.unit == "hour":
            return f"{start:%H}:00" if first == last else f"{start:%a %H}:00"
        if self.unit == "day" or (self.unit == "week" and first.year == last.year):
            return f"{start:%b} {start.day}"
        return f"{start.year}" if self.unit == "year" else f"{start:%b} {start.year}"

    def title(self, index: int) -> str:
        """What the bar is, in full."""
        start = self.starts[index].astimezone(self._tz)
        if self.unit == "hour":
            return f"{start:%Y-%m-%d %H:%M}"
        after = self._dates[index + 1] if index + 1 < self.count else self._span[1] + timedelta(days=1)
        return span_text(self._dates[index], after - timedelta(days=1))


def span_text(first: date, last: date) -> str:
    return f"{first}" if first == last else f"{first} to {last}"


def _midnight(day: date, tz: tzinfo) -> datetime:
    return datetime.combine(day, time(), tz).astimezone(UTC)
