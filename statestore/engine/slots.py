"""Who may have a connection: as many at a time as the pool has, in the order in which they came, until a deadline."""

import math
import threading
import time
from collections import deque
from typing import NamedTuple


class PoolState(NamedTuple):
    """How many connections there may be, how many are in use and idle, and how many callers wait for one."""

    size: int
    used: int
    idle: int
    waiting: int


class Slots:
    """A fair counter of free places. SQLAlchemy's pool waits, too, but no caller's deadline can end that."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._free = size
        self._lock = threading.RLock()  # See `Watchdog`.
        self._waiting: deque[threading.Lock] = deque()

    @property
    def taken(self) -> int:
        return self.size - self._free

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def take(self, until: float, patience: float = math.inf) -> bool:
        """Take a place; False if none became free *until* then, on the monotonic clock, or for *patience* seconds."""
        with self._lock:
            if self._free:
                self._free -= 1
                return True
            come = threading.Lock()
            come.acquire()
            self._waiting.append(come)
        try:
            # A lock takes no longer timeout than about 292 years, nor a negative one.
            if come.acquire(timeout=min(max(0.0, until - time.monotonic()), patience, 1e6)):
                return True
        except BaseException:  # Ctrl-C, most likely.
            self._leave(come)
            raise
        return not self._leave(come, keep=True)

    def give_back(self) -> None:
        with self._lock:
            self._pass_on()

    def _leave(self, come: threading.Lock, *, keep: bool = False) -> bool:
        """Wait no longer. False, if a place had come meanwhile: it is passed on unless it is to be kept."""
        with self._lock:
            if come in self._waiting:
                self._waiting.remove(come)
                return True
            if not keep:
                self._pass_on()
            return False

    def _pass_on(self) -> None:
        if self._waiting:
            self._waiting.popleft().release()
        else:
            self._free += 1
