"""How long calls wait, and for what: deadlines, pauses between tries, places in the pool, SQLite while others use it.

Blocking work that cannot be interrupted, such as connecting, is waited for until a deadline and then left to itself.
"""

import math
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from contextvars import ContextVar
from datetime import timedelta
from types import TracebackType
from typing import Any, NamedTuple, Protocol, Self, TypeVar

from statestore.errors import CommitUnknownError, InvalidValueError, UnavailableError

# How late a call may be: what it waits for has this long to end by itself before its connection is cut.
GRACE = 0.25

# The ends of the blocks around a call, each no later than those around it.
_ends: ContextVar[tuple[float, ...]] = ContextVar("statestore.deadline", default=(math.inf,))


class deadline:
    """Bound every call of any store that is made inside the block: `with statestore.deadline(2.5):`.

    For threads and tasks alike; each has its own. Blocks nest: the earliest end counts, and so does the store's own
    `timeout`. A call that is out of time raises `UnavailableError`, if nothing was written, or `CommitUnknownError`, at
    most half a second late. It bounds calls of stores alone: code of your own is not interrupted.
    """

    def __init__(self, seconds: float | timedelta) -> None:
        self._seconds = in_seconds(seconds, "seconds")

    def __enter__(self) -> Self:
        ends = _ends.get()
        _ends.set((*ends, min(ends[-1], time.monotonic() + self._seconds)))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        _ends.set(_ends.get()[:-1] or (math.inf,))


def in_seconds(value: Any, argument: str) -> float:
    """A duration in seconds, given as a number or a timedelta."""
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds < math.inf:
        raise InvalidValueError(argument, "must be a positive number of seconds, or a timedelta")
    return float(seconds)


def ends_at(timeout: float) -> float:
    """When a call that begins now has to have ended, on the monotonic clock: each way into the engine asks here."""
    return min(time.monotonic() + timeout, _ends.get()[-1])


def out_of_time(unsettled: bool = False) -> UnavailableError | CommitUnknownError:
    """The error of a call that did not end in time; *unsettled*: it may have been applied all the same."""
    if unsettled:
        return CommitUnknownError(
            "the call was given up at its deadline while its write was under way; it may or may not have been applied: "
            "read before you repeat it"
        )
    return UnavailableError(
        "the call did not end within its time, and nothing was written; "
        "raise the store's timeout= or the deadline around the call, or try again later"
    )


class Waits(NamedTuple):
    """How long a store waits, in seconds; see `StateStore.open`."""

    timeout: float = 30.0
    retry_for: float = 15.0
    pool: float = math.inf
    lock: float = math.inf
    """For SQLite's writer; PostgreSQL has a setting of its own."""
    slow_call: float | None = None
    """From how many seconds on a call is logged as slow."""


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


def no_connection() -> UnavailableError:
    return UnavailableError("no connection became free in time; use a larger pool_size, or hold transactions shorter")


def writer_timeout() -> UnavailableError:
    return UnavailableError(
        "another transaction of this store held SQLite's only writer for too long; end it first, "
        "and inside it call the object that transaction() returned, not the store"
    )


class PoolState(NamedTuple):
    """How many connections there may be, how many are in use and idle, and how many callers wait for one."""

    size: int
    used: int
    idle: int
    waiting: int


class OnlyWriter:
    """SQLite's only writer, for the threads of a process: one at a time, in the order in which they come.

    Not a plain lock: Ctrl-C may come when that was taken just now, and before anybody has been told.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()  # See `Watchdog`.
        self._places: deque[threading.Lock] = deque()
        """Of all who come, the first of whom is inside; those behind it wait for their lock."""

    def enter(self, until: float) -> "threading.Lock | None":
        """Come inside, *until* then on the monotonic clock. Returns what to leave with; None if it took too long."""
        place = threading.Lock()
        place.acquire()
        try:
            with self._lock:
                self._places.append(place)
                inside = self._places[0] is place
            if inside or place.acquire(timeout=min(max(0.0, until - time.monotonic()), 1e6)):
                return place
            with self._lock:
                if self._places[0] is place:
                    return place
                self._places.remove(place)
                return None
        except BaseException:  # Ctrl-C, most likely.
            self.leave(place)
            raise

    def leave(self, place: threading.Lock) -> None:
        """Let the next one in. Leaving twice does nothing, so who was interrupted may do it again."""
        with self._lock:
            if place in self._places:
                self._places.remove(place)
            if self._places and self._places[0].locked():
                self._places[0].release()


class Signal:
    """As `threading.Event`, for one thread that waits; any may set it.

    That one keeps a lock of its own for good if a signal handler raises at the wrong moment: between two calls of C.
    Here each step is one of them. `wait` may come back early, and says then that nothing was set.
    """

    __slots__ = ("_lock", "_set")

    def __init__(self) -> None:
        self._set = False
        self._lock = threading.Lock()
        self._lock.acquire()

    def is_set(self) -> bool:
        return self._set

    def set(self) -> None:
        self._set = True
        try:  # Not `suppress`, which is functions of Python.
            self._lock.release()
        except RuntimeError:
            return  # It was set before.

    def clear(self) -> None:
        self._set = False
        self._lock.acquire(blocking=False)

    def wait(self, timeout: float | None) -> bool:
        if not self._set:
            self._lock.acquire(timeout=-1 if timeout is None else min(max(0.0, timeout), 1e6))
        return self._set


# Seconds; see `SharedSignal`.
_LOOK = 0.25


class SharedSignal(Signal):
    """For any number of threads that wait. It is set once, and not cleared."""

    __slots__ = ()

    def wait(self, timeout: float | None) -> bool:
        until = math.inf if timeout is None else time.monotonic() + timeout
        while not self._set and (left := until - time.monotonic()) > 0:
            # Whoever is woken wakes the next one. A signal handler that raises in between prevents that: so each looks.
            if self._lock.acquire(timeout=min(left, _LOOK)):
                with suppress(RuntimeError):
                    self._lock.release()
        return self._set


# Seconds; see `FairLock`.
_PATIENCE_INSIDE = 0.02


class Ticket(Protocol):
    """Shows that its holder is inside. Leaving twice does nothing."""

    def leave(self) -> None: ...


class _AnyTime:
    """A lock that is always free."""

    def enter(self) -> Ticket:
        return self

    def leave(self) -> None:
        pass


ANY_TIME = _AnyTime()


class FairLock:
    """Lets threads in one at a time, in the order in which they come; one that takes long is overtaken.

    Threads that use SQLite at the same time compete for the interpreter's lock, which sqlite3 releases at every step:
    32 of them get a third as much done as they do one at a time. This lock is for speed alone; nothing may depend on
    being alone inside. A thread that has been inside for longer than *patience*, in seconds, no longer keeps
    others out.
    """

    def __init__(self, patience: float = _PATIENCE_INSIDE) -> None:
        self._patience = patience
        self._lock = threading.RLock()  # See `Watchdog`.
        self._waiting: deque[_Ticket] = deque()
        self._inside: _Ticket | None = None
        self._since = 0.0

    def enter(self) -> Ticket:
        """Wait until this thread may go on. The caller must leave with the ticket, whatever happens inside."""
        ticket = _Ticket(self)
        if self._inside is None and not self._waiting:
            # Without the lock, which takes longer than all this. Two who come at the very same moment are both in.
            self._inside = ticket
            self._since = time.monotonic()
            return ticket
        with self._lock:
            come = ticket.come = threading.Lock()
            come.acquire()
            self._waiting.append(ticket)
            if self._inside is None:  # Who was inside may have looked whether anybody waits before this one did.
                self._next()
        try:
            while not come.acquire(timeout=self._patience):
                with self._lock:
                    if time.monotonic() - self._since >= self._patience:
                        self._next()
        except BaseException:  # Ctrl-C, most likely.
            ticket.leave()
            raise
        return ticket

    def leave(self, ticket: "_Ticket") -> None:
        if self._inside is ticket and not self._waiting:
            self._inside = None
            if not self._waiting:
                return
        with self._lock:
            if ticket in self._waiting:
                self._waiting.remove(ticket)
            if self._inside is ticket or self._inside is None:
                self._next()

    def _next(self) -> None:
        self._inside = None
        if self._waiting:
            self._inside = ticket = self._waiting.popleft()
            self._since = time.monotonic()
            if ticket.come is not None:
                ticket.come.release()


class _Ticket:
    __slots__ = ("_fair_lock", "_left", "come")

    def __init__(self, lock: FairLock) -> None:
        self._fair_lock = lock
        self._left = False
        self.come: threading.Lock | None = None
        """Held until the ticket is called; only for those who have to wait."""

    def leave(self) -> None:
        if not self._left:
            self._left = True
            self._fair_lock.leave(self)


R = TypeVar("R")


class LeftBehind(BaseException):
    """The caller no longer waits for work that goes on; *error* is for that caller."""

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
    del work, late  # An error remembers what functions held: not this, which its thread is to let go of.
    threading.Thread(target=job.run, name="statestore-connecting", daemon=True).start()
    try:
        job.done.acquire(timeout=min(max(0.0, until - time.monotonic()), 1e6))
    except BaseException as exc:  # Ctrl-C, most likely, or a signal's time limit.
        interrupt = exc
    else:
        result: R = job.take()
        return result
    job.leave()
    try:
        raise LeftBehind(interrupt)
    finally:
        del interrupt, job  # Else the error would hold itself, until it is collected.


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
        """The caller has stopped waiting: the result is put away, now or when it comes."""
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
