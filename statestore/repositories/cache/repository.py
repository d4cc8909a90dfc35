"""The result cache: what a caller reads and writes in it."""

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any

from statestore import schema
from statestore.checking import checks, codec
from statestore.checking.codec import Encoded
from statestore.engine.calls import reads, writes, writes_in_one_statement
from statestore.engine.columns import Columns
from statestore.engine.sql import Row, Statement
from statestore.errors import InvalidValueError
from statestore.repositories.cache.base import KEYS, LIVE, entry_columns
from statestore.repositories.cache.holding import HELD
from statestore.repositories.cache.invalidation import CacheInvalidation
from statestore.repositories.cache.statistics import CacheStatistics
from statestore.repositories.cache.writes import CacheWrites
from statestore.values.cache import CacheEntry
from statestore.values.markers import NEVER, NeverType

_MAX_PAGE = 10_000
# More than there can be, and far from where counting on would leave 64 bits.
_MAX_ACCESSES = 10**15

_FOUND = "e.key, e.value, e.codec, e.agent_name, e.version, $now"

_GET_SQL = f"""
    SELECT {_FOUND} FROM $cache_entries AS e WHERE e.namespace = :namespace AND e.key = :key AND {LIVE}"""
_GET, _GET_HELD = Statement(_GET_SQL), Statement(postgresql=f"{_GET_SQL} {HELD}")

_GET_MANY = Statement(f"""
    SELECT {_FOUND} FROM $cache_entries AS e
    WHERE e.namespace = :namespace AND e.key {KEYS} AND {LIVE}""")

_ENTRY_SQL = {
    dialect: f"""
    SELECT {entry_columns(dialect)} FROM $cache_entries AS e
    WHERE e.namespace = :namespace AND e.key = :key AND {LIVE}"""
    for dialect in ("postgresql", "sqlite")
}
_ENTRY, _ENTRY_HELD = Statement(**_ENTRY_SQL), Statement(postgresql=f"{_ENTRY_SQL['postgresql']} {HELD}")

_STANDING_ROW = Columns(schema.cache_entries, "value", "codec", "created_at", "last_accessed_at", "access_count")
_STANDING = Statement(f"""
    SELECT {_STANDING_ROW.select("e")} FROM $cache_entries AS e
    WHERE e.namespace = :namespace AND e.key = :key AND {LIVE}""")

_RESTORE = Statement("""
    UPDATE $cache_entries SET created_at = :created_at, expires_at = :expires_at, keep_until = :keep_until,
        last_accessed_at = :last_accessed_at, access_count = :access_count
    WHERE namespace = :namespace AND key = :key""")


@lru_cache(maxsize=32)
def _page(*, values: bool, agent: bool, tag: bool, after: bool, held: bool) -> Statement:
    """In the order of the keys, each page found in the index."""
    where = ["e.namespace = :namespace", LIVE]
    if agent:
        where.append("e.agent_name = :agent_name")
    if tag:
        where.append("""EXISTS (SELECT 1 FROM $cache_tags AS x WHERE x.namespace = e.namespace AND x.key = e.key
            AND x.version = e.version AND x.tag = :tag)""")
    if after:
        where.append("e.key > :after")
    tail = f"FROM $cache_entries AS e WHERE {' AND '.join(where)} ORDER BY e.key LIMIT :limit {HELD if held else ''}"
    return Statement(
        postgresql=f"SELECT {entry_columns('postgresql', values=values)} {tail}",
        sqlite=f"SELECT {entry_columns('sqlite', values=values)} {tail}",
    )


class CacheRepository(CacheWrites, CacheInvalidation, CacheStatistics):
    """The cache of a namespace."""

    @reads
    def get(self, key: str, default: Any = None, *, agent_name: str | None = None) -> Any:
        """The value of a key. A hit counts as an access, and costs one read.

        Args:
            key: The key.
            default: What to return for a miss: pass MISSING if None may be cached.
            agent_name: The agent that asks, for the statistics: a miss counts for it. A hit counts for the entry's
                agent.

        Returns:
            The value as it was set, or *default* if there is none or it has expired.
        """
        checks.key(key, "key")
        checks.optional_key(agent_name, "agent_name")
        row = self._read_one(_GET, _GET_HELD, key)
        if row is None:
            self._notes.pending.count(self._now(), agent_name, "misses")
            return default
        return self._hit(row)

    @reads
    def get_many(self, keys: Iterable[str], *, agent_name: str | None = None) -> dict[str, Any]:
        """The values of several keys, in one statement. See `get`.

        Returns:
            The values that were found, by key, in the order given.
        """
        wanted = self._once("keys", lambda: _keys(keys))
        checks.optional_key(agent_name, "agent_name")
        if not wanted:
            return {}
        if self._link.holds_reads:
            self._hold(wanted)
        rows = {key: (key, *found) for key, *found in self._link.all(_GET_MANY, keys=wanted)}
        self._notes.pending.count(self._now(), agent_name, "misses", len(wanted) - len(rows))
        return {key: self._hit(rows[key]) for key in wanted if key in rows}

    @reads
    def entry(self, key: str) -> CacheEntry | None:
        """A key's value with its attributes, or None. Does not count as an access."""
        row = self._read_one(_ENTRY, _ENTRY_HELD, checks.key(key, "key"))
        return None if row is None else self._entry(row)

    @reads
    def entries(
        self,
        *,
        agent_name: str | None = None,
        tag: str | None = None,
        values: bool = True,
        after: str | None = None,
        limit: int = 100,
    ) -> list[CacheEntry]:
        """Some entries in the order of their keys. Does not count as an access.

        Args:
            agent_name: Only this agent's.
            tag: Only those set with this tag.
            values: False leaves the values out, which may be large.
            after: Only keys after this one: pass the last key of the previous page.
            limit: The largest number to return, 1 to 10,000.
        """
        checks.optional_key(agent_name, "agent_name")
        checks.optional_key(tag, "tag")
        checks.optional_key(after, "after")
        if checks.count(limit, "limit", least=1) > _MAX_PAGE:
            raise InvalidValueError("limit", f"must be at most {_MAX_PAGE:,}; continue with after=")
        given = {"agent_name": agent_name, "tag": tag, "after": after}
        statement = _page(
            values=bool(values),
            agent=agent_name is not None,
            tag=tag is not None,
            after=after is not None,
            held=self._link.holds_reads,
        )
        params = {name: value for name, value in given.items() if value is not None}
        return [self._entry(row) for row in self._link.all(statement, limit=limit, **params)]

    @writes_in_one_statement
    def set(
        self,
        key: str,
        value: Any,
        *,
        ttl: timedelta | NeverType | None = None,
        tags: Iterable[str] = (),
        agent_name: str | None = None,
        request: Any = None,
        content_hash: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        stale_ttl: timedelta | None = None,
    ) -> None:
        """Store a value, replacing what was there: value, tags and everything else.

        In a full cache a new key evicts expired entries, then the least recently used.

        Args:
            key: 1 to 512 characters.
            value: Any exact JSON value, None included; bytes; or text.
            ttl: How long to keep it from now on: None for the cache's default, NEVER to keep it forever.
            tags: Tags by which it can be invalidated.
            agent_name: The agent whose result it is.
            request: The request that it answers, as exact JSON.
            content_hash: The hash of the content from which it was computed.
            metadata: A mapping of exact JSON.
            stale_ttl: How much longer than *ttl* the value is kept for `get_or_compute(…, stale_ttl=…)`.

        Raises:
            InvalidValueError: The value is not exact JSON, or is too large. Nothing was written.
        """
        encoded = self._once("value", lambda: self._encode(value))
        attributes = self._once(
            "attributes",
            lambda: self._attributes(
                ttl=ttl,
                tags=tags,
                agent_name=agent_name,
                request=request,
                content_hash=content_hash,
                metadata=metadata,
                stale_ttl=stale_ttl,
            ),
        )
        self._write({checks.key(key, "key"): encoded}, attributes)

    @writes_in_one_statement
    def add(
        self,
        key: str,
        value: Any,
        *,
        ttl: timedelta | NeverType | None = None,
        tags: Iterable[str] = (),
        agent_name: str | None = None,
        request: Any = None,
        content_hash: str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> bool:
        """Store a value unless there is one. Of several callers at once, one succeeds. Arguments as for `set`.

        Returns:
            Whether it was stored.
        """
        encoded = self._once("value", lambda: self._encode(value))
        attributes = self._once(
            "attributes",
            lambda: self._attributes(
                ttl=ttl,
                tags=tags,
                agent_name=agent_name,
                request=request,
                content_hash=content_hash,
                metadata=metadata,
            ),
        )
        return self._write({checks.key(key, "key"): encoded}, attributes, absent=True)

    @writes_in_one_statement
    def set_many(
        self,
        values: Mapping[str, Any],
        *,
        ttl: timedelta | NeverType | None = None,
        tags: Iterable[str] = (),
        agent_name: str | None = None,
        request: Any = None,
        content_hash: str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        """Store several values, all or none, in one statement. The other arguments apply to each; see `set`.

        Raises:
            InvalidValueError: As for `set`, or there are more values than the cache keeps. Nothing was written.
        """
        if not isinstance(values, Mapping):
            raise InvalidValueError("values", f"must be a mapping, not {type(values).__name__}")
        encoded = self._once(
            "values",
            lambda: {checks.key(key, "values"): self._encode(value, "values") for key, value in values.items()},
        )
        attributes = self._once(
            "attributes",
            lambda: self._attributes(
                ttl=ttl,
                tags=tags,
                agent_name=agent_name,
                request=request,
                content_hash=content_hash,
                metadata=metadata,
            ),
        )
        if encoded:
            self._write(encoded, attributes)

    @writes
    def restore(self, entry: CacheEntry) -> bool:
        """Store an entry as it was read or saved elsewhere, with its times and its number of accesses.

        It replaces an entry with the same key that was set earlier, but never one that was set later: what others have
        written meanwhile stays. An entry that was invalidated meanwhile comes back.

        Returns:
            Whether it was stored; not if it has expired, or if its key has been set again.

        Raises:
            InvalidValueError: The entry cannot be stored. Nothing was written.
        """
        if not isinstance(entry, CacheEntry):
            raise InvalidValueError("entry", f"must be a CacheEntry, not {type(entry).__name__}")
        checks.key(entry.key, "key")
        expires_at = checks.optional_time(entry.expires_at, "expires_at")
        created_at = _time(entry.created_at, "created_at")
        last_accessed_at = _time(entry.last_accessed_at, "last_accessed_at")
        access_count = checks.count(entry.access_count, "access_count", most=_MAX_ACCESSES)
        now = self._now()
        if expires_at is not None and expires_at <= now:
            return False
        if expires_at is not None and expires_at - now > checks.MAX_TTL:
            raise InvalidValueError(
                "expires_at", f"must be within {checks.MAX_TTL.days:,} days; use None for no expiry"
            )
        encoded = self._once("value", lambda: self._encode(entry.value))
        attributes = self._attributes(
            ttl=NEVER if expires_at is None else expires_at - now,
            tags=entry.tags,
            agent_name=entry.agent_name,
            request=entry.request,
            content_hash=entry.content_hash,
            metadata=None if entry.metadata == {} else entry.metadata,
            stale_ttl=entry.stale_ttl,
        )
        self._hold([entry.key])
        standing = self._link.one(_STANDING, key=entry.key)
        if standing is not None:
            data, codec_name, set_at, used_at, uses = _STANDING_ROW.values(self._link.dialect, standing)
            same = set_at == created_at and codec.same(Encoded(data, codec_name), encoded)
            if not same and set_at >= created_at:
                return False
            if same:  # Hits since then still count.
                last_accessed_at = max(last_accessed_at, used_at)
                access_count = max(access_count, uses)
        self._write({entry.key: encoded}, attributes)
        self._link.run(
            _RESTORE,
            key=entry.key,
            created_at=created_at,
            expires_at=expires_at,
            keep_until=None if expires_at is None else expires_at + (entry.stale_ttl or timedelta(0)),
            last_accessed_at=last_accessed_at,
            access_count=access_count,
        )
        return True

    def _hit(self, row: Row) -> Any:
        key, data, codec_name, agent_name, version, now = row
        value = self._decode(data, codec_name)
        self._notes.pending.hit(key, version, self._link.dialect.time(now), agent_name)
        return value


def _time(value: Any, argument: str) -> datetime:
    found = checks.optional_time(value, argument)
    if found is None:
        raise InvalidValueError(argument, "must be an aware datetime, not None")
    return found


def _keys(keys: Iterable[str]) -> list[str]:
    if isinstance(keys, str) or not isinstance(keys, Iterable):
        raise InvalidValueError("keys", f"must be an iterable of keys, not {type(keys).__name__}")
    return list(dict.fromkeys(checks.key(key, "keys") for key in keys))
