"""How long a store waits, for what, and what is said when it waits no longer."""

import math
import random
import threading
import time
from collections.abc import Iterator
from typing import NamedTuple

from statestore.engine.deadlines import ends_at
from statestore.errors import UnavailableError


class Waits(NamedTuple):
    """How long a store waits, in seconds; see `StateStore.open`."""

    timeout: float = 30.0
    retry_for: float = 15.0
    pool: float = math.inf
    lock: float = math.inf
    """For SQLite's writer; PostgreSQL has a setting of its own."""
    slow_call: float | None = None
    """From when on a call is told of as slow."""


def tries(until: float, waits: Waits) -> Iterator[float]:
    """How long to pause before each further try, for `retry_for` seconds, or *until* then on the monotonic clock.

    There is at least one, at once.
    """
    until = min(until, time.monotonic() + waits.retry_for)
    yield 0.0
    pause = 0.02
    while time.monotonic() < until:
        # Not longer, so that a call is not late by more than that.
        yield min(0.25, pause + random.uniform(0, 0.02))
        pause = min(2 * pause, 0.25)


def pauses(waits: Waits) -> Iterator[float | None]:
    """How long to pause before each further try of a transaction; None when it was the last."""
    until = ends_at(waits.retry_for)
    pause = 0.02
    while (left := until - time.monotonic()) > 0:
        yield min(left, pause * random.uniform(0.5, 1.5))
        pause = min(2 * pause, 0.25)
    yield None


def acquire(lock: threading.Lock, until: float) -> bool:
    """Acquire *lock*; False if it did not become free *until* then, on the monotonic clock."""
    return lock.acquire(blocking=False) or lock.acquire(timeout=min(max(0.0, until - time.monotonic()), 1e6))


def no_connection() -> UnavailableError:
    return UnavailableError("no connection became free in time; use a larger pool_size, or hold transactions shorter")


def writer_timeout() -> UnavailableError:
    return UnavailableError(
        "another transaction of this store held SQLite's only writer for too long; end it first, "
        "and do not call the store from within it but through what transaction() gave you"
    )
