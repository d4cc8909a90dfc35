"""Removing entries by reason: by key, tag, agent, content hash, or all of them."""

from collections.abc import Iterable
from typing import Literal

from statestore.checking import checks
from statestore.engine.calls import writes_in_one_statement
from statestore.repositories.cache.base import KEYS, NAMESPACE
from statestore.repositories.cache.base import tags as checked_tags
from statestore.repositories.cache.eviction import CacheRoom, Removal

_BY_KEY = Removal(
    "invalidations_key",
    postgresql="WHERE e.namespace = :namespace AND e.key = :key",
    sqlite="WHERE e.namespace = :namespace AND e.key = :key",
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
    def invalidate_tag(self, tag: str) -> int:
        """Remove the entries that were set with a tag.

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
