"""One computes, the others wait: among the threads or tasks of a process, and among processes.

In a process, the first that misses a key leads a *flight*, and the others on board wait for its result in memory.
Among processes, the leader needs the key's *claim*, a row in the database with an end; whose process dies loses it by
then. What is decided is decided here, once; `operations.cache` does the calling and the waiting, in its two ways.
"""

import random
import threading
import uuid
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final, Generic, Protocol, TypeVar

from statestore import checks, codec, exactjson
from statestore.cache_options import CacheOptions
from statestore.errors import InvalidValueError, UnavailableError
from statestore.repositories.cache_base import tags as checked_tags
from statestore.repositories.cache_claims import Found
from statestore.repositories.cache_writes import checked_attributes

TIMEOUT: Final = timedelta(seconds=60)

_FIRST_WAIT = 0.01
_LONGEST_WAIT = 0.25


class Settable(Protocol):
    """What waiters wait for: an event of `threading` or of `asyncio`."""

    def set(self) -> None: ...


Signal = TypeVar("Signal", bound=Settable)


@dataclass(slots=True, eq=False)
class Flight(Generic[Signal]):
    """A computation under way in this process: who leads it, what tells its end, and what came out, if anything."""

    leader: Hashable
    landed: Signal
    found: Found | None = None
    token: str = field(default_factory=lambda: str(uuid.uuid4()))


def check(compute: Any, timeout: Any) -> timedelta:
    """How long to wait, once that and *compute* have been checked."""
    if not callable(compute):
        raise InvalidValueError("compute", f"must be callable, not {type(compute).__name__}")
    found = checks.ttl(timeout, "timeout")
    if found is None:
        raise InvalidValueError("timeout", "must be a timedelta; nobody waits forever")
    return found


def checked(options: CacheOptions, *, tags: Any, **others: Any) -> dict[str, Any]:
    """The attributes of a computed value, checked before it is computed: it would be a pity afterwards."""
    attributes = {"tags": checked_tags(tags), **others}
    checked_attributes(options, exactjson.MAX_BYTES, **attributes)
    return attributes


def check_not_own(flight: Flight[Any], me: Hashable, key: str) -> None:
    """Waiting for oneself would last until the deadline."""
    if flight.leader == me:
        raise InvalidValueError("compute", f"asks for the key that it is to compute, {key!r}; it would wait for itself")


def value_of(found: Found) -> Any:
    """A copy for one caller."""
    return codec.decode(found.data, found.codec)


def too_late(key: str, timeout: timedelta) -> UnavailableError:
    return UnavailableError(
        f"the value of cache key {key!r} is being computed elsewhere, and was not there after {timeout}; "
        "try again, or pass a longer timeout="
    )


def waits() -> Iterator[float]:
    """How many seconds to wait before each look. Jittered, so that those who wait together do not look together."""
    wait = _FIRST_WAIT
    while True:
        yield wait * random.uniform(0.5, 1.0)
        wait = min(wait * 1.6, _LONGEST_WAIT)


class Flights(Generic[Signal]):
    """The flights of a store, by key. Safe between threads."""

    def __init__(self, make_signal: Callable[[], Signal]) -> None:
        self._lock = threading.Lock()
        self._make_signal = make_signal
        self._flights: dict[str, Flight[Signal]] = {}

    def join(self, key: str, me: Hashable) -> tuple[Flight[Signal], bool]:
        """The flight of a key, and whether one leads it."""
        with self._lock:
            flight = self._flights.get(key)
            if flight is not None:
                check_not_own(flight, me, key)
                return flight, False
            flight = self._flights[key] = Flight(me, self._make_signal())
            return flight, True

    @contextmanager
    def leading(self, key: str, flight: Flight[Signal]) -> Iterator[None]:
        """Until the flight has landed, with a result or without."""
        try:
            yield
        finally:
            with self._lock:
                del self._flights[key]
            flight.landed.set()
