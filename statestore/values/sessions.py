"""Sessions, and what is known about them."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Final, Literal, TypeAlias

from statestore.values.history import Usage

Status: TypeAlias = Literal["starting", "ready", "busy", "dead"]


STATUSES: Final = ("starting", "ready", "busy", "dead")


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """A session as it was when read.

    Attributes:
        namespace: The namespace of the store.
        session_id: Its id: the caller's, else a UUIDv7 of the store's. Unique among the living of the namespace.
        user_id: Whose it is, as the caller said; None for nobody's. Lists, reports and erasure go by it.
        agent_name: Which agent runs it, as the caller said; None if nobody did.
        title: What people call it; None if nobody gave it a title.
        status: `starting`, `ready`, `busy` or `dead`. A lease that is entered makes it busy, and ready at its end;
            `sessions.set_status` and `sessions.terminate` change it, too.
        instructions: The agent's standing instructions; None for none.
        metadata: A mapping of exact JSON for the caller's own use; empty if none was given.
        project_root: The directory that the session is about; None if nobody said. It stays while `cwd` wanders.
        cwd: The directory in which the agent works; None if nobody said.
        parent_session_id: The session that it was forked from, which may be deleted by now; None unless it is a fork.
        root_session_id: The session at the root of its family of forks: itself, unless it is a fork.
        forked_at_seq: The last position that it took over from its parent, 0 for none; None unless it is a fork.
        first_seq: The position of the oldest entry; 1 until the front is trimmed.
        next_seq: The position that the next entry gets, one behind the newest.
        revision: How often its own attributes were written, from 1. What changes the history, the state or the status
            does not count. `sessions.update` compares it with `expected_revision`.
        ttl: How long after its last use it ends; None for never.
        expires_at: When it ends unless it is used, in UTC; None without a TTL. A read moves it only once a tenth of
            the TTL is over.
        created_at: When it was made, in UTC.
        last_activity_at: When it was last written to, in UTC: attributes, history or state. Reads do not count.
        resumed: Whether `sessions.open` found the session rather than made it. False from all other operations.
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """The right to be the only one at work on a session, until it runs out or is taken back.

    Hand the lease to a write, and the write is refused once somebody else may hold the session.

    Attributes:
        session_id: The session.
        owner: Who acquired it, for people to read; it need not be unique.
        token: It grows with each lease of a session: of two leases the one with the larger token is the younger.
        ttl: For how long acquiring and each renewal make it hold.
        until: When it runs out unless it is renewed, in UTC, by the clock of the store.
    """

    session_id: str
    owner: str
    token: int
    ttl: timedelta
    until: datetime


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
