"""Following a history: what is appended is passed on, once and in order, until one stops.

What decides is always a look at the history. PostgreSQL's notifications only make it come at once: without them, and on
SQLite, one looks again after a pause that grows while nothing happens. So nothing depends on a notification, and after
a lost connection the follower goes on where it was.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from typing import Any

from statestore import checks
from statestore.async_database import AsyncRunner
from statestore.database import Database, Runner
from statestore.driver_errors import understand
from statestore.errors import InvalidValueError, StateStoreError
from statestore.execution import BoundRunner
from statestore.repositories import waking
from statestore.repositories.base import Call
from statestore.repositories.follows import FollowWork, Seen, Start
from statestore.threaded_database import ThreadedDatabase
from statestore.values import Entry

_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.02, 0.5
# With notifications one looks now and then all the same: not every change of a history sends one.
_PAUSE_WHEN_NOTIFIED = 1.0
# How long the database may stay away before the follower gives up.
_PATIENCE = 120.0
# Of so many entries it is known whether they are still there when positions were popped and used again.
_REMEMBERED = 256


class _Follower:
    """Where a follower is, and when it looks again."""

    def __init__(self, session_id: str, after: int | None, timeout: timedelta | None) -> None:
        self._session_id = session_id
        self._after = after
        self._timeout = None if checks.ttl(timeout, "timeout") is None else timeout
        self._start: Start | None = None
        self._position = 0
        self._first: Seen | None = None
        self._seen: deque[Seen] = deque(maxlen=_REMEMBERED)
        self._pause = _SHORTEST_PAUSE
        self._since = self._reached = time.monotonic()

    def call(self) -> Call:
        if self._start is None:
            return Call(FollowWork, FollowWork.start, (self._session_id, self._after))
        reached = (self._session_id, self._start.created_at, self._position, tuple(self._seen), self._first)
        return Call(FollowWork, FollowWork.look, reached)

    def found(self, result: Any) -> list[Entry] | None:
        """Take the result of `call`; returns what is to be passed on, or None where there is more to ask at once."""
        self._reached = time.monotonic()
        if isinstance(result, Start):
            self._start = result
            self._position = result.position
            self._seen.extend(result.seen)
            self._first = next(iter(self._seen), None)
            return None
        position: int
        entries: list[Entry]
        position, entries = result
        if self._first is not None and position < self._first.seq:
            self._first = None
        while self._seen and self._seen[-1].seq > position:
            self._seen.pop()
        self._position = position
        if entries:
            self._pause = _SHORTEST_PAUSE
            self._since = self._reached
        return entries

    def passed_on(self, entry: Entry) -> None:
        self._position = entry.seq
        seen = Seen(entry.seq, entry.entry_id)
        self._seen.append(seen)
        self._first = self._first or seen

    def failed(self, error: StateStoreError) -> None:
        """Raise what does not pass, or has not passed for too long."""
        if not error.retryable or time.monotonic() - self._reached > _PATIENCE:
            raise error

    @property
    def over(self) -> bool:
        return self._timeout is not None and time.monotonic() - self._since >= self._timeout.total_seconds()

    def pause(self, notified: bool) -> float:
        """How long to wait before the next look."""
        self._pause = min(self._pause * 1.5, _LONGEST_PAUSE)
        pause = _PAUSE_WHEN_NOTIFIED if notified else self._pause
        if self._timeout is None:
            return pause
        return max(0.0, min(pause, self._timeout.total_seconds() - (time.monotonic() - self._since)))


class _Ear:
    """A connection of its own that listens for a session; without one, where that does not work, everybody just looks.

    Where statements are not prepared there is a pooler, which may give each statement another connection: no LISTEN.
    """

    def __init__(self, database: Database | None, session_id: str) -> None:
        self._database = database if database is not None and database.dialect.name == "postgresql" else None
        self._session_id = session_id
        self._connection: Any = None
        self.listening = False

    def open(self) -> None:
        """Listen, if that can be done now. Appends that are under way may still come without a notification."""
        if self._database is None or self.listening:
            return
        try:
            if self._connection is None:
                fairy = self._database.engine.raw_connection()
                if fairy.driver_connection.prepare_threshold is None:  # type: ignore[union-attr]
                    fairy.close()
                    self._database = None
                    return
                self._connection = fairy.driver_connection
                fairy.detach()
                self._connection.autocommit = True
            names = (self._database.settings.namespace, self._session_id)
            channel = self._connection.execute(waking.LISTEN_TO, names).fetchone()[0]
            self._connection.execute(f'LISTEN "{channel}"')
            # Refused while an append just looks whether somebody follows: the next time, then.
            self.listening = self._connection.execute(waking.TRY_LOCK, names).fetchone()[0]
        except Exception as exc:
            self._lost(exc)

    def wait(self, seconds: float) -> None:
        """Wait for a notification, or as long as that."""
        try:
            for _ in self._connection.notifies(timeout=seconds, stop_after=1):
                pass
        except Exception as exc:
            self._lost(exc)
            time.sleep(min(seconds, _SHORTEST_PAUSE))

    async def wait_async(self, seconds: float) -> None:
        """As `wait`, without a thread."""
        loop = asyncio.get_running_loop()
        heard = asyncio.Event()
        try:
            file = self._connection.fileno()
            loop.add_reader(file, heard.set)
        except NotImplementedError:  # Windows' event loop: it just looks.
            self.close()
            self._database = None
            return
        except Exception as exc:
            self._lost(exc)
            await asyncio.sleep(min(seconds, _SHORTEST_PAUSE))
            return
        try:
            async with asyncio.timeout(seconds):
                await heard.wait()
        except TimeoutError:
            return
        finally:
            loop.remove_reader(file)
        try:
            for _ in self._connection.notifies(timeout=0):
                pass
        except Exception as exc:
            self._lost(exc)
            await asyncio.sleep(min(seconds, _SHORTEST_PAUSE))

    def _lost(self, exc: Exception) -> None:
        self.close()
        if understand(exc) is None:
            raise exc

    def close(self) -> None:
        """Hang up: the server lets go of the lock."""
        connection, self._connection, self.listening = self._connection, None, False
        if connection is not None:
            connection.close()


def follow(runner: Runner, session_id: str, *, after: int | None, timeout: timedelta | None) -> Iterator[Entry]:
    """See `History.follow`."""
    _check_runner(runner)
    follower = _Follower(session_id, after, timeout)
    return _follow(runner, follower, _Ear(runner if isinstance(runner, Database) else None, session_id))


def _follow(runner: Runner, follower: _Follower, ear: _Ear) -> Iterator[Entry]:
    try:
        while True:
            ear.open()
            entries: list[Entry] | None = []
            try:
                entries = follower.found(runner.run(follower.call()))
            except StateStoreError as error:
                follower.failed(error)
            for entry in entries or ():
                follower.passed_on(entry)
                yield entry
            if entries is None or entries:
                continue
            if follower.over:
                return
            seconds = follower.pause(ear.listening)
            if ear.listening:
                ear.wait(seconds)
            else:
                time.sleep(seconds)
    finally:
        ear.close()


def follow_async(
    runner: AsyncRunner, session_id: str, *, after: int | None, timeout: timedelta | None
) -> AsyncIterator[Entry]:
    """See `AsyncHistory.follow`."""
    _check_runner(runner)
    follower = _Follower(session_id, after, timeout)
    database = runner.database if isinstance(runner, ThreadedDatabase) else None
    return _follow_async(runner, follower, _Ear(database, session_id))


async def _follow_async(runner: AsyncRunner, follower: _Follower, ear: _Ear) -> AsyncIterator[Entry]:
    try:
        while True:
            if not ear.listening:
                await asyncio.to_thread(ear.open)
            entries: list[Entry] | None = []
            try:
                entries = follower.found(await runner.run(follower.call()))
            except StateStoreError as error:
                follower.failed(error)
            for entry in entries or ():
                follower.passed_on(entry)
                yield entry
            if entries is None or entries:
                continue
            if follower.over:
                return
            seconds = follower.pause(ear.listening)
            if ear.listening:
                await ear.wait_async(seconds)
            else:
                await asyncio.sleep(seconds)
    finally:
        ear.close()


def _check_runner(runner: Any) -> None:
    if isinstance(runner, BoundRunner) or not hasattr(runner, "transaction"):
        raise InvalidValueError("history.follow", "cannot run inside a transaction, which would see nothing new")
