"""A lock that threads get in the order in which they ask for it, and overtake if its holder takes long."""

import threading
import time
from collections import deque
from typing import Protocol

_PATIENCE = 0.02


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

    def __init__(self, patience: float = _PATIENCE) -> None:
        self._patience = patience
        self._lock = threading.RLock()  # See `Watchdog`.
        self._waiting: deque[_Ticket] = deque()
        self._inside: _Ticket | None = None
        self._since = 0.0

    def enter(self) -> Ticket:
        """Wait until this thread may go on. The caller must leave with the ticket, whatever happens inside."""
        ticket = _Ticket(self)
        with self._lock:
            if self._inside is None:
                self._inside = ticket
                self._since = time.monotonic()
                return ticket
            come = ticket.come = threading.Lock()
            come.acquire()
            self._waiting.append(ticket)
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
        with self._lock:
            if self._inside is ticket:
                self._next()
            elif ticket in self._waiting:
                self._waiting.remove(ticket)

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
