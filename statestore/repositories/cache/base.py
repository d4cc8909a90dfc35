"""What the repositories of the cache share: their state, how a row is read, how the ledger is written."""

import json
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any, TypeVar

from statestore import schema
from statestore.checking import checks, codec, exactjson
from statestore.engine.calls import Call
from statestore.engine.columns import Columns, fields_of
from statestore.engine.sql import Link, Row, Statement
from statestore.engine.sql_parts import arrays, each, unnest
from statestore.engine.sqlite_values import sqlite_time
from statestore.errors import InvalidValueError
from statestore.repositories.base import Repository
from statestore.repositories.cache.limits import CacheState, Notes, Pending
from statestore.schema import CACHE_COUNTERS
from statestore.values.cache import CacheEntry
from statestore.values.fast_dataclass import builder
from statestore.values.markers import MISSING

STATE = "cache state"
"""Where a call carries the `CacheState` that it works with."""
BRIEF = 0.05
"""How many seconds the writing of counts waits for anybody, if nobody has asked for it."""
NOTES = "cache notes"
"""Where it carries what it found and did."""

LIVE = "(e.expires_at IS NULL OR e.expires_at > $now)"
# The same, for RETURNING on SQLite, which knows no alias there.
LIVE_RETURNED = "coalesce(expires_at > $now, 1)"
TODAY = "CAST($now AT TIME ZONE 'UTC' AS date)"

KEYS = "$in(:keys)"
# The keys that begin with a prefix; see `prefix_range`.
BEGINS = "e.key >= :prefix AND e.key < :prefix_end"

# For PostgreSQL, where keys come as an array or from a subquery: by another index than the primary key's, each entry of
# the namespace is compared with all keys.
NAMESPACE = "$namespace"

_HIT = {"key": "text", "version": "bigint", "at": "timestamptz", "stamp": "bigint"}

# Hits that are only noted.
NOTED = {
    "postgresql": f"""SELECT h.key, h.version, h.at, h.stamp
        FROM {unnest("h", _HIT, "noted_{}")}""",
    "sqlite": """SELECT json_extract(value, '$[0]') AS key, json_extract(value, '$[1]') AS version,
        json_extract(value, '$[2]') AS at, json_extract(value, '$[3]') AS stamp FROM json_each(:noted)""",
}

_TAGS_POSTGRESQL = """
    array(SELECT t.tag FROM $cache_tags AS t
        WHERE t.namespace = :namespace AND t.key = e.key AND t.version = e.version ORDER BY t.tag)"""
_TAGS_SQLITE = """
    (SELECT json_group_array(tag) FROM (SELECT t.tag FROM $cache_tags AS t
        WHERE t.namespace = :namespace AND t.key = e.key AND t.version = e.version ORDER BY t.tag))"""


_ENTRY = Columns(schema.cache_entries, *fields_of(CacheEntry, "stale_ttl"), "codec", "keep_until")
_cache_entry = builder(CacheEntry)

F = TypeVar("F", bound=Callable[..., Any])


def shows_counts(method: F) -> F:
    """The operation shows what was noted, so that is written first: then other processes show it as well."""
    method.shows_counts = True  # type: ignore[attr-defined]
    return method


def entry_columns(dialect: str, *, values: bool = True) -> str:
    """The columns that `CacheBase._entry` reads, of an entry `e`."""
    tags = _TAGS_POSTGRESQL if dialect == "postgresql" else _TAGS_SQLITE
    return _ENTRY.select("e", tags=tags, value="e.value" if values else "NULL")


_HIT_COUNTED = _HIT | {"hits": "bigint"}
_COUNTED = {"day": "date", "agent_name": "text", **dict.fromkeys(CACHE_COUNTERS, "bigint")}
_COUNTERS = ", ".join(CACHE_COUNTERS)
_ADDED = each("{0} = l.{0} + excluded.{0}", CACHE_COUNTERS)
ADD_TO_LEDGER = f"ON CONFLICT (namespace, day, agent_name) DO UPDATE SET {_ADDED}"

# On PostgreSQL all hits and all counters in one statement, which waits for nobody: entries that somebody holds are
# skipped and come back, so that their hits are kept for later, and for the ledger's lines it waits a moment at most.
# The setting ends with the statement.
_WRITE_PENDING = Statement(
    postgresql=f"""
    WITH patience AS MATERIALIZED (SELECT set_config('lock_timeout', :patience, true) AS lock_timeout),
    held AS MATERIALIZED (
        SELECT e.key FROM $cache_entries AS e
        WHERE e.namespace = {NAMESPACE} AND e.key $in(:hit_key)
        ORDER BY e.key FOR NO KEY UPDATE OF e SKIP LOCKED),
    hit AS (
        UPDATE $cache_entries AS e SET access_count = e.access_count + h.hits,
            last_accessed_at = greatest(e.last_accessed_at, h.at), access_seq = greatest(e.access_seq, h.stamp)
        FROM {unnest("h", _HIT_COUNTED, "hit_{}")}
        WHERE e.namespace = {NAMESPACE} AND e.key = ANY (array(SELECT held.key FROM held))
            AND e.key = h.key AND e.version = h.version),
    counted AS (
        INSERT INTO $cache_ledger AS l (namespace, day, agent_name, {_COUNTERS})
        SELECT :namespace, {each("c.{}", _COUNTED)}
        FROM {unnest("c", _COUNTED, "counted_{}")}
        WHERE (SELECT lock_timeout FROM patience) IS NOT NULL
        ORDER BY c.day, c.agent_name COLLATE "C"
        {ADD_TO_LEDGER})
    SELECT e.key, e.version FROM $cache_entries AS e
    WHERE e.namespace = {NAMESPACE} AND e.key $in(:hit_key)
        AND NOT EXISTS (SELECT 1 FROM held WHERE held.key = e.key)"""
)
_WRITE_HITS_SQLITE = Statement(
    sqlite="""
    UPDATE $cache_entries SET access_count = access_count + :hits,
        last_accessed_at = max(last_accessed_at, :at), access_seq = max(access_seq, :stamp)
    WHERE namespace = :namespace AND key = :key AND version = :version"""
)
_WRITE_COUNTERS_SQLITE = Statement(
    sqlite=f"""
    INSERT INTO $cache_ledger AS l (namespace, day, agent_name, {_COUNTERS})
    VALUES (:namespace, {each(":{}", _COUNTED)})
    {ADD_TO_LEDGER}"""
)


class CacheBase(Repository):
    """A repository of the cache: knows the state that its call came with, and takes notes for it."""

    def __init__(self, link: Link, call: Call) -> None:
        super().__init__(link, call)
        self._state: CacheState = call.memo[STATE]
        before: Notes | None = call.memo.get(NOTES)
        if before is not None:  # Of a try that failed.
            self._state.fail(before)
        self._notes = call.memo[NOTES] = self._state.notes()
        self._postgresql = link.dialect.name == "postgresql"

    def _now(self) -> datetime:
        """The time, for what is only noted: even if the server's clock rules, ours will do."""
        return self._link.now_here()

    def _decode(self, data: bytes, codec_name: str) -> Any:
        return codec.decode(data, codec_name, max_bytes=self._link.settings.max_value_bytes)

    def _entry(self, row: Row) -> CacheEntry:
        """An entry, with the hits that are only noted."""
        found = _ENTRY.named(self._link.dialect, row)
        codec_name, keep_until = found.pop("codec"), found.pop("keep_until")
        version = found.pop("version")
        hits, at, _ = self._state.hits_of(found["key"], version) or (0, found["last_accessed_at"], 0)
        found["value"] = MISSING if found["value"] is None else self._decode(found["value"], codec_name)
        found["metadata"] = found["metadata"] or {}
        found["tags"] = tuple(found["tags"] if self._postgresql else json.loads(found["tags"]))
        found["last_accessed_at"] = max(found["last_accessed_at"], at)
        found["access_count"] += hits
        expires_at = found["expires_at"]
        stale_ttl = None if keep_until == expires_at else keep_until - expires_at
        # In the order of the fields of CacheEntry.
        return _cache_entry(*found.values(), stale_ttl, version)

    def _write_pending(self) -> None:
        """Write what has been noted until now: in a transaction on SQLite, in one statement on PostgreSQL."""
        taken = self._state.take()
        if not taken:
            return
        self._notes.taken.add(taken)
        if not self._postgresql:
            self._link.many(_WRITE_HITS_SQLITE, _hit_rows(taken.hits))
            self._add_on_sqlite(taken)
            return
        hits, counters = _hit_rows(taken.hits), _counter_rows(taken)
        held_by_others = self._link.all(
            _WRITE_PENDING,
            patience=str(max(1, int((self._call.patience or BRIEF) * 1000))),
            **arrays(hits, _HIT_COUNTED, "hit_{}"),
            **arrays(counters, _COUNTED, "counted_{}"),
        )
        skipped = {entry: taken.hits[entry] for entry in held_by_others if entry in taken.hits}
        self._notes.skipped = Pending(skipped)

    def _add_on_sqlite(self, counts: Pending) -> None:
        self._link.many(_WRITE_COUNTERS_SQLITE, _counter_rows(counts))

    def _noted(self, hits: Mapping[tuple[str, int], tuple[int, datetime, int]]) -> dict[str, Any]:
        """The parameters of `NOTED`."""
        if self._postgresql:
            return arrays(_hit_rows(hits), _HIT, "noted_{}")
        return {"noted": [(key, version, sqlite_time(at), stamp) for (key, version), (_, at, stamp) in hits.items()]}


def _hit_rows(hits: Mapping[tuple[str, int], tuple[int, datetime, int]]) -> list[dict[str, Any]]:
    return [
        {"key": key, "version": version, "hits": number, "at": at, "stamp": stamp}
        for (key, version), (number, at, stamp) in sorted(hits.items())
    ]


def _counter_rows(pending: Pending) -> list[dict[str, Any]]:
    zeros = dict.fromkeys(CACHE_COUNTERS, 0)
    return [
        {"day": day, "agent_name": agent_name, **zeros, **counters}
        for (day, agent_name), counters in sorted(pending.counters.items())
    ]


def tags(values: Any, argument: str = "tags") -> list[str]:
    """Tags, each once, in the order given."""
    if isinstance(values, str):
        raise InvalidValueError(argument, "must be a list of tags, not a string; put a single tag into a list")
    if not isinstance(values, Iterable):
        raise InvalidValueError(argument, f"must be a list of tags, not {type(values).__name__}")
    return list(dict.fromkeys(checks.key(tag, argument) for tag in values))


def json_or_none(value: Any, argument: str, max_bytes: int) -> str | None:
    """Exact JSON; None is kept as nothing at all."""
    return None if value is None else exactjson.dumps(value, argument, max_bytes=max_bytes)
