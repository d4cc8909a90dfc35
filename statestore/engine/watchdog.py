"""Ends what is out of time: asks the database first, then cuts the connection.

A thread that waits for a network that swallows everything cannot be asked to stop, but it wakes up when its socket is
shut down. One thread of the process does that for all stores. It sleeps until the earliest deadline, and a call that
ends in time costs it nothing.
"""

import asyncio
import contextlib
import inspect
import math
import os
import socket
import sqlite3
import sys
import threading
import time
from typing import Any

from statestore.engine import host_drivers, process_fork
from statestore.engine.waits import GRACE


class Watch:
    """One use of a driver's connection, and when it has to have ended."""

    __slots__ = ("cut", "driver", "due", "fired")

    def __init__(self, driver: Any, due: float) -> None:
        self.driver = driver
        self.due = due
        self.fired = False
        """Whether it ran out of time, or was given up: the connection is not to be used again."""
        self.cut = False


class Watchdog:
    """Watches the connections in use, on a thread that is started when it is first needed."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # A signal handler may call a store in the middle of it.
        self._changed = threading.Condition(self._lock)
        self.watches: set[Watch] = set()
        """The uses that have begun. To remove one is a step of C, which no signal handler can come in between."""
        self._wakes_at = math.inf
        self._thread: threading.Thread | None = None

    def begin(self, watch: Watch) -> None:
        """From now on, until `end`, a driver's connection is in use.

        To be called in a `try` that ends with `watches.discard`, and then with `end`: a use that is forgotten is given
        up when it is due, whoever has the connection then.
        """
        # Without the lock, which every call would take. The thread says that it sleeps for ever before it looks for who
        # is due: so it either finds this one, or is woken.
        self.watches.add(watch)
        if watch.due < self._wakes_at:
            with self._lock:
                self._wake_by(watch.due)

    def end(self, watch: Watch) -> bool:
        """The use has ended: the connection is left alone from now on. Returns whether it was given up."""
        with self._lock:
            self.watches.discard(watch)
        return watch.fired

    def hurry(self, watch: Watch, within: float = 0.0) -> None:
        """Give a use up in *within* seconds, if it has not ended until then."""
        with self._lock:
            if watch in self.watches and not watch.fired:
                watch.due = min(watch.due, time.monotonic() + within)
                self._wake_by(watch.due)

    def pause(self) -> None:
        """Let the thread end: a process that has several threads is not forked lightly. `resume` starts it anew."""
        with self._lock:
            thread, self._thread = self._thread, None
            self._wakes_at = math.inf
            self._changed.notify()
        if thread is not None and thread is not threading.current_thread():
            thread.join(1)

    def resume(self) -> None:
        with self._lock:
            if self.watches:
                self._wake_by(min([watch.due for watch in [*self.watches]]))

    def _wake_by(self, due: float) -> None:
        if due >= self._wakes_at:
            return
        if self._thread is None:
            thread = self._thread = threading.Thread(target=self._work, name="statestore-watchdog", daemon=True)
            try:
                thread.start()
            except BaseException:
                self._thread = None
                raise
        else:
            self._changed.notify()
        self._wakes_at = due

    def _work(self) -> None:
        try:
            with self._changed:
                while self._thread is threading.current_thread():
                    now = time.monotonic()
                    self._wakes_at = math.inf
                    # Copies: whatever the garbage collector ends in this thread may end a watch, too.
                    for watch in [watch for watch in [*self.watches] if watch.due <= now]:
                        self._give_up(watch, now)
                        del watch  # Its driver is not to live for as long as nothing happens here.
                    self._wakes_at = min([watch.due for watch in [*self.watches]], default=math.inf)
                    self._changed.wait(
                        None
                        if self._wakes_at == math.inf
                        else min(max(0.0, self._wakes_at - now), threading.TIMEOUT_MAX)
                    )
        finally:
            with self._lock:
                if self._thread is threading.current_thread():  # A bug: the next who needs it starts another.
                    self._thread, self._wakes_at = None, math.inf

    def _give_up(self, watch: Watch, now: float) -> None:
        if isinstance(watch.driver, sqlite3.Connection):
            with contextlib.suppress(Exception):
                watch.driver.interrupt()
            watch.due = now + GRACE
        elif watch.fired:
            cut(watch.driver)
            watch.cut = True
            watch.due = math.inf
        else:
            # Asked first, so that a statement which waits in the server is not done after its caller has left.
            with contextlib.suppress(RuntimeError):  # No thread can be started: its socket is shut down then.
                threading.Thread(target=_cancel, args=(watch.driver,), name="statestore-cancel", daemon=True).start()
            watch.due = now + GRACE
        watch.fired = True


def cut(driver: Any) -> None:
    """Shut the socket of a connection to PostgreSQL down, whoever is waiting for it; the connection is lost."""
    if host_drivers.cut(driver):
        return
    with contextlib.suppress(Exception), socket.socket(fileno=os.dup(driver.pgconn.socket)) as line:
        line.shutdown(socket.SHUT_RDWR)


def _cancel(driver: Any) -> None:
    with contextlib.suppress(Exception):
        if _freezes():
            return  # It is cut a moment later.
        asking = driver.cancel_safe(timeout=8 * GRACE)
        if inspect.iscoroutine(asking):
            asyncio.run(asking)  # An async connection's, on a loop of this thread's own.


def _freezes() -> bool:
    """Whether to ask would hold the interpreter's lock until the server answers: in C, before libpq 17."""
    psycopg = sys.modules["psycopg"]
    capable: bool = psycopg.capabilities.has_cancel_safe()
    return not capable and psycopg.pq.__impl__ != "python"


watchdog = Watchdog()


def _in_child() -> None:
    watchdog.__init__()  # type: ignore[misc]  # In place: it is imported by name.


process_fork.register(before=watchdog.pause, in_parent=watchdog.resume, in_child=_in_child)


def driver_of(connection: Any) -> Any:
    """The driver's own connection below what a pool gave, sync or async."""
    driver = connection.driver_connection
    kind = type(driver)
    if kind not in _plain:
        if kind.__module__.startswith("aiosqlite"):
            return driver._conn
        _plain.add(kind)
    return driver


# Kinds of drivers' connections that are what they seem: asked for at every call.
_plain: set[type] = set()
