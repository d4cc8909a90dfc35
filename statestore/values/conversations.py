"""Whole conversations: loaded, edited, saved."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
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


@dataclass(slots=True)
class ConversationState:
    """A whole session, to read, change in place and save. It shares nothing with the store.

    `entries` may mix loaded entries with new ones, `NewEntry` or plain messages. Unlike other values it is not frozen:
    it is meant to be edited.
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
    ttl: timedelta | NeverType | None = field(default=None, kw_only=True)
    session: Session | None = field(default=None, kw_only=True, compare=False)
    """The session as it was when last loaded or saved; None for a conversation that was not loaded."""
    baseline: Baseline | None = field(default=None, kw_only=True, repr=False, compare=False)


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
