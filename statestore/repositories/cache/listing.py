"""Entries and keys in order, in pages."""

from functools import lru_cache

from statestore.checking import checks
from statestore.engine.calls import reads
from statestore.engine.sql import Statement
from statestore.engine.sql_parts import prefix_range
from statestore.errors import InvalidValueError
from statestore.repositories.cache.base import BEGINS, LIVE, CacheBase, entry_columns, shows_counts
from statestore.repositories.cache.holding import HELD
from statestore.values.cache import CacheEntry

_MAX_PAGE = 10_000

_CONDITIONS = {
    "agent_name": "e.agent_name = :agent_name",
    "tag": """EXISTS (SELECT 1 FROM $cache_tags AS x WHERE x.namespace = :namespace AND x.key = e.key
            AND x.version = e.version AND x.tag = :tag)""",
    "prefix": BEGINS,
    "after": "e.key > :after",
}


@lru_cache(maxsize=64)
def _page(*, columns: str, filters: tuple[str, ...], held: bool) -> Statement:
    """In the order of the keys, each page found in the index.

    Args:
        columns: `all`, `no value` or `key`.
        filters: Names of arguments.
        held: Whether what is read is held until the transaction ends.
    """
    where = ["e.namespace = :namespace", LIVE, *(_CONDITIONS[name] for name in filters)]
    tail = f"FROM $cache_entries AS e WHERE {' AND '.join(where)} ORDER BY e.key LIMIT :limit {HELD if held else ''}"
    selected = {
        dialect: "e.key" if columns == "key" else entry_columns(dialect, values=columns == "all")
        for dialect in ("postgresql", "sqlite")
    }
    return Statement(**{dialect: f"SELECT {names} {tail}" for dialect, names in selected.items()})


class CacheListing(CacheBase):
    """What is in the cache. Nothing here counts as an access."""

    @reads
    @shows_counts
    def entries(
        self,
        *,
        agent_name: str | None = None,
        tag: str | None = None,
        prefix: str | None = None,
        values: bool = True,
        after: str | None = None,
        limit: int = 100,
    ) -> list[CacheEntry]:
        """Some entries in the order of their keys. Does not count as an access.

        Args:
            agent_name: Only this agent's.
            tag: Only those set with this tag.
            prefix: Only those whose keys begin so; all keys begin with "".
            values: False leaves the values out, which may be large.
            after: Only keys after this one: pass the last key of the previous page.
            limit: The largest number to return, 1 to 10,000.
        """
        checks.optional_key(agent_name, "agent_name")
        checks.optional_key(tag, "tag")
        checks.flag(values, "values")
        given = {"agent_name": agent_name, "tag": tag, "prefix": prefix, "after": after}
        statement, params = self._asked("all" if values else "no value", given, limit)
        return [self._entry(row) for row in self._link.all(statement, **params)]

    @reads
    def keys(self, *, prefix: str | None = None, after: str | None = None, limit: int = 1000) -> list[str]:
        """Some keys, in the order of their bytes in UTF-8; expired ones are left out. Does not count as an access.

        Args:
            prefix: Only those that begin so, exactly: no character has a meaning of its own. All begin with "".
            after: Only keys after this one: pass the last key of the previous page.
            limit: The largest number to return, 1 to 10,000.
        """
        statement, params = self._asked("key", {"prefix": prefix, "after": after}, limit)
        return [key for (key,) in self._link.all(statement, **params)]

    def _asked(self, columns: str, given: dict[str, str | None], limit: int) -> tuple[Statement, dict[str, object]]:
        """The statement for a page, with its parameters."""
        given = given | {"prefix": None if given["prefix"] == "" else checks.optional_key(given["prefix"], "prefix")}
        checks.optional_key(given["after"], "after")
        if checks.count(limit, "limit", least=1) > _MAX_PAGE:
            raise InvalidValueError("limit", f"must be at most {_MAX_PAGE:,}; continue with after=")
        params: dict[str, object] = {name: value for name, value in given.items() if value is not None}
        statement = _page(columns=columns, filters=tuple(params), held=self._link.holds_reads)
        if given["prefix"] is not None:
            params["prefix"], params["prefix_end"] = prefix_range(given["prefix"])
        return statement, params | {"limit": limit}
