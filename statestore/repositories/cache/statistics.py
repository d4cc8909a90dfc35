"""What is in the cache, and what has happened in it."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from statestore.engine.calls import reads, reported_as, writes, writes_once_in_one_statement
from statestore.engine.sql import Statement
from statestore.repositories.cache.base import LIVE, NOTED
from statestore.repositories.cache.eviction import CacheRoom
from statestore.schema import CACHE_COUNTERS
from statestore.values.cache import CacheStats

_REASONS = tuple(counter for counter in CACHE_COUNTERS if counter.startswith("invalidations_"))

_ENTRIES = Statement(f"""
    SELECT coalesce(e.agent_name, ''), count(*), sum(e.size_bytes), sum(e.access_count), min(e.created_at),
        max(e.created_at)
    FROM $cache_entries AS e WHERE e.namespace = :namespace AND {LIVE} GROUP BY 1""")

# Those of some entries that live, and whose they are.
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
    def stats(self) -> CacheStats:
        """What is in the cache, and what has happened in it, in total and by agent.

        What other processes counted is in it as soon as they have written it: after ten seconds of use at the latest,
        and when they close the store. What this store counted is always in it. In a transaction nothing of this is
        held: others may change it meanwhile.
        """
        time = self._link.dialect.time
        held = {row[0]: [*row[1:4], time(row[4]), time(row[5])] for row in self._link.all(_ENTRIES)}
        ledger: dict[str, Sequence[Any]] = {row[0]: row[1:] for row in self._link.all(_LEDGER)}
        noted = self._state.noted()
        for (_, agent_name), counters in noted.counters.items():
            known = ledger.get(agent_name, (0,) * len(CACHE_COUNTERS))
            ledger[agent_name] = [
                int(number) + counters.get(counter, 0) for counter, number in zip(CACHE_COUNTERS, known, strict=True)
            ]
        if noted.hits:
            for key, version, agent_name in self._link.all(_HIT, **self._noted(noted.hits)):
                if agent_name in held:
                    held[agent_name][2] += noted.hits[key, version][0]
        agents = sorted({*held, *ledger})
        by_agent = {
            agent_name or None: _stats([held[agent_name]] if agent_name in held else [], [ledger.get(agent_name, ())])
            for agent_name in agents
        }
        return _stats(list(held.values()), list(ledger.values()), by_agent)

    @writes
    def evict(self) -> int:
        """Remove what has expired, and the least recently used of what is over the limits.

        Sets keep the limits by themselves. This is for what several processes have left over them together, and for
        what has expired.

        Returns:
            How many entries were removed, expired ones included.
        """
        return self._shrink().entries


class CacheCounts(CacheRoom):
    """What the store does for itself."""

    @reported_as("cache.flush")
    @writes_once_in_one_statement
    def write_pending(self) -> None:
        """Write the counts that were noted."""
        self._write_pending()


def _stats(
    held: list[list[Any]], ledger: list[Sequence[Any]], by_agent: dict[str | None, CacheStats] | None = None
) -> CacheStats:
    entries, size, accesses = (sum(int(row[column]) for row in held) for column in range(3))
    counters = {
        counter: sum(int(row[column]) for row in ledger if row) for column, counter in enumerate(CACHE_COUNTERS)
    }
    created: list[datetime] = [row[3] for row in held]
    newest: list[datetime] = [row[4] for row in held]
    return CacheStats(
        entries=entries,
        size_bytes=size,
        average_access_count=accesses / entries if entries else 0.0,
        oldest_at=min(created, default=None),
        newest_at=max(newest, default=None),
        hits=counters["hits"],
        misses=counters["misses"],
        sets=counters["sets"],
        evictions=counters["evictions"],
        expirations=counters["expirations"],
        invalidations={reason.removeprefix("invalidations_"): counters[reason] for reason in _REASONS},
        by_agent=by_agent or {},
    )
