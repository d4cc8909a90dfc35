"""History entries, on their way in and out."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any


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
class Summary:
    """A text that stands for the entries `start_seq` to `end_seq`, so that they need not be sent again."""

    session_id: str
    start_seq: int
    end_seq: int
    content: str
    token_count: int | None
    created_at: datetime


class Window(list[Entry]):
    """The newest entries of a session that fit, oldest first.

    Attributes:
        summaries: What stands for the entries before them, oldest first; empty where it was not asked for.
        tokens: How many tokens it all takes by the tokenizer used, or by the estimate. None without a token budget.
    """

    __slots__ = ("summaries", "tokens")

    def __init__(
        self, entries: Iterable[Entry] = (), *, summaries: Sequence[Summary] = (), tokens: int | None = None
    ) -> None:
        super().__init__(entries)
        self.summaries = tuple(summaries)
        self.tokens = tokens
