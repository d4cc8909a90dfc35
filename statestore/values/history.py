"""History entries, on their way in and out."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, NamedTuple, Protocol, TypeAlias

from statestore.errors import InvalidValueError
from statestore.values import reported_usage


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What one model call used, in OpenTelemetry's terms. None means not reported, which is not zero.

    Attributes:
        input_tokens: All tokens of the input, including those in the provider's prompt cache. Anthropic counts the
            latter separately; when the store reads one of its messages, it adds them.
        output_tokens: All tokens of the output, reasoning included.
        cache_read_input_tokens: Of the input, the tokens that the provider had in its prompt cache.
        cache_write_input_tokens: Of the input, the tokens that the provider wrote to its prompt cache.
        reasoning_output_tokens: Of the output, the tokens of reasoning that is not part of the answer.
    """

    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    cache_write_input_tokens: int | None = None
    reasoning_output_tokens: int | None = None

    @classmethod
    def of(cls, reported: Any, *, strict: bool = True) -> "Usage":
        """The usage that an SDK reports, in these terms.

        Args:
            reported: A usage of OpenAI (chat completions and responses), Anthropic, LangChain (`usage_metadata`),
                openai-agents, pydantic-ai, Gemini, Bedrock or Ollama, as an object or as a mapping; or a response, a
                message or the result of a run that has one. A `Usage` is returned as it is.
            strict: With False a figure below zero or above 1,000,000,000 counts as not reported, and what reports
                nothing is a `Usage()`: for what others have said, which must not keep you from storing the rest. By
                default each figure is taken as it is, and one that cannot be stored is refused where it is stored.

        Raises:
            InvalidValueError: It is none of these, or reports no tokens. Not with `strict=False`.
        """
        if isinstance(reported, cls):
            return reported
        found = reported_usage.find(reported, most=None if strict else reported_usage.MAX_TOKENS)
        if found is None and strict:
            raise InvalidValueError(
                "usage", f"{type(reported).__name__} reports no tokens that are known; pass Usage(input_tokens=…)"
            )
        return cls(**(found or {}))


@dataclass(frozen=True, slots=True)
class NewEntry:
    """A history entry to append.

    Only the content is required. If the content is a chat message in the format of a common provider, the store reads
    `role`, `usage`, `response_model`, `tool_name`, `tool_call_id` and `finish_reason` from it unless they are given
    here. Names and ids have 1 to 512 characters.

    Attributes:
        content: What was said or done: any exact JSON value, up to the store's `max_value_bytes` (16 MiB).
        role: Who speaks; `user` starts a turn. Any text; the usual roles are `system`, `user`, `assistant` and `tool`.
        agent_name: The agent that the entry belongs to, for reports by agent. It is not taken from the session.
        usage: The tokens of the model call that produced the entry: a `Usage`, or anything that `Usage.of` takes, such
            as `response.usage`. A `Usage()` without figures means that there are none, whatever the content reports.
        provider_name: Who ran the model, such as `openai`. Used to look up prices.
        request_model: The model that was requested.
        response_model: The model that answered. Reports and prices use it, or `request_model` if it is missing.
        cost_usd: What the call cost in US dollars, kept to ten decimals. If not given, the store computes the cost if
            it knows both token counts and a price for the model.
        tool_name: The tool that the entry calls, or whose result it is.
        tool_call_id: The id that a call and its result share.
        duration: How long the call of the model or tool took, kept in milliseconds with fractions.
        finish_reason: Why the model stopped, in the provider's words.
        error_type: The kind of error it ended with, if any: reports count entries that have one as errors. By default
            `tool_error` for the result of a tool that says it has failed: `is_error` in Anthropic's blocks, `isError`
            of MCP, `status: "error"` of LangChain.
        metadata: A mapping of exact JSON for the caller's own use. The store never reads it.
        entry_id: The caller's own key for idempotent appends: a session stores each id once. If not given, the store
            generates a UUIDv7.
        created_at: When it happened, as an aware datetime; by default the time of the append. It does not change the
            order of the history.
    """

    content: Any
    role: str | None = field(default=None, kw_only=True)
    agent_name: str | None = field(default=None, kw_only=True)
    usage: Usage | Any | None = field(default=None, kw_only=True)
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


class SdkMessage(Protocol):
    """A message or a response as an SDK returns it. One with `to_dict()` or `dict()` instead is taken, too."""

    def model_dump(self) -> dict[str, Any]: ...


EntryLike: TypeAlias = NewEntry | Mapping[str, Any] | SdkMessage
"""What can be appended: an entry, a message with a role, or what an SDK returned: a message, or a response of OpenAI.

A response is stored as the message in it; its usage, model and finish reason become those of the entry. A list that
mixes them is a `list[EntryLike]`.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A stored history entry.

    Fields that neither the caller nor the content provided are None.

    Attributes:
        session_id: The session that it was read from: for an entry that a fork shares, the fork.
        seq: Its position in the session, from 1 and without gaps. The store assigns it.
        turn: How many entries of role `user` there are from the start of the session up to here; 0 before the first.
        entry_id: The caller's id, or else a UUIDv7 generated by the store. Unique in the session.
        role: Who speaks; None if not known.
        agent_name: The agent, as it was given.
        content: What was appended: an equal value, key order included.
        metadata: The caller's own; empty if none was given.
        usage: The tokens as given, or else as the content reports them. Its figures are None if neither did.
        provider_name: Who ran the model, as given.
        request_model: The model that was requested, as given.
        response_model: The model that answered: as given, or else as the content says.
        cost_usd: US dollars: as given, or else computed by the store from the tokens and the price of the model at the
            time of the append, or later by `prices.apply`. None while it is not known, which is not zero.
        tool_name: The tool that the entry calls, or whose result it is: as given, or else as the content says. If one
            message has several calls, it is the first.
        tool_call_id: The id that a call and its result share, from the same source.
        duration: How long the call of the model or tool took, as given.
        finish_reason: Why the model stopped: as given, or else as the content says.
        error_type: The kind of error it ended with, as given, or `tool_error` for a result that says so; None without
            an error.
        content_bytes: The length of the content as JSON in UTF-8, in bytes. The store computes it.
        created_at: When it happened, in UTC: the caller's time, or else that of the append.
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


class EntryPlace(NamedTuple):
    """Where an entry is: `session_id, seq = place`."""

    session_id: str
    """The session that it was appended to."""
    seq: int
    """Its position there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """A text that replaces the entries `start_seq` to `end_seq` in a prompt, so that they need not be sent again.

    Attributes:
        session_id: The session that it was read from.
        start_seq: The first position that it covers.
        end_seq: The last one.
        content: The text.
        token_count: How many tokens the text takes, as given by its author; None if not given.
        created_at: When it was added, in UTC.
    """

    session_id: str
    start_seq: int
    end_seq: int
    content: str
    token_count: int | None
    created_at: datetime


class Window(list[Entry]):
    """The newest entries of a session that fit, oldest first.

    Attributes:
        summaries: The summaries of the entries before them, oldest first; empty if they were not asked for.
        tokens: The total number of tokens, by the tokenizer or by estimate. None without a token budget.
    """

    __slots__ = ("summaries", "tokens")

    def __init__(
        self, entries: Iterable[Entry] = (), *, summaries: Sequence[Summary] = (), tokens: int | None = None
    ) -> None:
        super().__init__(entries)
        self.summaries = tuple(summaries)
        self.tokens = tokens
