"""Numbers that order accesses to the cache."""

import threading
import time
from typing import Final

from statestore.engine import forking


class _Stamps:
    """Numbers that grow with each access, on all hosts whose clocks agree, and never repeat in a process."""

    def __init__(self) -> None:
        self._last = 0
        self.renew_after_fork()
        forking.renew_in_child(self)

    def renew_after_fork(self) -> None:
        self._lock = threading.Lock()

    def take(self, count: int = 1) -> int:
        """The first of *count* numbers in a row."""
        with self._lock:
            first = max(self._last + 1, time.time_ns())
            self._last = first + count - 1
            return first


stamps: Final = _Stamps()
