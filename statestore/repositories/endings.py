"""How a session is ended whose rows go later: hidden at once, and known by a TTL that no caller can give.

Its end is put a day and more into the past. A statement that began before, and waited for the row's lock, goes by the
time at which it began: it would find a session that ends only now still living, and bring it back.
"""

from datetime import timedelta

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

# Of the row `s`; it needs the parameters of `params`.
END = "expires_at = {later:-CAST(:back AS interval)}"
DUE = "s.expires_at <= {now} AND NOT (s.ttl = :erased AND s.expires_at > {later:-CAST(:claimed AS interval)})"
DUE_PARAMS = {"erased": ERASED, "claimed": CLAIMED}
