"""Server processes whose client has gone in the middle of something.

PostgreSQL notices a lost connection when it has something to send. What was in its socket then, or waits for a lock, it
may carry out later: behind the try that took its place, or behind the caller who read that nothing had been written. So
nothing more is sent on another connection before the process of the lost one has ended.
"""

import time
from contextlib import suppress
from typing import Any, NamedTuple

from statestore.engine.driver_errors import classify
from statestore.engine.sql import Connected
from statestore.engine.waits import out_of_time
from statestore.engine.watchdog import Watch, driver_of, watchdog

BACKEND = "statestore_backend"
"""In the `info` of a pooled connection: the `Backend` at its other end, unless there is a pooler in between."""

STARTED = "CAST(extract(epoch FROM backend_start) * 1000000 AS bigint)"
"""When a process of `pg_stat_get_activity` began: as a number, since the text of a time depends on settings."""

# The server waits for each a tenth of a second.
_END = f"""SELECT pg_terminate_backend(a.pid, 100)
    FROM unnest(CAST(%s AS int[]), CAST(%s AS bigint[])) AS w (process, started),
        LATERAL pg_stat_get_activity(w.process) AS a
    WHERE {STARTED} = w.started"""
# Seconds after which those that do not end are left to themselves: they wait for a disk that is gone, most likely.
_PATIENCE = 30.0


class Backend(NamedTuple):
    """A server process. Its number alone may be another's one day, or on another server."""

    process: int
    started: int


class Orphans:
    """The processes that a store has left behind."""

    def __init__(self) -> None:
        self._left: list[tuple[Backend, float]] = []

    def __bool__(self) -> bool:
        return bool(self._left)

    def note(self, backend: Backend | None) -> None:
        if backend is not None:
            self._left.append((backend, time.monotonic()))

    def end(self, connection: Any, until: float) -> None:
        """End them, and wait until they have gone.

        Raises:
            UnavailableError: One was still there *until* then, on the monotonic clock.
        """
        left = list(self._left)
        if not left:  # Another thread was quicker.
            return
        patience = left[-1][1] + _PATIENCE
        watch = Watch(driver_of(connection), until)
        try:
            watchdog.begin(watch)
            while not _have_ended(connection, [backend for backend, _ in left]) and time.monotonic() < patience:
                if time.monotonic() >= until:
                    raise out_of_time()
        finally:
            watchdog.watches.discard(watch)
            watchdog.end(watch)
        for one in left:
            with suppress(ValueError):
                self._left.remove(one)


def _have_ended(connection: Connected, backends: list[Backend]) -> bool:
    cursor: Any = connection.cursor()
    try:
        cursor.execute(_END, ([one.process for one in backends], [one.started for one in backends]))
        return all(ended for (ended,) in cursor.fetchall())
    except Exception as exc:
        failure = classify(exc)
        if failure is None or failure.lost:
            raise
        return True  # Nobody may do so here, and nobody can tell.
    finally:
        cursor.close()
