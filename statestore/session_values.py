"""What a caller of a session that lives hands in and gets back: leases, windows, statistics, whole conversations."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from statestore.values import Entry, NewEntry, Session, Status, Summary, Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """The right to be the only one at work on a session, until it runs out or is taken back.

    `token` grows with each lease of a session, so that of two leases the larger is the younger. Hand the lease to a
    write, and the write is refused once somebody else may hold the session.
    """

    session_id: str
    owner: str
    token: int
    ttl: timedelta
    until: datetime


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


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionStats:
    """What a session is made of now.

    It describes the history that the session sees, for a fork the part that it shares included; what was trimmed or
    popped is not in it. Bills are the usage reports' matter, which count each entry once and forget none.

    Attributes:
        entries: How many history entries.
        turns: How many of them begin a turn.
        usage: The sums of what the entries report; None where none reports it.
        cost_usd: The sum of what they cost; None where none says.
        tool_invocations: How often each tool was called. A call and its result count once.
        errors: How many entries carry an `error_type`.
        uptime: How long ago the session was made.
        stored_bytes: Content of the entries that the session itself owns, its state and its summaries, in bytes of
            UTF-8. Shared entries count with their owner, so that the sum over sessions is what is stored.
        forks: How many living sessions were forked from it.
    """

    session_id: str
    status: Status
    entries: int
    turns: int
    usage: Usage
    cost_usd: Decimal | None
    tool_invocations: dict[str, int]
    errors: int
    created_at: datetime
    last_activity_at: datetime
    uptime: timedelta
    stored_bytes: int
    forks: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreStats:
    """What a namespace holds now; expired sessions are left out, except from `stored_bytes`.

    Attributes:
        sessions: How many sessions, by status.
        active_sessions: How many of them are not dead.
        entries: How many history entries they have, those that forks share counted with each.
        average_entries: How many entries a session has on average; 0.0 without sessions.
        stored_bytes: History content, state and summaries, in bytes of UTF-8, until the sweep removes them.
    """

    namespace: str
    sessions: dict[str, int]
    active_sessions: int
    entries: int
    average_entries: float
    stored_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """What a conversation was when it was loaded, so that `save` notices who else has changed it since."""

    revision: int
    first_seq: int
    next_seq: int
    created_at: datetime
    content: str
    """A digest of the entries and the summaries."""
    state: Mapping[str, tuple[str, int]]
    """The JSON text and the version of each key."""


@dataclass(slots=True)
class ConversationState:
    """A whole session, to look at, to change in place, and to save. It shares nothing with the store.

    `entries` may mix entries that were loaded with new ones, `NewEntry` or plain messages. Unlike other values this one
    is not frozen: it is made to be edited.
    """

    session_id: str
    entries: list[Entry | NewEntry | Mapping[str, Any]] = field(default_factory=list, kw_only=True)
    state: dict[str, Any] = field(default_factory=dict, kw_only=True)
    summaries: list[Summary] = field(default_factory=list, kw_only=True)
    user_id: str | None = field(default=None, kw_only=True)
    agent_name: str | None = field(default=None, kw_only=True)
    title: str | None = field(default=None, kw_only=True)
    instructions: str | None = field(default=None, kw_only=True)
    metadata: dict[str, Any] = field(default_factory=dict, kw_only=True)
    project_root: str | None = field(default=None, kw_only=True)
    cwd: str | None = field(default=None, kw_only=True)
    ttl: timedelta | None = field(default=None, kw_only=True)
    session: Session | None = field(default=None, kw_only=True, compare=False)
    """The session as it was when loaded, or saved since; None for a conversation that was not loaded."""
    baseline: Baseline | None = field(default=None, kw_only=True, repr=False, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class SaveReport:
    """What `sessions.save` had to do.

    Attributes:
        conversation: The session as it is now, to go on with and to save again.
        created: Whether there was none.
        appended: How many entries were added behind the old end.
        trimmed: How many old entries were dropped from the front.
        replaced: How many positions hold another entry, or another content, than before.
        removed: How many old entries were dropped from the end.
        state_set: The state keys that were written.
        state_deleted: The state keys that were removed.
        summaries_changed: How many summaries were written or removed.
    """

    conversation: ConversationState
    created: bool
    appended: int
    trimmed: int
    replaced: int
    removed: int
    state_set: tuple[str, ...]
    state_deleted: tuple[str, ...]
    summaries_changed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Unsaved:
    """What a turn had collected when it could not be committed: append it and set it again, or let it go."""

    entries: tuple[NewEntry | Mapping[str, Any], ...]
    state_set: dict[str, Any]
    state_deleted: tuple[str, ...]
