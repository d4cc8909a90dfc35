"""When entries end: asked for without reading them, and moved."""

from datetime import timedelta

from statestore.checking import checks
from statestore.engine.calls import reads, writes_in_one_statement
from statestore.engine.sql import Row, Statement
from statestore.repositories.cache import lifetimes
from statestore.repositories.cache.base import LIVE
from statestore.repositories.cache.holding import HELD, CacheHolding
from statestore.repositories.cache.lifetimes import ENDS_POSTGRESQL, ENDS_SQLITE, FROM_END
from statestore.values.cache import CacheTtl
from statestore.values.markers import NEVER, NeverType

_END_SQL = f"""
    SELECT e.expires_at, $now FROM $cache_entries AS e WHERE e.namespace = :namespace AND e.key = :key AND {LIVE}"""
_END, _END_HELD = Statement(_END_SQL), Statement(postgresql=f"{_END_SQL} {HELD}")

_WHERE = f"WHERE e.namespace = :namespace AND e.key = :key AND {LIVE}"
_TOUCH = Statement(
    postgresql=f"UPDATE $cache_entries AS e SET {ENDS_POSTGRESQL} FROM {FROM_END} {_WHERE} RETURNING e.key",
    sqlite=f"UPDATE $cache_entries AS e SET {ENDS_SQLITE} {_WHERE} RETURNING key",
)


class CacheEndings(CacheHolding):
    """The end of an entry. Nothing here counts as an access."""

    @reads
    def exists(self, key: str) -> bool:
        """Whether a key has a value. Neither reads it nor counts a hit or a miss."""
        return self._end(key) is not None

    @reads
    def ttl(self, key: str) -> timedelta | NeverType | None:
        """How much longer a key has its value. Neither reads it nor counts a hit or a miss.

        Returns:
            The time left, more than zero; NEVER if it does not expire; None if there is no such key.
        """
        found = self._end(key)
        if found is None:
            return None
        expires_at, now = map(self._link.dialect.time, found)
        left: timedelta | NeverType = NEVER if expires_at is None else expires_at - now
        return left

    @writes_in_one_statement
    def touch(self, key: str, ttl: CacheTtl | None = None) -> bool:
        """Move the end of an entry, which otherwise stays as it is, its version included.

        Args:
            key: The key.
            ttl: When it ends, counted from now, as for `set`. A value that may be served stale then stays so for as
                long as before.

        Returns:
            Whether there was one; False if it has expired already.
        """
        checks.key(key, "key")
        default, now = self._state.options.default_ttl, self._now()
        life = self._once("life", lambda: lifetimes.checked(ttl, default, now=now))
        if self._link.holds_reads:
            self._hold([key])
        return bool(self._link.all(_TOUCH, key=key, **life.params(self._link.now())))

    def _end(self, key: str) -> Row | None:
        return self._read_one(_END, _END_HELD, checks.key(key, "key"))
