"""What is in the cache, and what has happened in it."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from statestore import schema
from statestore.engine.calls import reads, reported_as, writes, writes_once_in_one_statement
from statestore.engine.columns import Columns, fields_of
from statestore.engine.sql import Statement
from statestore.repositories.cache.base import LIVE, NOTED, shows_counts
from statestore.repositories.cache.eviction import CacheRoom
from statestore.schema import CACHE_COUNTERS
from statestore.schema.column_types import UtcTime
from statestore.values.cache import CacheStats

_REASONS = tuple(counter for counter in CACHE_COUNTERS if counter.startswith("invalidations_"))


@dataclass(slots=True)
class _Held:
    """What the cache has of one agent."""

    entries: int
    size_bytes: int
    accesses: int
    oldest_at: datetime
    newest_at: datetime


_HELD = Columns(
    schema.cache_entries, "agent_name", *fields_of(_Held), types={"oldest_at": UtcTime, "newest_at": UtcTime}
)
_COMPUTED = _HELD.select(
    agent_name="coalesce(e.agent_name, '')",
    entries="count(*)",
    size_bytes="sum(e.size_bytes)",
    accesses="sum(e.access_count)",
    oldest_at="min(e.created_at)",
    newest_at="max(e.created_at)",
)
_ENTRIES = Statement(f"""
    SELECT {_COMPUTED}
    FROM $cache_entries AS e WHERE e.namespace = :namespace AND {LIVE} GROUP BY 1""")

# Which of some entries are live, and whose they are.
_HIT = Statement(
    **{
        dialect: f"""
    WITH noted AS MATERIALIZED ({NOTED[dialect]})
    SELECT e.key, e.version, coalesce(e.agent_name, '') FROM noted AS n
    JOIN $cache_entries AS e ON e.namespace = :namespace AND e.key = n.key AND e.version = n.version AND {LIVE}"""
        for dialect in ("postgresql", "sqlite")
    }
)

_LEDGER = Statement(f"""
    SELECT agent_name, {", ".join(f"sum({counter})" for counter in CACHE_COUNTERS)}
    FROM $cache_ledger WHERE namespace = :namespace GROUP BY agent_name""")


class CacheStatistics(CacheRoom):
    """Statistics and eviction."""

    @reads
    @shows_counts
    def stats(self) -> CacheStats:
        """What is in the cache, and what has happened in it, in total and by agent.

        Counts of other processes are included once they have written them: after ten seconds of use at the latest, and
        when they close the store. This store's own counts are always included. A transaction does not hold any of
        this: others may change it meanwhile.
        """
        held: dict[str, _Held] = {}
        for row in self._link.all(_ENTRIES):
            agent_name, *found = _HELD.values(self._link.dialect, row)
            held[agent_name] = _Held(*found)
        ledger: dict[str, Counter[str]] = {}
        for agent_name, *numbers in self._link.all(_LEDGER):
            ledger[agent_name] = Counter(dict(zip(CACHE_COUNTERS, map(int, numbers), strict=True)))
        noted = self._state.noted()
        for (_, agent_name), counters in noted.counters.items():
            ledger.setdefault(agent_name, Counter()).update(counters)
        if noted.hits:
            for key, version, agent_name in self._link.all(_HIT, **self._noted(noted.hits)):
                hits, *_ = noted.hits[key, version]
                if agent_name in held:
                    held[agent_name].accesses += hits
        by_agent = {
            agent_name or None: _stats(
                [held[agent_name]] if agent_name in held else [], ledger.get(agent_name, Counter())
            )
            for agent_name in sorted({*held, *ledger})
        }
        return _stats(list(held.values()), sum(ledger.values(), Counter()), by_agent)

    @writes
    def evict(self) -> int:
        """Remove expired entries, and the least recently used entries beyond the limits.

        Sets keep to the limits by themselves. Use this for expired entries, and for what several processes have
        together stored beyond the limits.

        Returns:
            How many entries were removed, expired ones included.
        """
        return self._shrink().entries


class CacheCounts(CacheRoom):
    """What the store does for itself."""

    @reported_as("cache.flush")
    @writes_once_in_one_statement
    def write_pending(self) -> None:
        """Write the noted counts."""
        self._write_pending()


def _stats(
    held: Sequence[_Held], counters: Mapping[str, int], by_agent: dict[str | None, CacheStats] | None = None
) -> CacheStats:
    entries = sum(one.entries for one in held)
    return CacheStats(
        entries=entries,
        size_bytes=int(sum(one.size_bytes for one in held)),
        average_access_count=int(sum(one.accesses for one in held)) / entries if entries else 0.0,
        oldest_at=min((one.oldest_at for one in held), default=None),
        newest_at=max((one.newest_at for one in held), default=None),
        hits=counters["hits"],
        misses=counters["misses"],
        sets=counters["sets"],
        evictions=counters["evictions"],
        expirations=counters["expirations"],
        invalidations={reason.removeprefix("invalidations_"): counters[reason] for reason in _REASONS},
        by_agent=by_agent or {},
    )
