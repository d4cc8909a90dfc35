"""A pooler between a store and PostgreSQL: how it shows itself, and what is different behind one.

In transaction mode PgBouncer hands a connection of the server to another client after each transaction. A statement
that was prepared under a name may then be somebody else's, or nobody's, and a setting of the session is somebody
else's too. A pooler shows itself by the process id in the connection's key data, which it makes up.
"""

import time
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from statestore.engine.orphans import BACKEND, STARTED, Backend

PREPARE_THRESHOLD = 5
"""How often psycopg runs a statement before it prepares it, unless told otherwise."""

LOCAL_TIMEOUTS = "statestore_local_timeouts"
"""In the `info` of a pooled connection: SQL that a transaction begins with if its session keeps no settings."""

MADE_AT = "statestore_made_at"
"""In the `info` of a pooled connection: when it was made, on the monotonic clock."""

_PROTECTED = "statestore_protected"

Timeouts = Mapping[str, timedelta | None]


def set_up(connection: Any, info: dict[str, Any], *, prepared: bool | None, timeouts: Timeouts) -> None:
    """Prepare a new psycopg connection, in one round trip.

    Args:
        connection: One that commits each statement.
        info: The pool's notes on the connection.
        prepared: Whether statements are to be prepared; None to find out.
        timeouts: Settings of the session by their names; those that are None stay as they are.
    """
    info[MADE_AT] = time.monotonic()
    given = {name: round(value.total_seconds() * 1000) for name, value in timeouts.items() if value is not None}
    behind_one, info[BACKEND] = _ask(connection.cursor(), connection.info.backend_pid, given)
    if prepared is None:
        connection.prepare_threshold = None if behind_one else PREPARE_THRESHOLD
    if behind_one and given:
        info[LOCAL_TIMEOUTS] = "".join(f"; SET LOCAL {name} = {value}" for name, value in given.items())


def protect(pooled: Any) -> None:
    """Prepare no statements on a connection of the caller's engine that has a pooler in between. Asked once each.

    An engine that was told how to prepare, by a `prepare_threshold` other than psycopg's own, is left to that.
    """
    if _PROTECTED in pooled.info:
        return
    driver = pooled.driver_connection
    if driver.prepare_threshold == PREPARE_THRESHOLD:
        behind_one, pooled.info[BACKEND] = _ask(pooled.cursor(), driver.info.backend_pid, {})
        if behind_one:
            driver.prepare_threshold = None
    pooled.info[_PROTECTED] = True


def _ask(cursor: Any, process: int, settings: Mapping[str, int]) -> tuple[bool, Backend | None]:
    """Whether there is a pooler in between, and if not, the process at the other end.

    Then the settings are made for the whole session.

    They are not sent when the connection is made: PgBouncer refuses `options`, and a URL may have some of its own.
    """
    direct = f"pg_backend_pid() = {process}"
    started = f"CASE WHEN {direct} THEN (SELECT {STARTED} FROM pg_stat_get_activity({process})) END"
    made = [f"CASE WHEN {direct} THEN set_config('{name}', '{value}', false) END" for name, value in settings.items()]
    try:
        cursor.execute(f"SELECT {', '.join([direct, started, *made])}")
        is_direct, began, *_ = cursor.fetchone()
        return not is_direct, None if began is None else Backend(process, began)
    finally:
        cursor.close()
