"""The tables, and which revision of them a database has."""

from statestore.schema.tables import (
    CACHE_COUNTERS,
    DEFAULT_SCHEMA,
    HEAD_REVISION,
    PRICE_COLUMNS,
    TOKEN_COLUMNS,
    VERSION_TABLE,
    VIEWS,
    cache_entries,
    history_entries,
    metadata,
    session_segments,
    sessions,
    state_entries,
    summaries,
    usage_ledger,
)

__all__ = [
    "CACHE_COUNTERS",
    "DEFAULT_SCHEMA",
    "HEAD_REVISION",
    "PRICE_COLUMNS",
    "TOKEN_COLUMNS",
    "VERSION_TABLE",
    "VIEWS",
    "cache_entries",
    "history_entries",
    "metadata",
    "session_segments",
    "sessions",
    "state_entries",
    "summaries",
    "usage_ledger",
]
