"""Following a history: what is appended is passed on, once and in order, until the caller stops.

The follower always reads the history itself. PostgreSQL's notifications only make it read at once: without them, and
on SQLite, it reads again after a pause that grows while nothing happens. So nothing depends on a notification, and
after a lost connection the follower continues where it was. All followers of a store share the connection that listens.
"""

import time
from collections import deque
from datetime import timedelta
from typing import Any

from statestore.checking import checks
from statestore.engine.calls import Call
from statestore.engine.database import Database
from statestore.engine.execution import BoundRunner
from statestore.engine.flows import Item, NewSignal, Signal, Stream, Wait
from statestore.engine.listening import Ear, Listener
from statestore.engine.threaded_database import ThreadedDatabase
from statestore.errors import InvalidValueError, StateStoreError
from statestore.repositories.history.follows import FollowWork, Seen, Start
from statestore.values.history import Entry

_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.02, 0.5
# Even with notifications, look now and then: not every change of a history sends one.
_PAUSE_WHEN_NOTIFIED = 1.0
# How long the database may stay away before the follower gives up.
_PATIENCE = 120.0
# How many entries are remembered, to find out whether they still exist after positions were popped and reused.
_REMEMBERED = 256


class _Follower:
    """The position of a follower, and when it looks again."""

    def __init__(self, session_id: str, after: int | None, timeout: timedelta | None) -> None:
        self._session_id = session_id
        self._after = after
        self._timeout = checks.ttl(timeout, "timeout", hint="use None for no end")
        self._start: Start | None = None
        self._position = 0
        self._first: Seen | None = None
        self._seen: deque[Seen] = deque(maxlen=_REMEMBERED)
        self._pause = _SHORTEST_PAUSE
        self._since = self._reached = time.monotonic()

    def call(self) -> Call:
        if self._start is None:
            return Call(FollowWork.start, (self._session_id, self._after))
        reached = (self._session_id, self._start.created_at, self._position, tuple(self._seen), self._first)
        return Call(FollowWork.look, reached)

    def found(self, result: Any) -> list[Entry] | None:
        """Take the result of `call`. Returns what to pass on, or None if it has to ask again at once."""
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
        """Raise the error if it is permanent, or has lasted too long."""
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


def follow(runner: Any, session_id: str, *, after: int | None, timeout: timedelta | None) -> Stream[Entry]:
    """See `History.follow`."""
    if isinstance(runner, BoundRunner) or not hasattr(runner, "transaction"):
        raise InvalidValueError("history.follow", "cannot run inside a transaction, which would see nothing new")
    database = runner.database if isinstance(runner, ThreadedDatabase) else runner
    listener = database.listener if isinstance(database, Database) else None
    return _follow(_Follower(session_id, after, timeout), listener, session_id)


def _follow(follower: _Follower, listener: Listener | None, session_id: str) -> Stream[Entry]:
    heard: Signal = yield NewSignal()
    ear = None if listener is None else Ear(listener, session_id, heard.set)
    try:
        while True:
            heard.clear()
            if ear is not None:
                ear.open()
            entries: list[Entry] | None = []
            try:
                entries = follower.found((yield follower.call()))
            except StateStoreError as error:
                follower.failed(error)
            for entry in entries or ():
                follower.passed_on(entry)
                yield Item(entry)
            if entries is None or entries:
                continue
            if follower.over:
                return
            yield Wait(heard, follower.pause(ear is not None and ear.listening))
    finally:
        if ear is not None:
            ear.close()
