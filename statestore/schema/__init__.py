"""The tables, and which revision of them a database has."""

from statestore.schema.liveness import LIVE_SESSION
from statestore.schema.naming import metadata
from statestore.schema.tables import (
    CACHE_COUNTERS,
    DEFAULT_SCHEMA,
    HEAD_REVISION,
    VERSION_TABLE,
    VIEWS,
    cache_entries,
    history_entries,
    session_list_items,
    session_lists,
    session_segments,
    sessions,
    shared_state,
    state_entries,
    summaries,
)
from statestore.schema.usage_tables import (
    LATENCY_COLUMNS,
    PRICE_COLUMNS,
    TOKEN_COLUMNS,
    USAGE_COUNTS,
    usage_ledger,
    usage_records,
)

__all__ = [
    "CACHE_COUNTERS",
    "DEFAULT_SCHEMA",
    "HEAD_REVISION",
    "LATENCY_COLUMNS",
    "LIVE_SESSION",
    "PRICE_COLUMNS",
    "TOKEN_COLUMNS",
    "USAGE_COUNTS",
    "VERSION_TABLE",
    "VIEWS",
    "cache_entries",
    "history_entries",
    "metadata",
    "session_list_items",
    "session_lists",
    "session_segments",
    "sessions",
    "shared_state",
    "state_entries",
    "summaries",
    "usage_ledger",
    "usage_records",
]
