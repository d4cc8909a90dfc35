"""Entries of the result cache."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, TypeAlias

from statestore.values.markers import NeverType

CacheTtl: TypeAlias = timedelta | float | datetime | NeverType
"""How long an entry lives: a duration, seconds, the time at which it ends, or NEVER."""


@dataclass(frozen=True, slots=True)
class CacheItem:
    """A value for `cache.set_many` with attributes of its own.

    `ttl` is instead of that of the call, `tags` come in addition to those of the call.
    """

    value: Any
    ttl: CacheTtl | None = field(default=None, kw_only=True)
    tags: Iterable[str] = field(default=(), kw_only=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheEntry:
    """A cached value with its attributes.

    `value` is MISSING in a list that was requested without values. `size_bytes` is the size of the value in the
    database, where it may be compressed. `access_count` counts the hits since it was set. `stale_ttl` is how long after
    `expires_at` it is kept for `get_or_compute(…, stale_ttl=…)`. `version` is a number that no other write has, for
    `set(…, expected_version=…)`; it is 0 in an entry that was read from a file. It does not grow, and is not a part
    of a comparison.
    """

    key: str
    value: Any
    agent_name: str | None
    request: Any
    content_hash: str | None
    metadata: dict[str, Any]
    tags: tuple[str, ...]
    size_bytes: int
    created_at: datetime
    expires_at: datetime | None
    last_accessed_at: datetime
    access_count: int
    stale_ttl: timedelta | None = None
    version: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheStats:
    """What is in a cache, and what has happened in it since it was created.

    The figures about the content leave expired entries out. `hits` to `invalidations` outlive the entries that they
    are about; `invalidations` counts removed entries by reason: key (several and prefixes included), tag, agent,
    content_hash, clear. A miss counts for the agent that the reader named. `oldest_at` and `newest_at` are when the
    oldest and newest entry were set.
    """

    entries: int
    size_bytes: int
    average_access_count: float
    oldest_at: datetime | None
    newest_at: datetime | None
    hits: int
    misses: int
    sets: int
    evictions: int
    expirations: int
    invalidations: dict[str, int]
    by_agent: dict[str | None, "CacheStats"]

    @property
    def hit_rate(self) -> float:
        """Hits divided by all reads, 0 to 1; 0 if there were no reads."""
        reads = self.hits + self.misses
        return self.hits / reads if reads else 0.0
