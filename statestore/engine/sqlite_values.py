"""Values as SQLite keeps them: it has neither times nor durations, decimals or arrays."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import lru_cache
from typing import Any

import orjson

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
# Three digits each: to format a number takes longer than all the rest of writing a time.
_DIGITS = tuple(f"{number:03}" for number in range(1000))


def microseconds(value: datetime) -> int:
    """Since 1970."""
    return (value - _EPOCH) // _MICROSECOND


def instant(since_epoch: int) -> datetime:
    return _EPOCH + timedelta(microseconds=since_epoch)


def time_text(since_epoch: int) -> str:
    """A time in microseconds since 1970 as SQLite keeps it: fixed width, so that text order is time order."""
    milliseconds, rest = divmod(since_epoch, 1000)
    seconds, thousandths = divmod(milliseconds, 1000)
    return f"{_seconds_text(seconds)}.{_DIGITS[thousandths]}{_DIGITS[rest]}Z"


@lru_cache(maxsize=64)
def _seconds_text(seconds: int) -> str:
    """Every operation needs the time it is: its date is written once a second."""
    return (_EPOCH + timedelta(seconds=seconds)).replace(tzinfo=None).isoformat()


def sqlite_time(value: datetime) -> str:
    """A time as SQLite keeps it."""
    return time_text(microseconds(value))


ENCODERS: dict[type, Callable[[Any], Any]] = {
    datetime: sqlite_time,
    timedelta: lambda value: value // _MICROSECOND,
    Decimal: float,
    list: lambda value: orjson.dumps(value).decode(),  # an array, for json_each
}
