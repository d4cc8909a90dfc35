"""The SQL that one would write by hand for the same work on the same tables: the measure that everything is held to.

An append changes the session's row as statestore's does (next position, turn, last activity, expiry) and inserts the
same columns. A read checks in the same statement that the session lives, and selects the same columns.
"""

import time
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson

NAMESPACE = "default"

_COLUMNS = """h.session_id, h.seq, h.turn, h.entry_id, h.role, h.agent_name, {content}, {metadata}, h.input_tokens,
    h.output_tokens, h.cache_read_input_tokens, h.cache_write_input_tokens, h.reasoning_output_tokens, h.provider_name,
    h.request_model, h.response_model, h.cost_usd, h.tool_name, h.tool_call_id, h.duration_ms, h.finish_reason,
    h.error_type, h.content_bytes, h.created_at"""
_COLUMNS_POSTGRESQL = _COLUMNS.format(content="h.content::text", metadata="h.metadata::text")
_COLUMNS_SQLITE = _COLUMNS.format(content="h.content", metadata="h.metadata")
CONTENT = 6

# Both kinds of placeholders are positional.
_LIVE = "(s.expires_at IS NULL OR s.expires_at > statement_timestamp())"
_ACTIVE = """last_activity_at = statement_timestamp(),
    active_hour = date_trunc('hour', statement_timestamp(), 'UTC'), expires_at = statement_timestamp() + s.ttl"""
_THIS = f"s.namespace = %s AND s.session_id = %s AND {_LIVE}"

CREATE = """
    INSERT INTO statestore.sessions (namespace, session_id, root_session_id, created_at, last_activity_at, active_hour)
    VALUES (%s, %s, %s, statement_timestamp(), statement_timestamp(),
        date_trunc('hour', statement_timestamp(), 'UTC'))
    ON CONFLICT DO NOTHING RETURNING session_id, created_at"""

READ_LAST = f"""
    SELECT {_COLUMNS_POSTGRESQL} FROM statestore.sessions AS s
    LEFT JOIN statestore.history_entries AS h ON h.namespace = s.namespace AND h.session_id = s.session_id
        AND h.seq BETWEEN greatest(s.first_seq, s.next_seq - %s) AND s.next_seq - 1
    WHERE {_THIS} ORDER BY h.seq"""
READ_ALL = f"""
    SELECT {_COLUMNS_POSTGRESQL} FROM statestore.sessions AS s
    LEFT JOIN statestore.history_entries AS h ON h.namespace = s.namespace AND h.session_id = s.session_id
        AND h.seq BETWEEN s.first_seq AND s.next_seq - 1
    WHERE {_THIS} ORDER BY h.seq"""

# Nothing but the contents: it does not ask whether the session lives, nor from where on its entries are its own.
CONTENTS = """
    SELECT content::text FROM statestore.history_entries WHERE namespace = %s AND session_id = %s
    ORDER BY seq DESC LIMIT %s"""
# As one writes it by hand: what the driver decodes by itself.
SELECT_CONTENT = CONTENTS.replace("content::text", "content")

GET = f"""
    SELECT e.value::text, e.version FROM statestore.sessions AS s
    LEFT JOIN statestore.state_entries AS e ON e.namespace = s.namespace AND e.session_id = s.session_id
        AND e.key = %s AND (e.expires_at IS NULL OR e.expires_at > statement_timestamp())
    WHERE {_THIS}"""
SET = f"""
    WITH session AS (UPDATE statestore.sessions AS s SET {_ACTIVE} WHERE {_THIS} RETURNING s.session_id)
    INSERT INTO statestore.state_entries AS e (namespace, session_id, key, value, updated_at)
    SELECT %s, session.session_id, %s, %s::json, statement_timestamp() FROM session
    ON CONFLICT (namespace, session_id, key) DO UPDATE
        SET value = excluded.value, updated_at = excluded.updated_at, version = e.version + 1
    RETURNING e.version"""
CACHE_GET = """
    SELECT value FROM statestore.cache_entries
    WHERE namespace = %s AND key = %s AND (expires_at IS NULL OR expires_at > statement_timestamp())"""
CACHE_SET = """
    INSERT INTO statestore.cache_entries AS e (namespace, key, value, codec, size_bytes, version, created_at,
        expires_at, keep_until, last_accessed_at, access_seq)
    VALUES (%s, %s, %s, 'json', %s, %s, statement_timestamp(), statement_timestamp() + %s,
        statement_timestamp() + %s, statement_timestamp(), 0)
    ON CONFLICT (namespace, key) DO UPDATE SET value = excluded.value, codec = excluded.codec,
        size_bytes = excluded.size_bytes, version = excluded.version, created_at = excluded.created_at,
        expires_at = excluded.expires_at, keep_until = excluded.keep_until,
        last_accessed_at = excluded.last_accessed_at, access_seq = excluded.access_seq
    RETURNING created_at"""


def append_statement(count: int) -> str:
    values = ", ".join([f"({index}::bigint, %s, %s::bigint, %s, %s::json, %s::bigint)" for index in range(count)])
    return f"""
        WITH session AS (
            UPDATE statestore.sessions AS s SET next_seq = s.next_seq + %s, last_turn = s.last_turn + %s, {_ACTIVE}
            WHERE {_THIS} RETURNING next_seq - %s AS first_seq, last_turn - %s AS base_turn)
        INSERT INTO statestore.history_entries
            (namespace, session_id, seq, entry_id, turn, role, content, content_bytes, created_at)
        SELECT %s, %s, session.first_seq + v.i, v.entry_id, session.base_turn + v.turn, v.role, v.content,
            v.content_bytes, statement_timestamp()
        FROM session, (VALUES {values}) AS v (i, entry_id, turn, role, content, content_bytes)
        RETURNING seq, turn, created_at"""


def append_parameters(session_id: str, messages: list[dict[str, Any]]) -> list[Any]:
    rows, turns = prepared(messages)
    count = len(messages)
    parameters = [count, turns, NAMESPACE, session_id, count, turns, NAMESPACE, session_id]
    for row in rows:
        parameters += row
    return parameters


def prepared(messages: list[dict[str, Any]]) -> tuple[list[tuple[str, int, str, str, int]], int]:
    """Each entry's id, turn, role, JSON and size; and how many turns begin."""
    turn = 0
    rows = []
    for message in messages:
        content = orjson.dumps(message)
        role = message["role"]
        turn += role == "user"
        rows.append((str(uuid.uuid4()), turn, role, content.decode(), len(content)))
    return rows, turn


def decoded(rows: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """The rows with their content decoded, as light as it goes."""
    if not rows:
        raise LookupError("no such session")
    loads = orjson.loads
    return [(*row[:CONTENT], loads(row[CONTENT]), *row[CONTENT + 1 :]) for row in rows if row[1] is not None]


def contents(newest_first: list[tuple[Any, ...]]) -> list[Any]:
    return [orjson.loads(row[0]) for row in reversed(newest_first)]


def value_of(row: tuple[Any, ...] | None) -> Any:
    if row is None:
        raise LookupError("no such session")
    return orjson.loads(row[0])


# SQLite. It has no statements that change two tables, so each write is a short transaction of two.

PRAGMAS = (
    "PRAGMA busy_timeout = 10000",
    "PRAGMA foreign_keys = ON",
    "PRAGMA synchronous = FULL",
    "PRAGMA secure_delete = ON",
    "PRAGMA journal_mode = WAL",
)
_LIVE_SQLITE = "(s.expires_at IS NULL OR s.expires_at > ?)"

SQLITE_CREATE = """
    INSERT INTO sessions (namespace, session_id, root_session_id, created_at, last_activity_at, active_hour)
    VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING RETURNING session_id, created_at"""
SQLITE_READ_LAST = f"""
    SELECT {_COLUMNS_SQLITE} FROM sessions AS s
    LEFT JOIN history_entries AS h ON h.namespace = s.namespace AND h.session_id = s.session_id
        AND h.seq BETWEEN max(s.first_seq, s.next_seq - ?) AND s.next_seq - 1
    WHERE s.namespace = ? AND s.session_id = ? AND {_LIVE_SQLITE} ORDER BY h.seq"""
SQLITE_CONTENTS = """
    SELECT content FROM history_entries WHERE namespace = ? AND session_id = ? ORDER BY seq DESC LIMIT ?"""
SQLITE_READ_ALL = f"""
    SELECT {_COLUMNS_SQLITE} FROM sessions AS s
    LEFT JOIN history_entries AS h ON h.namespace = s.namespace AND h.session_id = s.session_id
        AND h.seq BETWEEN s.first_seq AND s.next_seq - 1
    WHERE s.namespace = ? AND s.session_id = ? AND {_LIVE_SQLITE} ORDER BY h.seq"""
SQLITE_GET = f"""
    SELECT e.value, e.version FROM sessions AS s
    LEFT JOIN state_entries AS e ON e.namespace = s.namespace AND e.session_id = s.session_id AND e.key = ?
        AND (e.expires_at IS NULL OR e.expires_at > ?)
    WHERE s.namespace = ? AND s.session_id = ? AND {_LIVE_SQLITE}"""
# The lifetime that slides along is 0 here, as these sessions have none; with one it would be added to the time.
SQLITE_ADVANCE = f"""
    UPDATE sessions AS s SET next_seq = s.next_seq + ?, last_turn = s.last_turn + ?, last_activity_at = ?,
        active_hour = ?, expires_at = s.ttl + ?
    WHERE s.namespace = ? AND s.session_id = ? AND {_LIVE_SQLITE} RETURNING next_seq - ?, last_turn - ?"""
SQLITE_ACTIVE = f"""
    UPDATE sessions AS s SET last_activity_at = ?, active_hour = ?, expires_at = s.ttl + ?
    WHERE s.namespace = ? AND s.session_id = ? AND {_LIVE_SQLITE}"""
SQLITE_INSERT = """
    INSERT INTO history_entries
        (namespace, session_id, seq, entry_id, turn, role, content, content_bytes, created_at)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"""
SQLITE_SET = """
    INSERT INTO state_entries AS e (namespace, session_id, key, value, updated_at) VALUES (?, ?, ?, ?, ?)
    ON CONFLICT (namespace, session_id, key) DO UPDATE
        SET value = excluded.value, updated_at = excluded.updated_at, version = e.version + 1
    RETURNING version"""
SQLITE_CACHE_GET = """
    SELECT value FROM cache_entries WHERE namespace = ? AND key = ? AND (expires_at IS NULL OR expires_at > ?)"""
SQLITE_CACHE_SET = """
    INSERT INTO cache_entries AS e (namespace, key, value, codec, size_bytes, version, created_at,
        expires_at, keep_until, last_accessed_at, access_seq)
    VALUES (?, ?, ?, 'json', ?, ?, ?, ?, ?, ?, 0)
    ON CONFLICT (namespace, key) DO UPDATE SET value = excluded.value, codec = excluded.codec,
        size_bytes = excluded.size_bytes, version = excluded.version, created_at = excluded.created_at,
        expires_at = excluded.expires_at, keep_until = excluded.keep_until,
        last_accessed_at = excluded.last_accessed_at, access_seq = excluded.access_seq"""


def now_text() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")[:26] + "Z"


def cache_parameters(key: str, value: Any) -> tuple[Any, ...]:
    content = orjson.dumps(value)
    hour = timedelta(hours=1)
    return (NAMESPACE, key, content, len(content), time.time_ns() // 1000, hour, hour)


def sqlite_cache_parameters(key: str, value: Any) -> tuple[Any, ...]:
    content = orjson.dumps(value)
    now = datetime.now(UTC)
    written = now.isoformat(timespec="microseconds")[:26] + "Z"
    expires = (now + timedelta(hours=1)).isoformat(timespec="microseconds")[:26] + "Z"
    return (NAMESPACE, key, content, len(content), time.time_ns() // 1000, written, expires, expires, written)


def hour_of(now: str) -> str:
    return now[:13] + ":00:00.000000Z"


def advance_parameters(session_id: str, count: int, turns: int, now: str) -> tuple[Any, ...]:
    return (count, turns, now, hour_of(now), 0, NAMESPACE, session_id, now, count, turns)


def active_parameters(session_id: str, now: str) -> tuple[Any, ...]:
    return (now, hour_of(now), 0, NAMESPACE, session_id, now)


def insert_rows(
    session_id: str, rows: list[tuple[str, int, str, str, int]], head: tuple[int, int], now: str
) -> list[tuple[Any, ...]]:
    first_seq, base_turn = head
    return [
        (NAMESPACE, session_id, first_seq + index, entry_id, base_turn + turn, role, content, size, now)
        for index, (entry_id, turn, role, content, size) in enumerate(rows)
    ]
