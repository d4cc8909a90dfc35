"""The system of record for AI agents: sessions, history, state and what they cost, in PostgreSQL or SQLite.

    from statestore import StateStore

    with StateStore.open("sqlite:///agents.db") as store:
        store.sessions.open("user-42", user_id="ada")
        store.history.append("user-42", [{"role": "user", "content": "Hi"}])

The stores, and what belongs to them, are imported at their first use, since they bring SQLAlchemy: a command line's
--help does without.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from statestore.engine.waits import deadline
from statestore.errors import (
    ClockError,
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
from statestore.values.cache import CacheEntry, CacheItem, CacheStats
from statestore.values.conversations import ConversationState, SaveReport, Unsaved
from statestore.values.history import Entry, EntryLike, EntryPlace, NewEntry, Summary, Usage, Window
from statestore.values.markers import MISSING, NEVER
from statestore.values.namespaces import NamespaceInfo, NamespaceReceipt
from statestore.values.operations import ModelCall, Operation
from statestore.values.prices import ModelPrice
from statestore.values.sessions import (
    Ancestor,
    ErasureReceipt,
    Lease,
    Lineage,
    NewSession,
    Session,
    SessionPage,
    SessionStats,
    StoreStats,
)
from statestore.values.state import StateEntry, StateScopes
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
    from statestore.checking.namespaces import spread
    from statestore.context import AsyncSessionContext, SessionContext
    from statestore.lazy import LazyStore, StoreLike
    from statestore.operations.cache import AsyncCache, Cache
    from statestore.operations.history import AsyncHistory, History
    from statestore.operations.leases import AsyncHeldLease, HeldLease
    from statestore.operations.sessions import AsyncSessions, Sessions
    from statestore.operations.state import (
        AppState,
        AsyncAppState,
        AsyncLists,
        AsyncState,
        AsyncUserState,
        Lists,
        State,
        UserState,
    )
    from statestore.operations.turn import Turn
    from statestore.operations.usage import (
        AsyncPrices,
        AsyncSharedPrices,
        AsyncUsageReports,
        Prices,
        SharedPrices,
        UsageReports,
    )
    from statestore.shared_prices import prices_of
    from statestore.store import StateStore, Transaction
    from statestore.sweeper import Sweeper

__version__ = "0.2.0"

__all__ = [
    "MISSING",
    "NEVER",
    "AgentUsage",
    "Ancestor",
    "AppState",
    "AsyncAppState",
    "AsyncCache",
    "AsyncHeldLease",
    "AsyncHistory",
    "AsyncLists",
    "AsyncPrices",
    "AsyncSessionContext",
    "AsyncSessions",
    "AsyncSharedPrices",
    "AsyncState",
    "AsyncStateStore",
    "AsyncTransaction",
    "AsyncUsageReports",
    "AsyncUserState",
    "Cache",
    "CacheDayUsage",
    "CacheEntry",
    "CacheItem",
    "CacheStats",
    "ClockError",
    "CommitUnknownError",
    "ConflictError",
    "ConversationState",
    "DatabaseError",
    "DayUsage",
    "Entry",
    "EntryLike",
    "EntryNotFoundError",
    "EntryPlace",
    "ErasureReceipt",
    "ExpiryBacklog",
    "HeldLease",
    "History",
    "HourUsage",
    "InvalidTransitionError",
    "InvalidValueError",
    "LazyStore",
    "Lease",
    "Lineage",
    "Lists",
    "ModelCall",
    "ModelPrice",
    "ModelUsage",
    "NamespaceInfo",
    "NamespaceReceipt",
    "NewEntry",
    "NewSession",
    "NotFoundError",
    "Operation",
    "Prices",
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
    "Sessions",
    "SharedPrices",
    "StaleLeaseError",
    "State",
    "StateEntry",
    "StateKeyNotFoundError",
    "StateScopes",
    "StateStore",
    "StateStoreError",
    "StorageFullError",
    "StorageUsage",
    "StoreClosedError",
    "StoreLike",
    "StoreStats",
    "Summary",
    "SweepReport",
    "Sweeper",
    "Swept",
    "ToolUsage",
    "Transaction",
    "Turn",
    "UnavailableError",
    "Unsaved",
    "Usage",
    "UsageReports",
    "UsageTotals",
    "UserState",
    "UserUsage",
    "Window",
    "deadline",
    "prices_of",
    "spread",
]

# Where each name is that is imported at its first use.
_LAZY = {
    "AppState": "operations.state",
    "AsyncAppState": "operations.state",
    "AsyncCache": "operations.cache",
    "AsyncHeldLease": "operations.leases",
    "AsyncHistory": "operations.history",
    "AsyncLists": "operations.state",
    "AsyncPrices": "operations.usage",
    "AsyncSessionContext": "context",
    "AsyncSessions": "operations.sessions",
    "AsyncSharedPrices": "operations.usage",
    "AsyncState": "operations.state",
    "AsyncStateStore": "async_store",
    "AsyncTransaction": "async_store",
    "AsyncUsageReports": "operations.usage",
    "AsyncUserState": "operations.state",
    "Cache": "operations.cache",
    "HeldLease": "operations.leases",
    "History": "operations.history",
    "LazyStore": "lazy",
    "Lists": "operations.state",
    "Prices": "operations.usage",
    "SessionContext": "context",
    "Sessions": "operations.sessions",
    "SharedPrices": "operations.usage",
    "State": "operations.state",
    "StateStore": "store",
    "StoreLike": "lazy",
    "Sweeper": "sweeper",
    "Transaction": "store",
    "Turn": "operations.turn",
    "UsageReports": "operations.usage",
    "UserState": "operations.state",
    "prices_of": "shared_prices",
    "spread": "checking.namespaces",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(f"statestore.{_LAZY[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
