"""What every operation that takes a lease checks of it before any SQL."""

from datetime import timedelta
from typing import Any

from statestore.checking import checks
from statestore.errors import InvalidValueError
from statestore.values.sessions import Lease

MAX_TTL = timedelta(hours=12)
"""How long a lease may hold unless it is renewed, so that what a dead holder had is free within half a day."""

# What ends later than any lease can, by a clock that is an hour off at most, was given out by a clock that is wrong.
LATEST = MAX_TTL + timedelta(hours=1)
FREE = """(s.lease_until IS NULL OR s.lease_until <= $now
            OR s.lease_until > $later(CAST(:latest_lease AS interval)))"""
"""Nobody holds a lease on session `s`. It needs `LATEST` as `:latest_lease`."""


def ttl(value: Any, argument: str = "ttl") -> timedelta:
    """How long a lease is to hold."""
    found = checks.duration(value, argument)
    if found > MAX_TTL:
        hours = MAX_TTL // timedelta(hours=1)
        raise InvalidValueError(
            argument, f"must be at most {hours} hours; to hold a lease longer, renew it, as its `with` block does"
        )
    return found


def token(lease: Lease | None, session_id: str, argument: str = "lease") -> int | None:
    """The token to hand to the statement; None without a lease."""
    if lease is None:
        return None
    if not isinstance(lease, Lease):
        raise InvalidValueError(argument, f"must be a Lease, as sessions.acquire gives, not {type(lease).__name__}")
    if lease.session_id != session_id:
        raise InvalidValueError(argument, f"is a lease on session {lease.session_id!r}, not on {session_id!r}")
    check_process = getattr(lease, "check_process", None)
    if check_process is not None:  # Of one that holds itself: it may have been acquired before a fork.
        check_process()
    # Whoever makes a lease again from what it has written down may have text there.
    return checks.count(lease.token, f"{argument}.token")


def own_token(lease: Lease) -> int:
    """The token of a lease that is itself what is worked on."""
    if isinstance(lease, Lease):
        checks.key(lease.session_id, "lease.session_id")
    found = token(lease, getattr(lease, "session_id", ""))
    if found is None:
        raise InvalidValueError("lease", "must be a Lease, as sessions.acquire gives, not None")
    return found
