"""A small and a large database of the same shape, made by SQL: to see what grows with the number of rows.

Large is a million entries (50,000 sessions of 20), another 50,000 sessions without any, a million state keys and a
million cached entries; small is a thousandth of it. Entries are of the last hundred days. A user has as many sessions
in both, so that a page of them is the same work.
"""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import orjson
import psycopg

from benchmarks import data
from statestore import StateStore, migrate

ENTRIES_EACH = 20
KEYS_EACH = data.STATE_KEYS
SESSIONS_OF_A_USER = 1_000
DAYS = 100
_STATE = '{"language":"en","step":7,"plan":"look it up, compare, then answer in one paragraph"}'

# Every figure in braces is filled in; both databases have these statements in their own words.
_POSTGRESQL = (
    """INSERT INTO statestore.sessions (namespace, session_id, user_id, root_session_id, next_seq, last_turn,
            created_at, last_activity_at, active_hour)
        SELECT 'default', 'grown-' || i, 'user-' || i % {users}, 'grown-' || i,
            CASE WHEN i < {talking} THEN {each} + 1 ELSE 1 END, CASE WHEN i < {talking} THEN {each} / 2 ELSE 0 END,
            t, t, date_trunc('hour', t, 'UTC')
        FROM generate_series(0, {sessions} - 1) AS i,
            LATERAL (SELECT now() - i * interval '{spacing} seconds' AS t) AS at""",
    """INSERT INTO statestore.history_entries (namespace, session_id, seq, entry_id, turn, role, content,
            content_bytes, created_at, request_model, input_tokens, output_tokens, cost_usd, duration_ms)
        SELECT 'default', 'grown-' || i, seq, 'entry-' || i || '-' || seq, (seq + 1) / 2,
            CASE WHEN seq %% 2 = 1 THEN 'user' ELSE 'assistant' END, %s::json, 1024,
            now() - interval '1 hour' - i * interval '{apart} seconds',
            CASE WHEN seq %% 2 = 0 THEN 'model-' || i %% 3 END, CASE WHEN seq %% 2 = 0 THEN 900 + i %% 100 END,
            CASE WHEN seq %% 2 = 0 THEN 100 + seq END, CASE WHEN seq %% 2 = 0 THEN 0.0042 END,
            CASE WHEN seq %% 2 = 0 THEN 500 + i %% 1000 END
        FROM generate_series(0, {talking} - 1) AS i, generate_series(1, {each}) AS seq""",
    """INSERT INTO statestore.state_entries (namespace, session_id, key, value, updated_at)
        SELECT 'default', 'grown-' || i, 'key-' || k, %s::json, now()
        FROM generate_series(0, {sessions} - 1) AS i, generate_series(0, {keys} - 1) AS k""",
    """INSERT INTO statestore.cache_entries (namespace, key, value, codec, size_bytes, version, created_at, expires_at,
            keep_until, last_accessed_at, access_seq)
        SELECT 'default', 'cached-' || i, convert_to(%s, 'UTF8'), 'json', 86, i, now(), now() + interval '1 day',
            now() + interval '1 day', now(), i
        FROM generate_series(0, {cached} - 1) AS i""",
)
_NUMBERS = "WITH RECURSIVE n (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < {%s})"
_NOW = "strftime('%Y-%m-%dT%H:%M:%S.000000Z', 'now')"
_TOMORROW = "strftime('%Y-%m-%dT%H:%M:%S.000000Z', 'now', '+1 day')"
_AT = "strftime('%Y-%m-%dT%H:%M:%S.000000Z', 'now', (-i * {spacing}) || ' seconds')"
_SAID = "strftime('%Y-%m-%dT%H:%M:%S.000000Z', 'now', '-1 hour', (-(i / {each}) * {apart}) || ' seconds')"
_ANSWERS = "CASE WHEN i % 2 = 1 THEN"
_SQLITE = (
    _NUMBERS % "sessions"
    + f"""INSERT INTO sessions (namespace, session_id, user_id, root_session_id, next_seq, last_turn,
            created_at, last_activity_at, active_hour)
        SELECT 'default', 'grown-' || i, 'user-' || (i % {{users}}), 'grown-' || i,
            CASE WHEN i < {{talking}} THEN {{each}} + 1 ELSE 1 END,
            CASE WHEN i < {{talking}} THEN {{each}} / 2 ELSE 0 END,
            {_AT}, {_AT}, substr({_AT}, 1, 13) || ':00:00.000000Z' FROM n""",
    _NUMBERS % "entries"
    + f"""INSERT INTO history_entries (namespace, session_id, seq, entry_id, turn, role, content, content_bytes,
            created_at, request_model, input_tokens, output_tokens, cost_usd, duration_ms)
        SELECT 'default', 'grown-' || (i / {{each}}), i % {{each}} + 1, 'entry-' || i, i % {{each}} / 2 + 1,
            CASE WHEN i % 2 = 0 THEN 'user' ELSE 'assistant' END, ?, 1024, {_SAID},
            {_ANSWERS} 'model-' || i / {{each}} % 3 END, {_ANSWERS} 900 + i / {{each}} % 100 END,
            {_ANSWERS} 100 + i % {{each}} END, {_ANSWERS} 0.0042 END, {_ANSWERS} 500 + i / {{each}} % 1000 END
        FROM n""",
    _NUMBERS % "state"
    + f"""INSERT INTO state_entries (namespace, session_id, key, value, updated_at)
        SELECT 'default', 'grown-' || (i / {{keys}}), 'key-' || (i % {{keys}}), ?, {_NOW} FROM n""",
    _NUMBERS % "cached"
    + f"""INSERT INTO cache_entries (namespace, key, value, codec, size_bytes, version, created_at, expires_at,
            keep_until, last_accessed_at, access_seq)
        SELECT 'default', 'cached-' || i, CAST(? AS BLOB), 'json', 86, i, {_NOW}, {_TOMORROW}, {_TOMORROW}, {_NOW}, i
        FROM n""",
)


def sizes(entries: int) -> dict[str, Any]:
    """How many of what a database of so many *entries* has."""
    talking = entries // ENTRIES_EACH
    sessions = max(2 * talking, SESSIONS_OF_A_USER)
    return {
        "entries": entries,
        "talking": talking,
        "each": ENTRIES_EACH,
        "sessions": sessions,
        "users": max(1, sessions // SESSIONS_OF_A_USER),
        # A user's sessions lie as far apart in both, 100 seconds.
        "spacing": 100 * SESSIONS_OF_A_USER // sessions or 100 * SESSIONS_OF_A_USER / sessions,
        # Their entries are of as many days: those of the last sessions are the oldest.
        "apart": DAYS * 86_400 / talking,
        "keys": KEYS_EACH,
        "state": sessions * KEYS_EACH,
        "cached": entries,
    }


def grow(url: str, entries: int, *, analyze: bool = True, **other: int) -> None:
    """Fill an empty database with so many history entries, and with all else in proportion, or as given."""
    figures = sizes(entries) | other
    message = orjson.dumps(data.message(0)).decode()  # As the store writes it.
    values = ((), (message,), (_STATE,), (_STATE,))
    if not url.startswith("sqlite"):
        migrate.upgrade(url)
        with psycopg.connect(url, autocommit=True) as connection:
            for statement, parameters in zip(_POSTGRESQL, values, strict=True):
                if "cache_entries" in statement and not _has_cache(url):
                    continue
                connection.execute(statement.format(**figures).encode(), parameters or None)
            if analyze:
                connection.execute("VACUUM (ANALYZE)")
            connection.execute("CHECKPOINT")
        return
    StateStore.open(url).close()
    with closing(sqlite3.connect(Path(url.removeprefix("sqlite:///")), isolation_level=None)) as connection:
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("BEGIN")
        for statement, parameters in zip(_SQLITE, values, strict=True):
            if "cache_entries" in statement and not _has_cache(url):
                continue
            connection.execute(statement.format(**figures), parameters)
        connection.execute("COMMIT")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _has_cache(url: str) -> bool:
    with StateStore.open(url) as store:
        return hasattr(store, "cache")
