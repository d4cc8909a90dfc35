"""The system of record for AI agents: sessions, history, state and what they cost, in PostgreSQL or SQLite.

    from statestore import StateStore

    with StateStore.open("sqlite:///agents.db") as store:
        store.sessions.open("user-42", user_id="ada")
        store.history.append("user-42", [{"role": "user", "content": "Hi"}])

The stores are imported at their first use, since they bring SQLAlchemy: a command line's --help does without.
"""

from typing import TYPE_CHECKING, Any

from statestore.engine.deadlines import deadline
from statestore.errors import (
    CommitUnknownError,
    ConflictError,
    DatabaseError,
    EntryNotFoundError,
    InvalidTransitionError,
    InvalidValueError,
    NotFoundError,
    ReadOnlyError,
    SchemaAheadError,
    SchemaError,
    SchemaMissingError,
    SchemaOutdatedError,
    SessionExistsError,
    SessionNotFoundError,
    StaleLeaseError,
    StateKeyNotFoundError,
    StateStoreError,
    StorageFullError,
    StoreClosedError,
    UnavailableError,
)
from statestore.values.cache import CacheEntry, CacheStats
from statestore.values.conversations import ConversationState, SaveReport, Unsaved
from statestore.values.history import Entry, NewEntry, Summary, Usage, Window
from statestore.values.markers import MISSING, NEVER
from statestore.values.prices import ModelPrice
from statestore.values.sessions import (
    Ancestor,
    ErasureReceipt,
    Lease,
    Lineage,
    Session,
    SessionPage,
    SessionStats,
    StoreStats,
)
from statestore.values.state import StateEntry
from statestore.values.usage import (
    AgentUsage,
    CacheDayUsage,
    DayUsage,
    ExpiryBacklog,
    HourUsage,
    ModelUsage,
    SessionDescent,
    SessionUsage,
    StorageUsage,
    SweepReport,
    Swept,
    ToolUsage,
    UsageTotals,
    UserUsage,
)

if TYPE_CHECKING:
    from statestore.async_store import AsyncStateStore, AsyncTransaction
    from statestore.context import AsyncSessionContext, SessionContext
    from statestore.shared_prices import prices_of
    from statestore.store import StateStore, Transaction
    from statestore.sweeper import Sweeper

__version__ = "0.1.0"

__all__ = [
    "MISSING",
    "NEVER",
    "AgentUsage",
    "Ancestor",
    "AsyncSessionContext",
    "AsyncStateStore",
    "AsyncTransaction",
    "CacheDayUsage",
    "CacheEntry",
    "CacheStats",
    "CommitUnknownError",
    "ConflictError",
    "ConversationState",
    "DatabaseError",
    "DayUsage",
    "Entry",
    "EntryNotFoundError",
    "ErasureReceipt",
    "ExpiryBacklog",
    "HourUsage",
    "InvalidTransitionError",
    "InvalidValueError",
    "Lease",
    "Lineage",
    "ModelPrice",
    "ModelUsage",
    "NewEntry",
    "NotFoundError",
    "ReadOnlyError",
    "SaveReport",
    "SchemaAheadError",
    "SchemaError",
    "SchemaMissingError",
    "SchemaOutdatedError",
    "Session",
    "SessionContext",
    "SessionDescent",
    "SessionExistsError",
    "SessionNotFoundError",
    "SessionPage",
    "SessionStats",
    "SessionUsage",
    "StaleLeaseError",
    "StateEntry",
    "StateKeyNotFoundError",
    "StateStore",
    "StateStoreError",
    "StorageFullError",
    "StorageUsage",
    "StoreClosedError",
    "StoreStats",
    "Summary",
    "SweepReport",
    "Sweeper",
    "Swept",
    "ToolUsage",
    "Transaction",
    "UnavailableError",
    "Unsaved",
    "Usage",
    "UsageTotals",
    "UserUsage",
    "Window",
    "deadline",
    "prices_of",
]

_FROM_STORE = frozenset({"AsyncStateStore", "AsyncTransaction", "StateStore", "Transaction"})

_FROM_CONTEXT = frozenset({"AsyncSessionContext", "SessionContext"})


def __getattr__(name: str) -> Any:
    if name in _FROM_CONTEXT:
        from statestore import context

        return getattr(context, name)
    if name in _FROM_STORE:
        from statestore import async_store, store

        return getattr(async_store if name.startswith("Async") else store, name)
    if name == "prices_of":
        from statestore.shared_prices import prices_of

        return prices_of
    if name == "Sweeper":
        from statestore.sweeper import Sweeper

        return Sweeper
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
