"""Who computes a missing entry: one process at a time, and another one when that has died or has had its time."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any, NamedTuple

from statestore.engine.calls import reads, reported_as, writes_in_one_statement
from statestore.engine.sql import Statement
from statestore.repositories.cache.base import LIVE
from statestore.repositories.cache.holding import HELD
from statestore.repositories.cache.writes import CacheWrites

# An expired value too, as long as it may be served stale: whoever has it need not wait.
_LOOK_SQL = f"""
    SELECT e.value, e.codec, e.agent_name, e.version, $now, {LIVE} FROM $cache_entries AS e
    WHERE e.namespace = :namespace AND e.key = :key
        AND (e.expires_at IS NULL OR e.expires_at > $later(-CAST(:stale_ttl AS interval)))"""
_LOOK, _LOOK_HELD = Statement(_LOOK_SQL), Statement(postgresql=f"{_LOOK_SQL} {HELD}")

# On PostgreSQL now is what the new end says: a distributed database asks no clock in an ON CONFLICT.
_CLAIMED = """
    INSERT INTO $cache_claims AS c (namespace, key, token, claimed_until)
    VALUES (:namespace, :key, :token, $later(CAST(:lasts AS interval)))
    ON CONFLICT (namespace, key) DO UPDATE SET token = excluded.token, claimed_until = excluded.claimed_until
    WHERE c.claimed_until <= {} OR c.token = excluded.token
    RETURNING token"""
_CLAIM = Statement(
    postgresql=_CLAIMED.format(
        "(excluded.claimed_until AT TIME ZONE 'UTC' - CAST(:lasts AS interval)) AT TIME ZONE 'UTC'"
    ),
    sqlite=_CLAIMED.format("$now"),
)

# No claim that was released comes back by it.
_RENEW = Statement("""
    UPDATE $cache_claims SET claimed_until = $later(CAST(:lasts AS interval))
    WHERE namespace = :namespace AND key = :key AND token = :token
    RETURNING token""")

_RELEASE = Statement("""
    DELETE FROM $cache_claims WHERE namespace = :namespace AND key = :key AND token = :token""")


COMPUTED = "computed"
"""Where a call of `keep` leaves its value, whether or not that can be kept."""


class Found(NamedTuple):
    """A value, still encoded, so that each of its readers gets a copy of its own."""

    data: bytes
    codec: str
    stale: bool
    max_bytes: int


class CacheClaims(CacheWrites):
    """The steps of `get_or_compute`."""

    @reported_as("cache.get_or_compute")
    @reads
    def look(self, key: str, *, stale_ttl: timedelta | None, agent_name: str | None, count: bool) -> Found | None:
        """The value, if there is one; with *count* it is a hit or a miss."""
        row = self._read_one(_LOOK, _LOOK_HELD, key, stale_ttl=stale_ttl or timedelta(0))
        if row is None:
            if count:
                self._notes.pending.count(self._now(), agent_name, "misses")
            return None
        data, codec_name, owner, version, now, live = row
        if count:
            self._notes.pending.hit(key, version, self._link.dialect.time(now), owner)
        return Found(data, codec_name, not live, self._link.settings.max_value_bytes)

    @reported_as("cache.get_or_compute")
    @writes_in_one_statement
    def claim(self, key: str, token: str, lasts: timedelta) -> bool:
        """Take it upon oneself to compute a value, for so long; tells whether nobody else has."""
        return bool(self._link.all(_CLAIM, key=key, token=token, lasts=lasts))

    @reported_as("cache.get_or_compute")
    @writes_in_one_statement
    def renew(self, key: str, token: str, lasts: timedelta) -> bool:
        """Go on, for so long from now; tells whether nobody else has taken over."""
        return bool(self._link.all(_RENEW, key=key, token=token, lasts=lasts))

    @reported_as("cache.get_or_compute")
    @writes_in_one_statement
    def keep(self, key: str, value: Any, attributes: Mapping[str, Any]) -> Found:
        """Set what was computed; see `CacheRepository.set`."""
        encoded = self._once("value", lambda: self._encode(value))
        found = Found(encoded.data, encoded.codec, False, self._link.settings.max_value_bytes)
        self._call.memo[COMPUTED] = found
        self._write({key: encoded}, self._attributes(late=True, **attributes))
        return found

    @reported_as("cache.get_or_compute")
    @writes_in_one_statement
    def release(self, key: str, token: str) -> None:
        """Let others have it."""
        self._link.run(_RELEASE, key=key, token=token)
