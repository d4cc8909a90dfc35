"""Whole conversations: loaded, edited, saved."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Any

from statestore.values.history import Entry, NewEntry, Summary
from statestore.values.markers import NeverType
from statestore.values.sessions import Session


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """A conversation as it was when loaded, so that `save` notices if somebody else has changed it since."""

    revision: int
    first_seq: int
    next_seq: int
    created_at: datetime
    content: str
    """A digest of the entries and the summaries."""
    state: Mapping[str, tuple[str, int]]
    """The JSON text and the version of each key."""


@dataclass(slots=True, init=False)
class ConversationState:
    """A whole session, to read, change in place and save. It shares nothing with the store.

    `entries` may mix loaded entries with new ones, `NewEntry` or plain messages. Unlike other values it is not frozen:
    it is meant to be edited.
    """

    session_id: str
    entries: list[Entry | NewEntry | Mapping[str, Any]]
    state: dict[str, Any]
    summaries: list[Summary]
    user_id: str | None
    agent_name: str | None
    title: str | None
    instructions: str | None
    metadata: dict[str, Any]
    project_root: str | None
    cwd: str | None
    ttl: timedelta | NeverType | None
    session: Session | None = field(compare=False)
    """The session as it was when last loaded or saved; None for a conversation that was not loaded."""
    baseline: Baseline | None = field(repr=False, compare=False)

    # Written out, so that a list of one kind of entries is taken: to type checkers it is not a list of all kinds.
    def __init__(
        self,
        session_id: str,
        *,
        entries: Sequence[Entry | NewEntry | Mapping[str, Any]] = (),
        state: Mapping[str, Any] = MappingProxyType({}),
        summaries: Sequence[Summary] = (),
        user_id: str | None = None,
        agent_name: str | None = None,
        title: str | None = None,
        instructions: str | None = None,
        metadata: Mapping[str, Any] = MappingProxyType({}),
        project_root: str | None = None,
        cwd: str | None = None,
        ttl: timedelta | NeverType | None = None,
        session: Session | None = None,
        baseline: Baseline | None = None,
    ) -> None:
        self.session_id = session_id
        self.entries = _own(entries, list)
        self.state = _own(state, dict)
        self.summaries = _own(summaries, list)
        self.user_id = user_id
        self.agent_name = agent_name
        self.title = title
        self.instructions = instructions
        self.metadata = _own(metadata, dict)
        self.project_root = project_root
        self.cwd = cwd
        self.ttl = ttl
        self.session = session
        self.baseline = baseline


def _own(given: Any, kind: type) -> Any:
    """A copy to edit; what is not a collection of that kind is left as it is, for `save` to refuse."""
    wanted = Mapping if kind is dict else Sequence
    return kind(given) if isinstance(given, wanted) and not isinstance(given, str | bytes) else given


@dataclass(frozen=True, slots=True, kw_only=True)
class SaveReport:
    """What `sessions.save` had to do.

    Attributes:
        conversation: The session as it is now, to continue with and to save again.
        created: Whether the session was created.
        appended: How many entries were added after the old end.
        trimmed: How many old entries were dropped from the front.
        replaced: How many positions have a different entry, or different content, than before.
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
    """What a turn had collected when it could not be committed: append and set it again, or drop it."""

    entries: tuple[NewEntry | Mapping[str, Any], ...]
    state_set: dict[str, Any]
    state_deleted: tuple[str, ...]
