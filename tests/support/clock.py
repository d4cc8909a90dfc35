"""A clock that stands still until it is moved."""

from datetime import UTC, datetime, timedelta

NOON = datetime(2026, 1, 31, 12, 0, 0, 250_000, tzinfo=UTC)


class MovableClock:
    def __init__(self, now: datetime = NOON) -> None:
        self.now = now

    def __call__(self) -> datetime:
        return self.now

    def advance(self, **by: float) -> datetime:
        """Move on by a `timedelta` of these arguments, and return the new time."""
        self.now += timedelta(**by)
        return self.now
