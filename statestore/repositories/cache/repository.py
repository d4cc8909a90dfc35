"""The result cache: what a caller reads and writes in it."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Literal

from statestore import schema
from statestore.checking import checks, codec
from statestore.checking.codec import Encoded
from statestore.engine.calls import reads, writes, writes_in_one_statement
from statestore.engine.columns import Columns
from statestore.engine.sql import Row, Statement
from statestore.errors import InvalidValueError
from statestore.repositories.cache.base import KEYS, LIVE, entry_columns, shows_counts
from statestore.repositories.cache.counters import CacheCounters
from statestore.repositories.cache.endings import CacheEndings
from statestore.repositories.cache.holding import HELD
from statestore.repositories.cache.invalidation import CacheInvalidation
from statestore.repositories.cache.listing import CacheListing
from statestore.repositories.cache.statistics import CacheStatistics
from statestore.repositories.cache.writes import Attributes, Condition
from statestore.values.cache import CacheEntry, CacheItem, CacheTtl
from statestore.values.markers import NEVER

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


class CacheRepository(CacheCounters, CacheInvalidation, CacheEndings, CacheListing, CacheStatistics):
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
        wanted = self._once("keys", lambda: checks.keys(keys, "keys"))
        checks.optional_key(agent_name, "agent_name")
        if not wanted:
            return {}
        if self._link.holds_reads:
            self._hold(wanted)
        rows = {key: (key, *found) for key, *found in self._link.all(_GET_MANY, keys=wanted)}
        self._notes.pending.count(self._now(), agent_name, "misses", len(wanted) - len(rows))
        return {key: self._hit(rows[key]) for key in wanted if key in rows}

    @reads
    @shows_counts
    def entry(self, key: str) -> CacheEntry | None:
        """A key's value with its attributes, or None. Does not count as an access."""
        row = self._read_one(_ENTRY, _ENTRY_HELD, checks.key(key, "key"))
        return None if row is None else self._entry(row)

    @writes_in_one_statement
    def set(
        self,
        key: str,
        value: Any,
        *,
        ttl: CacheTtl | None = None,
        tags: Iterable[str] = (),
        agent_name: str | None = None,
        request: Any = None,
        content_hash: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        stale_ttl: timedelta | float | None = None,
        only_if: Literal["missing", "present"] | None = None,
        expected_version: int | None = None,
    ) -> bool:
        """Store a value, replacing what was there: value, tags and everything else.

        In a full cache a new key evicts expired entries, then the least recently used.

        Args:
            key: 1 to 512 characters.
            value: Any exact JSON value, None included; bytes; or text.
            ttl: How long to keep it from now on, as a timedelta or in seconds, or the time at which it ends, as an
                aware datetime; None for the cache's default, NEVER to keep it forever.
            tags: Tags by which it can be invalidated.
            agent_name: The agent whose result it is.
            request: The request that it answers, as exact JSON.
            content_hash: The hash of the content from which it was computed.
            metadata: A mapping of exact JSON.
            stale_ttl: How much longer than *ttl* the value is kept for `get_or_compute(…, stale_ttl=…)`.
            only_if: `missing` to store it only if there is no value, `present` only if there is one. An expired one is
                none. Of several callers at once who find none, one stores its value.
            expected_version: Store it only if the value that is there has this version, which `entry` tells; 0 is the
                same as `only_if="missing"`. Of several callers at once, one succeeds.

        Returns:
            Whether it was stored, which is always so without a condition.

        Raises:
            InvalidValueError: The value is not exact JSON, or is too large. Nothing was written.
            CommitUnknownError: Only for `present` and *expected_version*: the connection was lost, and the value may
                or may not have been stored.
        """
        checks.key(key, "key")
        condition = _condition(only_if, expected_version)
        encoded = self._once("value", lambda: self._encode(value))
        attributes = self._attributes(
            ttl=ttl,
            tags=tags,
            agent_name=agent_name,
            request=request,
            content_hash=content_hash,
            metadata=metadata,
            stale_ttl=stale_ttl,
        )
        if condition not in (None, "missing"):
            self._call.repeatable = False  # A second try would find what the first one wrote.
        return self._write({key: encoded}, attributes, only_if=condition)

    @writes_in_one_statement
    def add(
        self,
        key: str,
        value: Any,
        *,
        ttl: CacheTtl | None = None,
        tags: Iterable[str] = (),
        agent_name: str | None = None,
        request: Any = None,
        content_hash: str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> bool:
        """Store a value unless there is one, as `set(…, only_if="missing")` does. Arguments as for `set`.

        Returns:
            Whether it was stored.
        """
        checks.key(key, "key")
        encoded = self._once("value", lambda: self._encode(value))
        attributes = self._attributes(
            ttl=ttl,
            tags=tags,
            agent_name=agent_name,
            request=request,
            content_hash=content_hash,
            metadata=metadata,
        )
        return self._write({key: encoded}, attributes, only_if="missing")

    @writes_in_one_statement
    def set_many(
        self,
        values: Mapping[str, Any],
        *,
        ttl: CacheTtl | None = None,
        tags: Iterable[str] = (),
        agent_name: str | None = None,
        request: Any = None,
        content_hash: str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        """Store several values, all or none, in one statement. The other arguments apply to each; see `set`.

        Args:
            values: By key: a value, or a `CacheItem`, which may have a lifetime and tags of its own.
            ttl: For those that have none of their own.
            tags: For all, beside their own.
            agent_name: …
            request: …
            content_hash: …
            metadata: …

        Raises:
            InvalidValueError: As for `set`, or there are more values than the cache keeps. Nothing was written.
        """
        if not isinstance(values, Mapping):
            raise InvalidValueError("values", f"must be a mapping, not {type(values).__name__}")
        items = self._once("items", lambda: {checks.key(key, "values"): value for key, value in values.items()})
        encoded = self._once("values", lambda: self._encoded(items))
        attributes = self._attributes(
            ttl=ttl,
            tags=tags,
            agent_name=agent_name,
            request=request,
            content_hash=content_hash,
            metadata=metadata,
        )
        attributes = self._once("own attributes", lambda: self._with_own(attributes, items))
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

    def _encoded(self, items: Mapping[str, Any]) -> dict[str, Encoded]:
        return {
            key: self._encode(item.value if isinstance(item, CacheItem) else item, _place(place))
            for place, (key, item) in enumerate(items.items())
        }

    def _with_own(self, common: Attributes, items: Mapping[str, Any]) -> Attributes:
        """The attributes of a write whose items may have some of their own."""
        own = {
            key: self._own_attributes(item, common, _place(place))
            for place, (key, item) in enumerate(items.items())
            if isinstance(item, CacheItem)
        }
        own = {key: found for key, found in own.items() if found != (common.life, common.tags)}
        if own and len(items) == 1:
            ((life, tags),) = own.values()
            return replace(common, life=life, tags=tags)
        return replace(common, own=own)

    def _hit(self, row: Row) -> Any:
        key, data, codec_name, agent_name, version, now = row
        value = self._decode(data, codec_name)
        self._notes.pending.hit(key, version, self._link.dialect.time(now), agent_name)
        return value


def _place(number: int) -> str:
    """What an error calls one of `values`. Not by its key: that may say what only its owner may know."""
    return f"values[{number}]"


def _time(value: Any, argument: str) -> datetime:
    found = checks.optional_time(value, argument)
    if found is None:
        raise InvalidValueError(argument, "must be an aware datetime, not None")
    return found


def _condition(only_if: Any, expected_version: Any) -> Condition:
    """What a write depends on."""
    if only_if is not None:
        checks.one_of(only_if, ("missing", "present"), "only_if")
        if expected_version is not None:
            raise InvalidValueError(
                "only_if", "cannot be combined with expected_version, which says more; leave it out"
            )
        return "missing" if only_if == "missing" else "present"
    return checks.optional_count(expected_version, "expected_version") or (
        None if expected_version is None else "missing"
    )
