"""What a caller hands in and gets back: frozen dataclasses, nothing lazy, nothing tied to a connection."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any, Final, Literal, TypeAlias


class _Missing(Enum):
    MISSING = "MISSING"

    def __repr__(self) -> str:
        return "MISSING"

    def __bool__(self) -> bool:
        return False


MissingType: TypeAlias = Literal[_Missing.MISSING]
MISSING: Final = _Missing.MISSING
"""Marks absence where None is a value: a default that was not given, an argument to be left as it is."""


class _Never(Enum):
    NEVER = "NEVER"

    def __repr__(self) -> str:
        return "NEVER"


NeverType: TypeAlias = Literal[_Never.NEVER]
NEVER: Final = _Never.NEVER
"""A time to live without an end, where None already means the default."""

Status: TypeAlias = Literal["starting", "ready", "busy", "dead"]
STATUSES: Final = ("starting", "ready", "busy", "dead")


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What one model call used, in OpenTelemetry's terms. None means not reported, which is not zero.

    `input_tokens` includes the cached ones, `output_tokens` the reasoning ones.
    """

    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    cache_write_input_tokens: int | None = None
    reasoning_output_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class NewEntry:
    """A history entry to append.

    Args:
        content: Any exact JSON value. Where it is a chat message (a mapping with a role), what is not given here is
            read from it.
        role: Who speaks: `user` starts a turn. Any text; `system`, `user`, `assistant` and `tool` are the usual ones.
        entry_id: The caller's own key for idempotent appends; without it the store makes a UUIDv7.
        created_at: When it happened, an aware datetime; the time of the append if not given.
        cost_usd: US dollars, kept to ten decimals.
    """

    content: Any
    role: str | None = field(default=None, kw_only=True)
    agent_name: str | None = field(default=None, kw_only=True)
    usage: Usage | None = field(default=None, kw_only=True)
    provider_name: str | None = field(default=None, kw_only=True)
    request_model: str | None = field(default=None, kw_only=True)
    response_model: str | None = field(default=None, kw_only=True)
    cost_usd: Decimal | float | int | None = field(default=None, kw_only=True)
    tool_name: str | None = field(default=None, kw_only=True)
    tool_call_id: str | None = field(default=None, kw_only=True)
    duration: timedelta | None = field(default=None, kw_only=True)
    finish_reason: str | None = field(default=None, kw_only=True)
    error_type: str | None = field(default=None, kw_only=True)
    metadata: Mapping[str, Any] | None = field(default=None, kw_only=True)
    entry_id: str | None = field(default=None, kw_only=True)
    created_at: datetime | None = field(default=None, kw_only=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A stored history entry.

    `seq` is its position in the session, from 1 and without gaps; `turn` counts the user entries up to here.
    `content` equals what was appended, key order included. `content_bytes` is its length as JSON in UTF-8.
    """

    session_id: str
    seq: int
    turn: int
    entry_id: str
    role: str | None
    agent_name: str | None
    content: Any
    metadata: dict[str, Any]
    usage: Usage
    provider_name: str | None
    request_model: str | None
    response_model: str | None
    cost_usd: Decimal | None
    tool_name: str | None
    tool_call_id: str | None
    duration: timedelta | None
    finish_reason: str | None
    error_type: str | None
    content_bytes: int
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """A session as it was when read.

    Its history has the positions `first_seq` to `next_seq` - 1; `first_seq` moves when the front is trimmed.
    `revision` counts the changes of the session's own attributes, not of its history or state.
    `resumed` is true where `sessions.open` found the session rather than made it.
    """

    namespace: str
    session_id: str
    user_id: str | None
    agent_name: str | None
    title: str | None
    status: Status
    instructions: str | None
    metadata: dict[str, Any]
    project_root: str | None
    cwd: str | None
    parent_session_id: str | None
    root_session_id: str
    forked_at_seq: int | None
    first_seq: int
    next_seq: int
    revision: int
    ttl: timedelta | None
    expires_at: datetime | None
    created_at: datetime
    last_activity_at: datetime
    resumed: bool = False

    @property
    def entry_count(self) -> int:
        """How many history entries the session has."""
        return self.next_seq - self.first_seq


@dataclass(frozen=True, slots=True)
class SessionPage:
    """Some sessions in order, and the cursor that continues behind them; None at the end."""

    sessions: list[Session]
    next_cursor: str | None


@dataclass(frozen=True, slots=True)
class Ancestor:
    """One step up a lineage: which session a fork came from, and after which of its positions."""

    session_id: str
    forked_at_seq: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Lineage:
    """Where a session comes from and what came from it.

    `ancestors` runs from the parent to the root. A deleted ancestor is still named, and is the last one, since what
    it came from is gone with it. `forks` are the living sessions forked directly from this one, oldest first.
    """

    session_id: str
    root_session_id: str
    ancestors: tuple[Ancestor, ...]
    forks: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ErasureReceipt:
    """What erasing a user removed. Entries that another user's fork still sees live on there and are not counted."""

    user_id: str
    namespace: str
    erased_at: datetime
    sessions: int
    entries: int
    state_entries: int
    summaries: int


@dataclass(frozen=True, slots=True)
class StateEntry:
    """A value of a session's state. `version` starts at 1 and grows by one with each write."""

    key: str
    value: Any
    version: int
    updated_at: datetime
    expires_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """A text that stands for the entries `start_seq` to `end_seq`, so that they need not be sent again."""

    session_id: str
    start_seq: int
    end_seq: int
    content: str
    token_count: int | None
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheEntry:
    """A cached value with what is known of it.

    `value` is MISSING where a list was asked for without values. `size_bytes` is what the value takes in the database,
    where it may be compressed. `access_count` counts the hits since it was set. `stale_ttl` is how much longer than
    until `expires_at` it is kept for `get_or_compute(…, stale_ttl=…)`.
    """

    key: str
    value: Any
    agent_name: str | None
    request: Any
    content_hash: str | None
    metadata: dict[str, Any]
    tags: tuple[str, ...]
    size_bytes: int
    created_at: datetime
    expires_at: datetime | None
    last_accessed_at: datetime
    access_count: int
    stale_ttl: timedelta | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheStats:
    """What is in a cache, and what has happened in it since it was made.

    Expired entries are in none of the first figures. `hits` to `invalidations` outlive the entries that they are about;
    `invalidations` counts the entries removed by reason: key, tag, agent, content_hash, clear. A miss belongs to the
    agent that the reader named. `oldest_at` and `newest_at` are when the oldest and newest entry were set.
    """

    entries: int
    size_bytes: int
    average_access_count: float
    oldest_at: datetime | None
    newest_at: datetime | None
    hits: int
    misses: int
    sets: int
    evictions: int
    expirations: int
    invalidations: dict[str, int]
    by_agent: dict[str | None, "CacheStats"]

    @property
    def hit_rate(self) -> float:
        """Hits among all reads, 0 to 1; 0 if there were none."""
        reads = self.hits + self.misses
        return self.hits / reads if reads else 0.0
