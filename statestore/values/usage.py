"""What reports and sweeps return. The columns of usage are those of the report views, and are explained there."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Literal, TypeAlias


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageTotals:
    """What was used: existing entries, the ledger of deleted ones and recorded calls together.

    Recorded calls (`usage.record`) count as calls, with their tokens, cost and duration, but not as entries.

    Args:
        sessions: How many sessions the entries and calls belong to.
        entries: How many history entries there are or were.
        turns: Entries of role `user`.
        model_calls: Entries and calls with tokens.
        tool_calls: Entries and calls that name a tool, without the results that answer another entry's call.
        errors: Entries and calls with an `error_type`.
        input_tokens: Including cached ones.
        output_tokens: Including reasoning.
        cache_read_input_tokens: Input tokens that were read from the provider's cache.
        cache_write_input_tokens: Input tokens that were written to it.
        reasoning_output_tokens: Output tokens of reasoning.
        cost_usd: The known costs; None if none is known.
        unpriced_calls: Model calls whose cost is not known, and so is not in `cost_usd`.
        duration: The sum of all durations.
        content_bytes: The size of the content, as JSON in UTF-8.
        timed_entries: Existing entries and calls that have a duration: the latencies are based on these.
        latency_p50: The median duration of one; None if none is left.
        latency_p95: The duration that 95 of 100 entries do not exceed, interpolated.
    """

    sessions: int
    entries: int
    turns: int
    model_calls: int
    tool_calls: int
    errors: int
    input_tokens: int
    output_tokens: int
    cache_read_input_tokens: int
    cache_write_input_tokens: int
    reasoning_output_tokens: int
    cost_usd: Decimal | None
    unpriced_calls: int
    duration: timedelta
    content_bytes: int
    timed_entries: int
    latency_p50: timedelta | None
    latency_p95: timedelta | None


@dataclass(frozen=True, slots=True, kw_only=True)
class DayUsage(UsageTotals):
    """The usage of a day, in the requested time zone."""

    day: date


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionUsage(UsageTotals):
    """The usage of a session under one user, with its first and last day. No session: recorded calls without one."""

    session_id: str | None
    user_id: str | None
    first_day: date
    last_day: date
    namespace: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class UserUsage(UsageTotals):
    """The usage of a user; `day` is None for the whole period. No user: sessions without one, and erased ones."""

    day: date | None
    user_id: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentUsage(UsageTotals):
    """The usage of an agent; `day` is None for the whole period."""

    day: date | None
    agent_name: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelUsage(UsageTotals):
    """The usage of a model; `day` is None for the whole period. No model: entries without one, such as users'."""

    day: date | None
    provider_name: str | None
    model: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolUsage(UsageTotals):
    """The usage of a tool; `day` is None for the whole period."""

    day: date | None
    tool_name: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class HourUsage(UsageTotals):
    """The usage of an hour of the week. `weekday` is 0 for Monday, as in `datetime.weekday()`."""

    weekday: int
    hour: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheDayUsage:
    """What happened in the result cache on a UTC day, for an agent. `hit_rate` is 0 to 1, None without lookups."""

    day: date
    agent_name: str | None
    hits: int
    misses: int
    sets: int
    evictions: int
    expirations: int
    invalidations: int
    hit_rate: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageUsage:
    """What a table stores for a user: rows, and the bytes that callers put in."""

    table_name: str
    user_id: str | None
    row_count: int
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpiryBacklog:
    """What is due for deletion but not swept yet. `overdue` says for how long the oldest has been due."""

    kind: str
    due: int
    oldest_due_at: datetime
    overdue: timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionDescent:
    """Where a living session comes from, and how much of its history is its own."""

    session_id: str
    user_id: str | None
    parent_session_id: str | None
    root_session_id: str
    forked_at_seq: int | None
    depth: int
    forks: int
    entries: int
    own_entries: int
    created_at: datetime


SweepKind: TypeAlias = Literal[
    "expired_sessions",
    "idle_sessions",
    "session_overflow",
    "history_entries",
    "expired_state",
    "expired_cache",
    "cache_overflow",
    "unseen_entries",
]


@dataclass(frozen=True, slots=True)
class Swept:
    """How many rows were deleted, and how many bytes callers had put into them."""

    rows: int = 0
    bytes: int = 0

    def __add__(self, other: "Swept") -> "Swept":
        return Swept(self.rows + other.rows, self.bytes + other.bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepReport:
    """What a sweep deleted, or what it would delete.

    Args:
        kinds: The result by kind. A session counts as one row, with the bytes of its attributes, state and summaries.
            The entries deleted with sessions are `history_entries`; those that a fork still sees are not deleted.
            State keys count as `expired_state` if their session lives on, or if they are a user's or an agent's.
        dry_run: Whether this was a dry run: nothing was deleted.
        complete: Whether everything due is gone; false if the time budget ran out, or another worker was at it.
        elapsed: How long it took.
    """

    kinds: Mapping[SweepKind, Swept] = field(default_factory=dict)
    dry_run: bool = False
    complete: bool = True
    elapsed: timedelta = timedelta(0)

    def __getitem__(self, kind: SweepKind) -> Swept:
        return self.kinds.get(kind, Swept())

    @property
    def rows(self) -> int:
        """All rows together."""
        return sum(swept.rows for swept in self.kinds.values())

    @property
    def bytes(self) -> int:
        """All bytes together."""
        return sum(swept.bytes for swept in self.kinds.values())
