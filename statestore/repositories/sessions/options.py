"""How a store's sessions behave."""

from dataclasses import dataclass
from datetime import timedelta

from statestore.checking import checks


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionOptions:
    """How a store's sessions behave; see `StateStore.open`."""

    default_ttl: timedelta | None = None
    max_sessions: int | None = None

    def __post_init__(self) -> None:
        checks.ttl(self.default_ttl, "default_ttl", hint="use None for no expiry")
        checks.optional_count(self.max_sessions, "max_sessions", least=1)
