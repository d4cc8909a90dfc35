"""A whole session from another system, on its way into a store: what `portable.insert_session` takes.

Each part says where it came from, such as a file and a line, so that an error can name the place.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from statestore.values.history import NewEntry


@dataclass(frozen=True, slots=True)
class SavedEntry:
    """An entry of the history."""

    entry: NewEntry
    where: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedSummary:
    """A summary of the entries from one position to another, both included."""

    start_seq: int
    end_seq: int
    content: str
    token_count: int | None
    created_at: datetime
    where: str


@dataclass(frozen=True, slots=True)
class SavedState:
    """A key of the state and its value."""

    key: str
    value: Any
    where: str


@dataclass(frozen=True, slots=True)
class SavedItem:
    """An item of a named list."""

    value: Any
    where: str


@dataclass(frozen=True, slots=True)
class SavedList:
    """A named list, which has an item or more."""

    name: str
    items: Sequence[SavedItem]
    where: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedSession:
    """A session with everything that belongs to it."""

    session_id: str
    created_at: datetime
    last_activity_at: datetime
    """Also the time of the state, of the lists, and of entries that have none."""
    where: str
    user_id: str | None = None
    instructions: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    first_seq: int = 1
    """The position of the first entry: the ones before it were trimmed."""
    entries: Sequence[SavedEntry] = ()
    summaries: Sequence[SavedSummary] = ()
    state: Sequence[SavedState] = ()
    lists: Sequence[SavedList] = ()
