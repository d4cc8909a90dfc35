"""Statements that are built for a shape: the shape in which each of them is shown.

The key is a function that keeps the statements it has built. What is missing here makes `tests/unit` fail.
"""

from typing import Any

from statestore.engine.sql import Statement
from statestore.reports import queries
from statestore.repositories.cache import counters as cache_counters
from statestore.repositories.cache import listing as cache_listing
from statestore.repositories.cache import statements as cache_statements
from statestore.repositories.expiry import backlog
from statestore.repositories.history import append_batches, appending, entry_edits, entry_reads, entry_rows, reading
from statestore.repositories.sessions import holding, lifecycle, listing, session_rows, statistics
from statestore.repositories.state import scopes
from statestore.repositories.state import statements as state
from statestore.repositories.usage import report_sql

_COLUMNS = ("provider_name", "request_model", "input_tokens", "output_tokens", "cost_usd")
_PLAIN_READ: Statement = entry_reads._READ

_LISTED = ("s.namespace = :namespace", "$live", "s.belongs_to IS NULL")

SHAPES: dict[Any, tuple[str, dict[str, Any]]] = {
    append_batches._statement: (
        "entries that say what they used, whose cost was computed",
        {"columns": _COLUMNS, "priced": True},
    ),
    appending._postgresql: (
        "two plain messages with ids of their caller's",
        {"count": 2, "columns": (), "new": True} | dict.fromkeys(("at", "same", "leased", "priced", "part"), False),
    ),
    entry_rows.insert_one: ("an entry that says what it used", {"columns": _COLUMNS}),
    entry_edits._at_once: (
        "the content, if it is the one expected",
        {"columns": ("content", "content_bytes"), "by": "seq", "conditions": (entry_edits.SAME_CONTENT,)},
    ),
    entry_edits._in_place: ("what is noted about it", {"columns": ("metadata",)}),
    reading._filtered: ("the newest of a role", {"filters": ("role",), "newest": True, "forks": False}),
    cache_listing._page: (
        "the entries of an agent that have a tag, with their values, from the second page on",
        {"columns": "all", "filters": ("agent_name", "tag", "after"), "held": False},
    ),
    cache_counters._count: ("of an entry that is given another end", {"ends": True}),
    cache_counters._set_number: ("of an entry that is given another end", {"ends": True}),
    cache_statements.set_postgresql: (
        "several values, in a cache that is limited by the number of its entries and may be full",
        {"values": "several", "limited_by": "entries"},
    ),
    cache_statements.set_one_postgresql: ("a value with tags and a description", {"tagged": True, "described": True}),
    cache_statements.replace_one_postgresql: (
        "a value with tags and a description",
        {"tagged": True, "described": True},
    ),
    cache_statements.set_sqlite: ("two values", {"rows": 2}),
    holding._holding: ("the read of a history", {"statement": _PLAIN_READ}),
    lifecycle._set_status: (
        "from ready to busy, by who holds a lease",
        {"to": "busy", "leased": True, "repeated": False},
    ),
    listing._count_statement: ("of a user", {"conditions": (*_LISTED, "s.user_id = :user_id")}),
    listing._page_statement: (
        "a user's sessions with a key of metadata and a text in the title, the latest first, from the second page on, "
        "and how many there are",
        {
            "conditions": (*_LISTED, "s.user_id = :user_id", "<title>", "<metadata 0>"),
            "order_by": "last_activity_at",
            "descending": True,
            "continues": True,
            "with_total": True,
            "several": False,
        },
    ),
    report_sql.measured: (
        "by model and day, in a time zone whose distance from UTC changes once in the period",
        {
            "keys": ("local_day", "provider_name", "model"),
            "filters": ("user_id",),
            "changes": 1,
            "order": f"local_day, {report_sql.HEAVIEST}",
            "ends": False,
            "limited": True,
        },
    ),
    queries._latencies: ("three bars of the time axis", {"boundaries": 2}),
    queries._sums: ("three bars of the time axis", {"boundaries": 2}),
    report_sql.span: ("of the store's namespace", {"within": report_sql.OWN}),
    report_sql.cache_by_day: ("of the store's namespace", {"within": report_sql.OWN}),
    report_sql.storage: ("of the store's namespace", {"within": report_sql.OWN}),
    backlog._backlog: ("of the store's namespace, with a retention", {"within": backlog._OWN, "idle": (backlog._OWN,)}),
    backlog._max_idle: ("of the store's namespace", {"within": backlog._OWN}),
    statistics.store_stats: ("of the store's namespace", {"within": statistics.OWN}),
    session_rows.update_statement: ("the title, of a known revision", {"columns": ("title",), "checked": True}),
    state.set_many: ("two keys of a session", {"scope": scopes.SESSION, "count": 2, "alone": False}),
}
