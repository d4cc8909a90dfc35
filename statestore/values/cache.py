"""Entries of the result cache."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheEntry:
    """A cached value with its attributes.

    `value` is MISSING in a list that was requested without values. `size_bytes` is the size of the value in the
    database, where it may be compressed. `access_count` counts the hits since it was set. `stale_ttl` is how long after
    `expires_at` it is kept for `get_or_compute(…, stale_ttl=…)`.
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


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheStats:
    """What is in a cache, and what has happened in it since it was created.

    The figures about the content leave expired entries out. `hits` to `invalidations` outlive the entries that they
    are about; `invalidations` counts removed entries by reason: key, tag, agent, content_hash, clear. A miss counts for
    the agent that the reader named. `oldest_at` and `newest_at` are when the oldest and newest entry were set.
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
