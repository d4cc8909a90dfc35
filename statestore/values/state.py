"""The state of a session, of a user and of an agent."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any


@dataclass(frozen=True, slots=True)
class StateEntry:
    """A value of a state.

    Attributes:
        key: Its key.
        value: The value.
        version: Starts at 1 and grows by one with each write.
        updated_at: When it was last written, in UTC.
        expires_at: When it expires by itself, in UTC; None for no time of its own.
        created_at: When it was first written, in UTC. Of a key from before this was kept: the last write until then.
        size_bytes: The size of the value, as JSON in UTF-8.
    """

    key: str
    value: Any
    version: int
    updated_at: datetime
    expires_at: datetime | None
    created_at: datetime
    size_bytes: int


@dataclass(frozen=True, slots=True)
class StateScopes:
    """All state that a session sees, by whose it is.

    Attributes:
        session: The keys and values of the session.
        user: Those of its user; empty for a session without one. Sessions of one user share the mapping.
        app: Those of its agent, likewise.
    """

    session: dict[str, Any]
    user: dict[str, Any]
    app: dict[str, Any]
