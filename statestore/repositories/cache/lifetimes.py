"""How long entries live, as callers say it and as statements take it, and the numbers that order accesses to them."""

import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from statestore.checking import checks
from statestore.engine import process_fork
from statestore.errors import InvalidValueError
from statestore.values.markers import NEVER, NeverType

_ZERO = timedelta(0)

# When an entry expires, and when its row may go. A time that the caller gave is exact only if no clock of ours takes
# part: PostgreSQL counts from that time, and SQLite, whose statements have our clock, from now. PostgreSQL counts in
# UTC: elsewhere a day may have 23 hours.
_LATER = "((coalesce({}, $now) AT TIME ZONE 'UTC' + {}) AT TIME ZONE 'UTC')"
EXPIRES_POSTGRESQL, KEPT_POSTGRESQL = (
    _LATER.format("CAST(:until AS timestamptz)", f"CAST(:{name} AS interval)") for name in ("ttl", "keep")
)
# The same where each of several entries has an end of its own.
EXPIRES_VARIED, KEPT_VARIED = (_LATER.format("new.until", f"new.{name}") for name in ("ttl", "keep"))
EXPIRES_SQLITE, KEPT_SQLITE = "$later(:ttl)", "$later(:keep)"

# Another end for an entry that is there, which stays stale for as long as it was to.
_STALE_POSTGRESQL = "coalesce(e.keep_until - e.expires_at, interval '0')"
_STALE_SQLITE = """coalesce(1000000
        * (strftime('%s', substr(keep_until, 1, 19)) - strftime('%s', substr(expires_at, 1, 19)))
        + substr(keep_until, 21, 6) - substr(expires_at, 21, 6), 0)"""
# Beside the row, from `FROM_END`: what an UPDATE computes of columns may ask no clock in a distributed database.
FROM_END = f"(SELECT {EXPIRES_POSTGRESQL} AS expires_at, {KEPT_POSTGRESQL} AS keep_until) AS new_end"
ENDS_POSTGRESQL = f"""expires_at = new_end.expires_at,
            keep_until = (new_end.expires_at AT TIME ZONE 'UTC' + {_STALE_POSTGRESQL}) AT TIME ZONE 'UTC'"""
ENDS_SQLITE = f"expires_at = {EXPIRES_SQLITE}, keep_until = $later(:ttl + {_STALE_SQLITE})"


@dataclass(frozen=True, slots=True)
class Lifetime:
    """From the write on or, with *until*, from that time on: so long, or for ever; and how much longer it is kept."""

    ttl: timedelta | None
    stale: timedelta = _ZERO
    until: datetime | None = None

    def params(self, now: datetime | None) -> dict[str, Any]:
        """The parameters of the SQL above. *now* is None if the server's clock counts."""
        ttl, until = self.ttl, self.until
        if ttl is not None and until is not None and now is not None:
            ttl, until = ttl + (until - now), None
        return {"ttl": ttl, "keep": None if ttl is None else ttl + self.stale, "until": until}


def checked(
    ttl: Any,
    default: timedelta | float | NeverType,
    *,
    now: datetime | None,
    stale_ttl: Any = None,
    argument: str = "ttl",
) -> Lifetime:
    """A caller's *ttl*, or the cache's default. Without *now*, an end that has passed is accepted."""
    stale = seconds(stale_ttl, "stale_ttl", hint="use None for none") or _ZERO
    wanted = default if ttl is None else ttl
    if wanted is NEVER:
        return Lifetime(None, stale)
    if isinstance(wanted, datetime):
        until = checks.optional_time(wanted, argument)
        assert until is not None
        if now is not None and until <= now:
            raise InvalidValueError(argument, "is a time that has passed; use invalidate() to remove an entry")
        if until - (now or datetime.now(UTC)) > checks.MAX_TTL:
            raise InvalidValueError(argument, f"must be within {checks.MAX_TTL.days:,} days; use NEVER for no expiry")
        return Lifetime(_ZERO, stale, until)
    return Lifetime(
        seconds(wanted, argument, hint="use NEVER for no expiry", also=", an aware datetime or NEVER"), stale
    )


def seconds(value: Any, argument: str, *, hint: str, also: str = " or None") -> timedelta | None:
    """A duration, also given in seconds. *also* says what else the caller takes."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            value = timedelta(seconds=value)
        except (OverflowError, ValueError):
            problem = f"must be a number of seconds, at most {checks.MAX_TTL.days:,} days; {hint}"
            raise InvalidValueError(argument, problem) from None
    elif value is not None and not isinstance(value, timedelta):
        raise InvalidValueError(argument, f"must be a timedelta, a number of seconds{also}, not {type(value).__name__}")
    return checks.ttl(value, argument, hint=hint)


class _Stamps:
    """Numbers that grow with each access, on all hosts whose clocks agree, and never repeat in a process."""

    def __init__(self) -> None:
        self._last = 0
        self.renew_after_fork()
        process_fork.renew_in_child(self)

    def renew_after_fork(self) -> None:
        self._lock = threading.Lock()

    def take(self, count: int = 1) -> int:
        """The first of *count* numbers in a row."""
        with self._lock:
            first = max(self._last + 1, time.time_ns())
            self._last = first + count - 1
            return first


stamps: Final = _Stamps()
