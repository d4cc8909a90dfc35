"""One connection that listens for all who follow sessions of a store, beside the pool.

It is there while somebody follows. A thread has it: it listens, waits, and tells followers what it hears. That decides
nothing, see `follow`: whatever happens to the connection, followers look by themselves until there is another one.
"""

import contextlib
import selectors
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from statestore.engine import process_fork
from statestore.engine.connections import Connections
from statestore.engine.driver_errors import classify
from statestore.engine.watchdog import Watch, cut, watchdog

# As long as an append that looks whether somebody follows may have the lock.
_LOCK_AGAIN = 0.01
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0
# A statement of ours takes no longer, unless the network swallows it.
_PATIENCE = 10.0
_LEAVE_TIME = 2.0


class _Useless(Exception):
    """There is a pooler in between, which may give each statement another connection: no LISTEN."""


@dataclass(frozen=True, slots=True)
class ListenStatements:
    """SQL in psycopg's spelling; each takes a namespace and a session."""

    listen_to: str
    """Gives the channel."""
    try_lock: str
    """Shared, for as long as one listens: who sends looks whether somebody has it."""
    unlock: str


class Ear:
    """A follower's: called from another thread when there may be something new."""

    def __init__(self, listener: "Listener", session_id: str, heard: Callable[[], None]) -> None:
        self._listener = listener
        self.session_id = session_id
        self.heard = heard

    @property
    def listening(self) -> bool:
        """Whether appends from now on are heard of. Those before may have come unheard."""
        return self._listener.hears(self.session_id)

    def open(self) -> None:
        """Listen from as soon as that can be done. Doing it again changes nothing."""
        self._listener.join(self)

    def close(self) -> None:
        self._listener.leave(self)


class Listener:
    """The connection, its thread, and who hears."""

    _closed = False

    def __init__(self, connections: Connections, namespace: str, statements: ListenStatements) -> None:
        self._connections = connections
        self._statements = statements
        self._namespace = namespace
        self._begin()
        process_fork.renew_in_child(self)

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._ears: dict[str, set[Ear]] = {}
        # The channels of the sessions that are listened for now.
        self._channels: dict[str, str] = {}
        self._thread: threading.Thread | None = None
        self._bell: socket.socket | None = None
        self._driver: Any = None
        self._useless = False

    def renew_after_fork(self) -> None:
        """In a forked child: forget all that is the parent's. A follower that goes on here joins anew."""
        if self._driver is not None:
            process_fork.let_go(self._driver)
        process_fork.keep(self._lock, self._ears, self._thread, self._bell)
        self._begin()

    def hears(self, session_id: str) -> bool:
        return session_id in self._channels

    def join(self, ear: Ear) -> None:
        if self._useless or self._closed or ear in self._ears.get(ear.session_id, ()):
            return
        with self._lock:
            self._ears.setdefault(ear.session_id, set()).add(ear)
            if self._thread is not None:
                self._ring()
                return
            try:
                self._start()
            except (OSError, RuntimeError):  # There are no sockets or threads left: the follower polls, and asks again.
                del self._ears[ear.session_id]

    def _start(self) -> None:
        bell, answer = socket.socketpair()
        thread = threading.Thread(target=self._work, args=(answer,), name="statestore-listening", daemon=True)
        try:
            bell.setblocking(False)
            thread.start()
        except BaseException:
            bell.close()
            answer.close()
            raise
        self._bell, self._thread = bell, thread

    def leave(self, ear: Ear) -> None:
        with self._lock:
            ears = self._ears.get(ear.session_id, set())
            ears.discard(ear)
            if not ears and self._ears.pop(ear.session_id, None) is not None:
                self._ring()

    def close(self) -> None:
        """Hang up. Followers look once more, and find the store closed."""
        with self._lock:
            self._closed = True
            thread, driver = self._thread, self._driver
            told = [ear for ears in self._ears.values() for ear in ears]  # The thread forgets them when it ends.
            self._ring()
        for ear in told:
            ear.heard()
        if thread is not None and thread is not threading.current_thread():
            thread.join(_LEAVE_TIME)
            if thread.is_alive() and driver is not None:
                cut(driver)

    def _ring(self) -> None:
        """Let the thread look at what has changed."""
        if self._bell is not None:
            with contextlib.suppress(BlockingIOError):  # It was rung so often that it will.
                self._bell.send(b"!")

    def _tell(self, session_ids: list[str]) -> None:
        with self._lock:
            ears = [ear for session_id in session_ids for ear in self._ears.get(session_id, ())]
        for ear in ears:
            ear.heard()

    def _work(self, answer: socket.socket) -> None:
        pause = _FIRST_PAUSE
        try:
            while not self._has_ended():
                try:
                    self._serve(answer)
                    pause = _FIRST_PAUSE
                except _Useless:
                    self._useless = True
                except Exception as exc:
                    self._hang_up()
                    if classify(exc) is None:  # A bug: followers look by themselves from now on.
                        self._useless = True
                        self._has_ended()
                        raise
                    _wait(answer, None, pause)
                    pause = min(2 * pause, _LONGEST_PAUSE)
        finally:
            answer.close()

    def _has_ended(self) -> bool:
        """Whether nobody listens now. Then the connection is closed: the next follower gets another thread."""
        with self._lock:
            if self._ears and not (self._closed or self._useless):
                return False
            self._close_driver()
            if self._bell is not None:
                self._bell.close()
            self._thread = self._bell = None
            self._ears.clear()
            return True

    def _hang_up(self) -> None:
        with self._lock:
            self._close_driver()
        # Who relied on being told looks from now on.
        self._tell([*self._ears])

    def _close_driver(self) -> None:
        driver, self._driver, self._channels = self._driver, None, {}
        if driver is not None:
            driver.close()

    def _serve(self, answer: socket.socket) -> None:
        """Listen for those who came, no longer for those who left, and wait for something to happen."""
        driver = self._driver
        if driver is None:
            driver = self._driver = self._connect()
        watch = Watch(driver, time.monotonic() + _PATIENCE)
        try:
            watchdog.begin(watch)
            complete = self._listen(driver)
        finally:
            watchdog.watches.discard(watch)
            watchdog.end(watch)
        if _wait(answer, driver, None if complete else _LOCK_AGAIN):
            # Not the driver's own `notifies()`, which takes away from the handler what comes during a statement.
            driver.pgconn.consume_input()
            while (notice := driver.pgconn.notifies()) is not None:
                self._hear(notice.relname.decode())

    def _connect(self) -> Any:
        """A connection like those of the pool, and not one of them."""
        connection = self._connections.engine.pool.recreate().connect()
        driver: Any = connection.driver_connection
        connection.detach()
        if driver.prepare_threshold is None:
            driver.close()
            raise _Useless
        driver.autocommit = True
        # What comes while a statement is under way.
        driver.add_notify_handler(lambda notice: self._hear(notice.channel))
        return driver

    def _listen(self, driver: Any) -> bool:
        """Listen for those who follow now; False if a lock could not be taken."""
        with self._lock:
            wanted = [*self._ears]
        for session_id in self._channels.keys() - set(wanted):
            channel = self._channels.pop(session_id)
            if channel not in self._channels.values():
                driver.execute(f'UNLISTEN "{channel}"')
            driver.execute(self._statements.unlock, (self._namespace, session_id))
        complete = True
        for session_id in wanted:
            if session_id in self._channels:
                continue
            names = (self._namespace, session_id)
            channel = driver.execute(self._statements.listen_to, names).fetchone()[0]
            driver.execute(f'LISTEN "{channel}"')
            # Refused while an append just looks whether somebody follows.
            if driver.execute(self._statements.try_lock, names).fetchone()[0]:
                self._channels[session_id] = channel
                # Appends that were under way have told nobody.
                self._tell([session_id])
            else:
                complete = False
        return complete

    def _hear(self, channel: str) -> None:
        self._tell([session_id for session_id, found in self._channels.items() if found == channel])


def _wait(answer: socket.socket, driver: Any, seconds: float | None) -> bool:
    """Wait until the bell rings, or the server says something. Returns whether it did."""
    with selectors.DefaultSelector() as waiting:
        waiting.register(answer, selectors.EVENT_READ)
        if driver is not None:
            waiting.register(driver.fileno(), selectors.EVENT_READ)
        ready = {key.fileobj for key, _ in waiting.select(seconds)}
    if answer in ready:
        answer.recv(4096)
    return bool(ready - {answer})
