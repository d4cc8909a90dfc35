"""Blocking work that nobody can interrupt, such as connecting: left to itself when its time is over."""

import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from statestore.engine.deadlines import out_of_time

R = TypeVar("R")


class LeftBehind(BaseException):
    """Nobody waits any more for work that goes on; *error* is for who waited."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error


def run_until(work: Callable[[], R], until: float, late: Callable[[R | None], Any]) -> R:
    """Run *work* in a thread of its own and wait for it *until* then, on the monotonic clock.

    Raises:
        LeftBehind: Its time was over, or the wait was interrupted. When *work* comes to its end after all, what it
            returned is handed to *late*, in its thread; None, if it failed.
    """
    job = _Job(work, late)
    threading.Thread(target=job.run, name="statestore-connecting", daemon=True).start()
    try:
        job.done.acquire(timeout=min(max(0.0, until - time.monotonic()), 1e6))
    except BaseException as exc:  # Ctrl-C, most likely, or a signal's time limit.
        interrupt = exc
    else:
        result: R = job.take()
        return result
    job.leave()
    raise LeftBehind(interrupt)


class _Job:
    def __init__(self, work: Callable[[], Any], late: Callable[[Any], Any]) -> None:
        self._work = work
        self._late = late
        self._lock = threading.Lock()
        self._left = False
        self._ended = False
        self._result: Any = None
        self._error: BaseException | None = None
        self.done = threading.Lock()
        self.done.acquire()

    def run(self) -> None:
        try:
            self._result = self._work()
        except BaseException as exc:
            self._error = exc
        with self._lock:
            self._ended = True
            left = self._left
        self.done.release()
        if left:
            self._late(self._result)

    def leave(self) -> None:
        """Nobody waits any more: what came is put away, now or when it comes."""
        with self._lock:
            self._left = True
            ended = self._ended
        if ended:
            self._late(self._result)

    def take(self) -> Any:
        with self._lock:
            if not self._ended:
                self._left = True
                raise LeftBehind(out_of_time())
        if self._error is not None:
            raise self._error
        return self._result
