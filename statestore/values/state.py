"""The state of a session."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any


@dataclass(frozen=True, slots=True)
class StateEntry:
    """A value of a session's state. `version` starts at 1 and grows by one with each write."""

    key: str
    value: Any
    version: int
    updated_at: datetime
    expires_at: datetime | None
