"""One computes, the others wait: among the threads or tasks of a process, and among processes.

In a process, the first caller that misses a key leads a *flight*, and the others on it wait for its result in memory.
Among processes, the leader needs the key's *claim*, a row in the database that expires. A claim is short, and renewed
while the leader computes, so that others soon take over if its process dies. This module makes the decisions;
`operations.cache` does the calling and the waiting.
"""

import random
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final

from statestore.checking import checks, codec
from statestore.engine import process_fork
from statestore.engine.flows import Signal
from statestore.errors import InvalidValueError, UnavailableError
from statestore.repositories.cache.base import tags as checked_tags
from statestore.repositories.cache.compute_claims import Found
from statestore.repositories.cache.lifetimes import seconds
from statestore.repositories.cache.limits import CacheState
from statestore.repositories.cache.writes import checked_attributes

TIMEOUT: Final = timedelta(seconds=60)

_FIRST_WAIT = 0.01
_LONGEST_WAIT = 0.25

# A claim lasts a third of the waiting time: if its holder dies, those already waiting still have time to compute.
_SHORTEST_CLAIM, _LONGEST_CLAIM = timedelta(seconds=1), timedelta(seconds=5)
_CLAIMS_IN_A_TIMEOUT = 3
# A claim is renewed after a third of its time, so that two tries may fail.
_RENEWALS = 3

# The flights led by this thread or task, or by one that started it.
_own: ContextVar[frozenset[str]] = ContextVar("statestore_own_flights", default=frozenset())


@dataclass(slots=True, eq=False)
class Flight:
    """A computation under way in this process: the signal of its end, and its result, if any."""

    landed: Signal
    found: Found | None = None
    token: str = field(default_factory=lambda: str(uuid.uuid4()))


def check(compute: Any, timeout: Any) -> timedelta:
    """Check *compute* and *timeout*. Returns how long to wait."""
    if not callable(compute):
        raise InvalidValueError("compute", f"must be callable, not {type(compute).__name__}")
    if not isinstance(timeout, timedelta):
        raise InvalidValueError("timeout", f"must be a timedelta, not {type(timeout).__name__}; waiting has to end")
    if not timedelta(0) < timeout <= checks.MAX_TTL:
        raise InvalidValueError("timeout", f"must be longer than zero and at most {checks.MAX_TTL.days:,} days")
    return timeout


def checked(state: CacheState, *, tags: Any, **others: Any) -> dict[str, Any]:
    """The attributes of a computed value, checked before it is computed: afterwards the work would be wasted."""
    attributes = {"tags": checked_tags(tags), **others}
    attributes["stale_ttl"] = seconds(attributes["stale_ttl"], "stale_ttl", hint="use None for none")
    checked_attributes(state.options, state.max_value_bytes, **attributes)
    return attributes


@contextmanager
def computing(flight: Flight) -> Iterator[None]:
    """For the time in which the leader of a flight computes."""
    before = _own.set(_own.get() | {flight.token})
    try:
        yield
    finally:
        _own.reset(before)


def _check_not_own(flight: Flight, key: str) -> None:
    """Refuse to wait for a flight led by this task, or by one that started it: that would last until the deadline."""
    if flight.token in _own.get():
        raise InvalidValueError("compute", f"asks for {key!r}, the key that it is computing; it would wait for itself")


def value_of(found: Found) -> Any:
    """A copy for one caller."""
    return codec.decode(found.data, found.codec, max_bytes=found.max_bytes)


def too_late(key: str, timeout: timedelta) -> UnavailableError:
    return UnavailableError(
        f"the value of cache key {key!r} is being computed elsewhere, and was not ready after {timeout}; "
        "try again, or pass a longer timeout="
    )


def claim_time(timeout: timedelta) -> timedelta:
    """How long a key is claimed at a time."""
    return min(timeout, max(_SHORTEST_CLAIM, min(_LONGEST_CLAIM, timeout / _CLAIMS_IN_A_TIMEOUT)))


def renewals(timeout: timedelta) -> Iterator[tuple[float, Callable[[], timedelta]]]:
    """The seconds to wait before each renewal of a claim, and how long it then lasts; up to *timeout* in total."""
    lasts, ends = claim_time(timeout), time.monotonic() + timeout.total_seconds()

    def left() -> timedelta:
        return timedelta(seconds=max(0.0, ends - time.monotonic()))

    while left() > lasts:
        yield lasts.total_seconds() / _RENEWALS, lambda: min(lasts, left())


def waits() -> Iterator[float]:
    """The seconds to wait before each look, with jitter, so that those who wait together do not look together."""
    wait = _FIRST_WAIT
    while True:
        yield wait * random.uniform(0.5, 1.0)
        wait = min(wait * 1.6, _LONGEST_WAIT)


class Flights:
    """The flights of a store, by key. Thread-safe."""

    def __init__(self) -> None:
        self.renew_after_fork()
        process_fork.renew_in_child(self)

    def renew_after_fork(self) -> None:
        """In a forked child, start empty: the parent's flights never land there."""
        self._lock = threading.Lock()
        self._flights: dict[str, Flight] = {}

    def join(self, key: str, landed: Signal) -> tuple[Flight, bool]:
        """The flight of a key, and whether the caller leads it: then *landed* signals its end to the others."""
        with self._lock:
            flight = self._flights.get(key)
            if flight is not None:
                _check_not_own(flight, key)
                return flight, False
            flight = self._flights[key] = Flight(landed)
            return flight, True

    @contextmanager
    def leading(self, key: str, flight: Flight) -> Iterator[None]:
        """Lead a flight for the duration of the block: at its end the flight lands, with a result or without."""
        try:
            yield
        finally:
            with self._lock:
                if self._flights.get(key) is flight:
                    del self._flights[key]
            flight.landed.set()
