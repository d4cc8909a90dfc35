"""How a session is ended whose rows go later: hidden at once, and known by a TTL that no caller can give.

Its end is put a day and more into the past. A statement that began before, and waited for the row's lock, goes by the
time at which it began: it would find a session that ends only now still living, and bring it back.
"""

from datetime import datetime, timedelta

from statestore.engine.sql import Params
from statestore.repositories.sessions import lease_checks
from statestore.repositories.usage.periods import EARLIEST

IDLE = timedelta(0)
DELETED = timedelta(microseconds=-1)
EVICTED = timedelta(microseconds=-3)
ERASED = timedelta(microseconds=-2)
"""With all of its user's: what its entries used goes into the ledger under a random id."""

GONE_FOR = timedelta(days=1)
"""After so long no statement is left that began while the session lived: nothing can revive it."""

BACK = timedelta(hours=25)
"""How far into the past the end is put."""

CLAIMED = BACK + timedelta(hours=1)
"""Until an end is so long ago, the sessions of an erased user are left to who erases them, and counts them."""

# Of the row `s`.
END = "expires_at = $later(-CAST(:back AS interval))"
DUE = "s.expires_at <= $now AND NOT (s.ttl = :erased AND s.expires_at > $later(-CAST(:claimed AS interval)))"
DUE_PARAMS = {"erased": ERASED, "claimed": CLAIMED}

# Whoever works with a part of a session works with the session.
_AT_REST = f"""s.belongs_to IS NULL AND s.status <> 'busy' AND {lease_checks.FREE} AND NOT EXISTS (
            SELECT 1 FROM $sessions AS p WHERE p.namespace = :namespace AND p.belongs_to = s.session_id
                AND (p.status = 'busy' OR p.lease_until > $now{{}}))"""

EVICTABLE = f"$live AND {_AT_REST.format('')}"
"""The session may go for others. It needs what `lease_checks.FREE` does."""

# What belongs to another is not idle by itself, and keeps that one from being so while it is used.
# What was read is known from the TTL that it extended, at no cost. A session that is busy is at work, though it writes
# nothing.
IS_IDLE = f"""s.active_hour <= :idle_since AND s.last_activity_at <= :idle_since AND $live
        AND (s.ttl IS NULL OR s.expires_at <= $later(s.ttl - CAST(:max_idle AS interval)))
        AND {_AT_REST.format(" OR p.last_activity_at > :idle_since")}"""


def idle_params(now: datetime, max_idle: timedelta) -> Params:
    """The parameters of `IS_IDLE`."""
    since = now - max_idle if now - EARLIEST > max_idle else EARLIEST
    return {"idle_since": since, "max_idle": max_idle, "latest_lease": lease_checks.LATEST}
