"""When a call has to have ended: the store's `timeout`, narrowed by `deadline` for what is called inside it."""

import math
import time
from contextvars import ContextVar
from datetime import timedelta
from types import TracebackType
from typing import Any, Self

from statestore.errors import CommitUnknownError, InvalidValueError, UnavailableError

# How late a call may be: what it waits for has this long to end by itself before its connection is cut.
GRACE = 0.25

# The ends of the blocks around a call, each no later than those around it.
_ends: ContextVar[tuple[float, ...]] = ContextVar("statestore.deadline", default=(math.inf,))


class deadline:
    """Bound every call of any store that is made inside the block: `with statestore.deadline(2.5):`.

    For threads and tasks alike; each has its own. Blocks nest: the earliest end counts, and so does the store's own
    `timeout`. A call that is out of time raises `UnavailableError`, if nothing was written, or `CommitUnknownError`, at
    most half a second late. It bounds calls of stores alone: code of your own is not interrupted.
    """

    def __init__(self, seconds: float | timedelta) -> None:
        self._seconds = in_seconds(seconds, "seconds")

    def __enter__(self) -> Self:
        ends = _ends.get()
        _ends.set((*ends, min(ends[-1], time.monotonic() + self._seconds)))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        _ends.set(_ends.get()[:-1] or (math.inf,))


def in_seconds(value: Any, argument: str) -> float:
    """A duration in seconds, given as a number or a timedelta."""
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds < math.inf:
        raise InvalidValueError(argument, "must be a positive number of seconds, or a timedelta")
    return float(seconds)


def ends_at(timeout: float) -> float:
    """When a call that begins now has to have ended, on the monotonic clock."""
    return min(time.monotonic() + timeout, _ends.get()[-1])


def out_of_time(unsettled: bool = False) -> UnavailableError | CommitUnknownError:
    """The error of a call that did not end in time; *unsettled*, if it may have been done all the same."""
    if unsettled:
        return CommitUnknownError(
            "the call was given up at its deadline while its write was under way, so it may or may not have been done; "
            "read before you repeat it"
        )
    return UnavailableError(
        "the call did not end within its time, and nothing was written; "
        "raise the store's timeout= or the deadline around the call, or try again later"
    )
