"""The places for the connections of a store: a number of them, taken until a deadline, and none is ever lost."""

import gc
import math
import threading
import time
import weakref
from collections import deque
from contextlib import suppress
from typing import Any

# Seconds. A signal handler that raises may keep one who gives a place back from waking those who wait, or let a place
# go with its holder: so whoever is the next looks now and then.
_LOOK = 0.25


class Place:
    """A place for one connection. Whoever has taken it holds it; when it is gone with its holder, another is made."""

    __slots__ = ("__weakref__", "connection")

    def __init__(self) -> None:
        self.connection: Any = None
        """What its holder uses; None while nobody holds it, unless its holder was interrupted."""


class Slots:
    """The places of a store, handed out in the order in which callers come.

    SQLAlchemy's pool waits, too, but no caller's deadline can end that, and Ctrl-C at a bad moment takes its places.

    There is no lock, and to take a place or to give it back is a single step of C: Python runs signal handlers between
    such steps, whose exceptions may come anywhere else.
    """

    def __init__(self, size: int | None) -> None:
        """Without a *size* there are as many as are asked for."""
        self.size = size
        self.free: deque[Place] = deque([Place() for _ in range(size or 0)], maxlen=size or 0)
        """Add a place to it to give it back, once, and then `wake`, if somebody is in the queue."""
        self.queue: deque[threading.Lock] = deque()
        """A lock for each who waits, released for the first when it should look for a place."""
        # Weakly, to see which are gone.
        self._places = [weakref.ref(place) for place in self.free]
        self.interrupted = False
        """Whether a call was interrupted while it connected: its error may hold its place, and itself."""

    @property
    def taken(self) -> int:
        return max(0, sum(place() is not None for place in self._places) - len(self.free))

    def take(self, until: float, patience: float = math.inf) -> Place | None:
        """Take a place; None if none became free *until* then, on the monotonic clock, or for *patience* seconds."""
        if self.size is None:
            return Place()
        if not self.queue:
            try:
                return self.free.pop()
            except IndexError:
                pass
        return self._wait(min(until, time.monotonic() + patience))

    def wake(self) -> None:
        """Let the first in the queue look for a place."""
        if self.queue:
            with suppress(IndexError, RuntimeError):  # It has just left, or has been woken.
                self.queue[0].release()

    def _wait(self, until: float) -> Place | None:
        come = threading.Lock()
        come.acquire()
        place: Place | None = None
        stuck: threading.Lock | None = None
        try:
            try:
                self.queue.append(come)
                woken = True
                while place is None:
                    if self.queue[0] is come:
                        place = self._next()
                    elif not woken and self.queue[0] is stuck:
                        # The first left a place alone: this one may be a signal handler that has interrupted it.
                        place = self._free()
                    stuck = self.queue[0] if self.free else None
                    left = until - time.monotonic()
                    if place is not None or left <= 0:
                        break
                    woken = come.acquire(timeout=min(left, _LOOK))
                    if not woken and self.interrupted:
                        self.interrupted = False
                        gc.collect()
            finally:
                if come in self.queue:
                    self.queue.remove(come)
                self.wake()
        except BaseException:
            if place is not None:
                self.free.append(place)
            raise
        return place

    def _free(self) -> Place | None:
        try:
            return self.free.pop()
        except IndexError:
            return None

    def _next(self) -> Place | None:
        """A place that is free, or one instead of a place that is gone. For the first in the queue alone."""
        free = self._free()
        if free is not None:
            return free
        for number, place in enumerate(self._places):
            if place() is None:
                made = Place()
                self._places[number] = weakref.ref(made)
                return made
        return None
