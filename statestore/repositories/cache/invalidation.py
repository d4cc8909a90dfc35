"""Removing entries by reason: by key, tag, agent, content hash, or all of them."""

from collections.abc import Iterable
from typing import Any, Literal

from statestore.checking import checks
from statestore.engine.calls import writes_in_one_statement, writes_once_in_one_statement
from statestore.engine.sql import Statement
from statestore.engine.sql_parts import prefix_range
from statestore.repositories.cache.base import BEGINS, KEYS, LIVE, LIVE_RETURNED, NAMESPACE
from statestore.repositories.cache.base import tags as checked_tags
from statestore.repositories.cache.eviction import CacheRoom, Removal

_BY_KEY = Removal(
    "invalidations_key",
    postgresql="WHERE e.namespace = :namespace AND e.key = :key",
    sqlite="WHERE e.namespace = :namespace AND e.key = :key",
)
_BY_KEYS = Removal(
    "invalidations_key",
    postgresql=f"WHERE e.namespace = {NAMESPACE} AND e.key {KEYS}",
    sqlite=f"WHERE e.namespace = :namespace AND e.key {KEYS}",
)
_BY_PREFIX = Removal(
    "invalidations_key",
    postgresql=f"WHERE e.namespace = :namespace AND {BEGINS}",
    sqlite=f"WHERE e.namespace = :namespace AND {BEGINS}",
)
# What is noted of it is written later, like that of a read.
_POP = Statement(
    postgresql=f"""
    WITH gone AS (
        DELETE FROM $cache_entries AS e WHERE e.namespace = :namespace AND e.key = :key
        RETURNING e.value, e.codec, e.agent_name, e.size_bytes, e.expires_at)
    SELECT e.value, e.codec, e.agent_name, e.size_bytes, {LIVE} FROM gone AS e""",
    sqlite=f"""
    DELETE FROM $cache_entries AS e WHERE e.namespace = :namespace AND e.key = :key
    RETURNING value, codec, agent_name, size_bytes, {LIVE_RETURNED}""",
)
# A tag counts only for the write that it came with: its entry's version is its own. The keys come as an array, since
# in a join with the tags PostgreSQL reads all entries, once it believes that a hundredth of them have the tag. OFFSET 0
# keeps the other subquery out of a join, too: on tables that were never analyzed, that would read all the tag's rows
# for each of its entries.
_BY_TAG = Removal(
    "invalidations_tag",
    postgresql=f"""
        WHERE e.namespace = {NAMESPACE}
            AND e.key = ANY (array(SELECT t.key FROM $cache_tags AS t
                WHERE t.namespace = :namespace AND t.tag = :tag))
            AND EXISTS (SELECT 1 FROM $cache_tags AS x
                WHERE x.namespace = :namespace AND x.tag = :tag AND x.version = e.version OFFSET 0)""",
    sqlite="""
        WHERE e.namespace = :namespace AND (e.key, e.version) IN (
            SELECT t.key, t.version FROM $cache_tags AS t WHERE t.namespace = :namespace AND t.tag = :tag)""",
)
# CROSS JOIN: SQLite takes the tables in this order, each tag by its index, instead of all tags by their keys.
_BY_TAGS = Removal(
    "invalidations_tag",
    postgresql=f"""
        WHERE e.namespace = {NAMESPACE}
            AND e.key = ANY (array(SELECT t.key FROM $cache_tags AS t
                WHERE t.namespace = :namespace AND t.tag {KEYS}))
            AND (SELECT count(*) FROM $cache_tags AS x
                WHERE x.namespace = :namespace AND x.tag {KEYS} AND x.version = e.version) >= :needed""",
    sqlite="""
        WHERE e.namespace = :namespace AND (e.key, e.version) IN (
            SELECT t.key, t.version FROM json_each(:keys) AS j
            CROSS JOIN $cache_tags AS t ON t.namespace = :namespace AND t.tag = j.value
            GROUP BY t.key, t.version HAVING count(*) >= :needed)""",
)
_BY_AGENT = Removal(
    "invalidations_agent",
    postgresql="WHERE e.namespace = :namespace AND e.agent_name = :agent_name",
    sqlite="WHERE e.namespace = :namespace AND e.agent_name = :agent_name",
)
_BY_CONTENT_HASH = Removal(
    "invalidations_content_hash",
    postgresql="WHERE e.namespace = :namespace AND e.content_hash = :content_hash",
    sqlite="WHERE e.namespace = :namespace AND e.content_hash = :content_hash",
)
_ALL = Removal(
    "invalidations_clear",
    postgresql="WHERE e.namespace = :namespace",
    sqlite="WHERE e.namespace = :namespace",
)


class CacheInvalidation(CacheRoom):
    """Invalidation. Each method counts the live entries that it removed; expired ones are removed but not counted."""

    @writes_in_one_statement
    def invalidate(self, key: str) -> int:
        """Remove one entry.

        Returns:
            1, or 0 if there was none.
        """
        return self._remove(_BY_KEY, key=checks.key(key, "key")).live

    @writes_in_one_statement
    def invalidate_many(self, keys: Iterable[str]) -> int:
        """Remove several entries, all or none.

        Returns:
            How many there were.
        """
        wanted = self._once("keys", lambda: checks.keys(keys, "keys"))
        return self._remove(_BY_KEYS, keys=wanted).live if wanted else 0

    @writes_in_one_statement
    def invalidate_prefix(self, prefix: str) -> int:
        """Remove the entries whose keys begin with *prefix*, exactly: no character has a meaning of its own.

        Returns:
            How many there were.

        Raises:
            InvalidValueError: The prefix is empty, for example; `clear` removes all. Nothing was written.
        """
        start, end = prefix_range(checks.key(prefix, "prefix"))
        return self._remove(_BY_PREFIX, prefix=start, prefix_end=end).live

    @writes_once_in_one_statement
    def pop(self, key: str, default: Any = None) -> Any:
        """Remove an entry and return its value. Of several callers at once, one gets it.

        Counts as a hit or a miss, and an entry that was removed also as an invalidation by key.

        Args:
            key: The key.
            default: What to return if there is none or it has expired: pass MISSING if None may be cached.

        Raises:
            CommitUnknownError: The connection was lost, and the entry may or may not have been removed.
        """
        checks.key(key, "key")
        if self._link.holds_reads:
            self._hold([key])
        row = self._link.one(_POP, key=key)
        pending, now = self._notes.pending, self._now()
        if row is None:
            pending.count(now, None, "misses")
            return default
        data, codec_name, agent_name, size, live = row
        self._notes.remove(1, size)
        if not live:
            pending.count(now, None, "misses")
            pending.count(now, agent_name, "expirations")
            return default
        pending.count(now, agent_name, "hits")
        pending.count(now, agent_name, "invalidations_key")
        return self._decode(data, codec_name)

    @writes_in_one_statement
    def invalidate_tag(self, tag: str) -> int:
        """Remove the entries that were set with a tag, all or none.

        They are deleted in one transaction, in a time that grows with their number: 100,000 take a second or more.

        Returns:
            How many there were.
        """
        return self._remove(_BY_TAG, tag=checks.key(tag, "tag")).live

    @writes_in_one_statement
    def invalidate_tags(self, tags: Iterable[str], *, match: Literal["any", "all"] = "any") -> int:
        """Remove the entries that were set with any of some tags, or with all of them.

        Args:
            tags: The tags. If there are none, nothing is removed.
            match: `any` or `all`.

        Returns:
            How many there were.
        """
        wanted = self._once("tags", lambda: checked_tags(tags))
        checks.one_of(match, ("any", "all"), "match")
        if not wanted:
            return 0
        needed = len(wanted) if match == "all" else 1
        return self._remove(_BY_TAGS, keys=wanted, needed=needed).live

    @writes_in_one_statement
    def invalidate_agent(self, agent_name: str) -> int:
        """Remove an agent's entries.

        Returns:
            How many there were.
        """
        return self._remove(_BY_AGENT, agent_name=checks.key(agent_name, "agent_name")).live

    @writes_in_one_statement
    def invalidate_content_hash(self, content_hash: str) -> int:
        """Remove the entries that were computed from content that has changed.

        Does nothing in a store that was opened with `content_hash_invalidation=False`.

        Returns:
            How many there were.
        """
        checks.key(content_hash, "content_hash")
        if not self._state.options.content_hash_invalidation:
            return 0
        return self._remove(_BY_CONTENT_HASH, content_hash=content_hash).live

    @writes_in_one_statement
    def clear(self) -> int:
        """Remove all entries. The statistics so far are kept.

        Returns:
            How many there were.
        """
        return self._remove(_ALL).live
