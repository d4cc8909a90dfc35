"""What every operation that takes a lease checks of it before any SQL."""

from statestore.errors import InvalidValueError
from statestore.session_values import Lease


def token(lease: Lease | None, session_id: str, argument: str = "lease") -> int | None:
    """The token to hand to the statement; None without a lease."""
    if lease is None:
        return None
    if not isinstance(lease, Lease):
        raise InvalidValueError(argument, f"must be a Lease, as sessions.acquire gives, not {type(lease).__name__}")
    if lease.session_id != session_id:
        raise InvalidValueError(argument, f"is a lease on session {lease.session_id!r}, not on {session_id!r}")
    return lease.token


def own_token(lease: Lease) -> int:
    """The token of a lease that is itself what is worked on."""
    found = token(lease, getattr(lease, "session_id", ""))
    if found is None:
        raise InvalidValueError("lease", "must be a Lease, as sessions.acquire gives, not None")
    return found
