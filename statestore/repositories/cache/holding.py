"""Holding keys for as long as a transaction lasts, those included that have no entry.

On PostgreSQL what a transaction has read could be changed by another before it ends. An entry is held by a lock on its
row. If there is none, a row is put there and taken away again: nobody ever sees it and it counts for no limit, but
whoever wants to insert the key waits until the transaction ends, since it might have been undone. An advisory lock
would have to be taken by every plain `set`, too. SQLite has one writer, so nothing is needed there.
"""

from collections.abc import Sequence

from statestore.engine.sql import Row, Statement
from statestore.repositories.cache.base import KEYS, CacheBase

# The row lock that a set takes, too; checks of foreign keys go on.
HELD = "FOR NO KEY UPDATE OF e"

# In one order, those that there are and those that there are not, so that two who do so do not wait for each other in a
# circle. A row that is there is locked even though the condition leaves it as it is.
_HOLD = Statement(
    postgresql="""
    INSERT INTO $cache_entries AS e (namespace, key, value, codec, size_bytes, version, created_at, last_accessed_at,
        access_seq)
    SELECT :namespace, k.key, '', '', 0, 0, $now, $now, 0
    FROM unnest(CAST(:keys AS text[])) AS k (key) ORDER BY k.key COLLATE "C"
    ON CONFLICT (namespace, key) DO UPDATE SET size_bytes = e.size_bytes WHERE false
    RETURNING e.key"""
)
_LET_GO = Statement(postgresql=f"DELETE FROM $cache_entries WHERE namespace = :namespace AND key {KEYS}")


class CacheHolding(CacheBase):
    """Reading and writing what nobody else is to change meanwhile."""

    def _hold(self, keys: Sequence[str]) -> bool:
        """Hold *keys* until the transaction ends; tells whether any of them has an entry."""
        if not self._postgresql:
            return True
        absent = [key for (key,) in self._link.all(_HOLD, keys=list(keys))]
        if absent:
            self._link.run(_LET_GO, keys=absent)
        return len(absent) < len(keys)

    def _read_one(self, plain: Statement, held: Statement, key: str, **params: object) -> Row | None:
        """The row of a key. In the caller's transaction the key is held, even if it is missing or has expired."""
        if not self._link.holds_reads:
            return self._link.one(plain, key=key, **params)
        found = self._link.one(held, key=key, **params)
        if found is None and self._hold([key]):
            found = self._link.one(held, key=key, **params)
        return found
