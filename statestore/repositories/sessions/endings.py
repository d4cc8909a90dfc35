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

# What was read is known from the TTL that it extended, at no cost. Who is busy is at work, though it writes nothing.
IS_IDLE = f"""s.active_hour <= :idle_since AND s.last_activity_at <= :idle_since AND $live AND s.status <> 'busy'
        AND (s.ttl IS NULL OR s.expires_at <= $later(s.ttl - CAST(:max_idle AS interval))) AND {lease_checks.FREE}"""


def idle_params(now: datetime, max_idle: timedelta) -> Params:
    """The parameters of `IS_IDLE`."""
    since = now - max_idle if now - EARLIEST > max_idle else EARLIEST
    return {"idle_since": since, "max_idle": max_idle, "latest_lease": lease_checks.LATEST}
