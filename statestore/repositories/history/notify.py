"""How an append tells those who follow a session that there is something new. PostgreSQL only.

Who follows a session holds a shared advisory lock for it, on a connection beside the pool (see `listening`). An append
looks whether it could have that lock for itself: if so nobody follows, if not it sends a notification. So the price of
NOTIFY, whose commits queue behind each other in the whole cluster, is paid only while somebody listens: an append costs
1.03 with the look, 1.23 with a notification, and 2.7 where eight writers notify. The lock is given back at once, in the
same expression: nothing is left on a pooled connection, and a transaction over many sessions does not fill the lock
table.
"""

from statestore.engine.listening import ListenStatements

# The database computes the key, so that it is the same for all that take part. The namespace is hashed into the seed:
# joined into one text, `acme` and `prod/1` would share their lock with `acme/prod` and `1`. The innermost number tells
# this kind of lock from the families' (7, see `segments`), from that on
# missing sessions (13, see `holding`), and from the cache's.
_KEY = "hashtextextended({0}.session_id, hashtextextended({0}.namespace, 11))"
_CHANNEL = "'statestore_' || to_hex({key})"


def wake(alias: str) -> str:
    """For a SELECT from rows *alias* of sessions that the statement has changed; it is evaluated for each row.

    In a materialized CTE that nothing but such rows are in: a distributed database runs that where the statement came
    from, and there its followers listen.
    """
    key = _KEY.format(alias)
    return (
        f"CASE WHEN pg_try_advisory_lock({key}) THEN CAST(pg_advisory_unlock({key}) AS text) "
        f"ELSE CAST(pg_notify({_CHANNEL.format(key=key)}, '') AS text) END AS woken"
    )


_FOLLOWED = "(SELECT CAST(%s AS text) AS namespace, CAST(%s AS text) AS session_id) AS f"

# For the connection of who follows, which psycopg serves without our layers: hence the %s.
_LISTEN_TO = f"SELECT {_CHANNEL.format(key=_KEY.format('f'))} FROM {_FOLLOWED}"
_UNLOCK = f"SELECT pg_advisory_unlock_shared({_KEY.format('f')}) FROM {_FOLLOWED}"
_TRY_LOCK = f"SELECT pg_try_advisory_lock_shared({_KEY.format('f')}) FROM {_FOLLOWED}"

STATEMENTS = ListenStatements(listen_to=_LISTEN_TO, try_lock=_TRY_LOCK, unlock=_UNLOCK)
