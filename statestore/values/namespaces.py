"""What is said of whole namespaces."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class NamespaceInfo:
    """What a namespace holds.

    Attributes:
        name: The namespace.
        sessions: How many sessions are stored, expired ones included until they are swept.
        entries: How many history entries are stored; those that forks share count once.
        bytes: What callers put in, in all tables: contents, values, texts and metadata, in bytes of UTF-8.
        last_activity_at: When a session was last written to; None without sessions.
    """

    name: str
    sessions: int
    entries: int
    bytes: int
    last_activity_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class NamespaceReceipt:
    """What `drop_namespace` has deleted.

    Attributes:
        name: The namespace, or what was asked for where that may be several.
        dropped_at: When the sessions disappeared for their users: the first of them.
        rows: How many rows were deleted, by table; without the tables that had none.
        names: The namespaces that this was: those that were named, and those with a prefix that had something in them.
    """

    name: str
    dropped_at: datetime
    rows: Mapping[str, int]
    names: tuple[str, ...] = ()

    @property
    def sessions(self) -> int:
        """How many sessions were deleted."""
        return self.rows.get("sessions", 0)

    @property
    def entries(self) -> int:
        """How many history entries were deleted."""
        return self.rows.get("history_entries", 0)
