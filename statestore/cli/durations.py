"""Durations and moments on the command line: `90s`, `7d`, `2026-01-31`."""

import re
from datetime import UTC, date, datetime, timedelta, tzinfo
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    _DurationType = click.ParamType[timedelta]
    _MomentType = click.ParamType[Any]
else:  # Before click 8.4 it is not generic.
    _DurationType = _MomentType = click.ParamType

_UNITS = {
    "ms": timedelta(milliseconds=1),
    "s": timedelta(seconds=1),
    "m": timedelta(minutes=1),
    "h": timedelta(hours=1),
    "d": timedelta(days=1),
    "w": timedelta(weeks=1),
}
_PARTS = re.compile(r"(\d+(?:\.\d+)?)(ms|[smhdw])")


def parse(text: str) -> timedelta:
    """A duration such as `90s`, `1.5h` or `1d12h`; ValueError for anything else, and for zero."""
    total, end = timedelta(0), 0
    for match in _PARTS.finditer(text):
        if match.start() != end:
            break
        total += float(match[1]) * _UNITS[match[2]]
        end = match.end()
    if end != len(text) or not total:
        raise ValueError("a duration is a number with a unit, such as 90s, 15m, 12h, 7d or 2w")
    return total


def text(duration: timedelta) -> str:
    """A duration as it can be given on the command line: `30d`, `1d12h`, `90s` as `1m30s`."""
    parts, rest = [], duration
    for name, unit in (("d", _UNITS["d"]), ("h", _UNITS["h"]), ("m", _UNITS["m"])):
        number, rest = divmod(rest, unit)
        parts.append(f"{number}{name}" if number else "")
    seconds = f"{rest.total_seconds():.6f}".rstrip("0").rstrip(".")
    parts.append(f"{seconds}s" if rest or duration < _UNITS["m"] else "")
    return "".join(parts)


class Duration(_DurationType):
    """An option that is a duration."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        if isinstance(value, timedelta):
            return value
        try:
            return parse(value)
        except (ValueError, OverflowError) as error:
            self.fail(str(error), param, ctx)


class Moment(_MomentType):
    """An option that is a date, a time, or how long ago; `moment` turns it into a point in time."""

    name = "moment"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return _moment(value) if isinstance(value, str) else value
        except (ValueError, OverflowError):
            self.fail(
                f"{value!r} is neither a date such as 2026-01-31, nor a time such as 2026-01-31T12:00:00Z, "
                "nor how long ago, such as 12h, 7d or 2w",
                param,
                ctx,
            )


def _moment(text: str) -> Any:
    if _PARTS.match(text):
        return text, parse(text)
    if len(text) == 10:
        return date.fromisoformat(text)
    return datetime.fromisoformat(text)


def moment(value: Any, tz: tzinfo, now: datetime | None = None) -> Any:
    """What a `Moment` means in a time zone. Days and weeks ago begin at midnight, so no day is split."""
    now = datetime.now(UTC) if now is None else now
    if isinstance(value, tuple):
        text, ago = value
        try:
            return now.astimezone(tz).date() - ago if text.endswith(("d", "w")) else now - ago
        except OverflowError:
            raise click.UsageError(
                f"{text} ago is before the year 1; leave the option out to include everything"
            ) from None
    if isinstance(value, datetime) and value.tzinfo is None:
        return value.replace(tzinfo=tz)
    return value
