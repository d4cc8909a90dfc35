"""Group commit: appends that wait at the same moment travel together.

A commit is a round trip and a write to disk that does not get cheaper by being alone. So an append that finds no other
under way goes at once, by itself; those that come meanwhile wait for it, and then go as one statement and one commit.
Nobody waits for a timer. Each caller gets its own entries, or its own error, once they are durable.

Appends to one session are stored in the order of the calls: while one is under way, later ones of its session wait.
"""

import asyncio
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

from statestore.repositories import group_appending
from statestore.repositories.base import Call
from statestore.sql import Link, Settings
from statestore.workers import Workers

_LARGEST_GROUP = 64


class Groupable(Protocol):
    """A `Database`, as far as groups are concerned."""

    @property
    def settings(self) -> Settings: ...
    def run_alone(self, call: Call) -> Any: ...
    def run_group(self, work: Callable[[Link], None]) -> None: ...


class _Waiting:
    """A call that waits for its group."""

    __slots__ = ("call", "future", "session_id")

    def __init__(self, call: Call, session_id: str, future: "asyncio.Future[Any]") -> None:
        self.call = call
        self.session_id = session_id
        self.future = future


class Turns:
    """Which appends may go now: a limited number of groups at once, and no session in two of them."""

    __slots__ = ("busy", "free", "waiting")

    def __init__(self, groups: int) -> None:
        self.free = groups
        self.waiting: list[Any] = []
        self.busy: set[str] = set()

    def may_go_alone(self, session_id: str) -> bool:
        return self.free > 0 and not self.waiting and session_id not in self.busy

    def begin(self, sessions: Iterable[str]) -> None:
        self.free -= 1
        self.busy.update(sessions)

    def end(self, sessions: Iterable[str]) -> None:
        self.free += 1
        self.busy.difference_update(sessions)

    def some_may_go(self) -> bool:
        return any(waiting.session_id not in self.busy for waiting in self.waiting)

    def next_group(self) -> list[Any]:
        """Take the next group out of those that wait; empty where none may go."""
        return self.take() if self.free else []

    def take(self) -> list[Any]:
        """Take as many as fit one group out of those that wait, in the order in which they came."""
        group: list[Any] = []
        rest: list[Any] = []
        for waiting in self.waiting:
            fits = len(group) < _LARGEST_GROUP and waiting.session_id not in self.busy
            (group if fits else rest).append(waiting)
        self.waiting = rest
        return group


class ThreadGroupCommit:
    """Runs appends of threads, in groups where several wait. The first of a group runs it for all."""

    def __init__(self, database: "Groupable", *, groups: int) -> None:
        self._database = database
        self._turns = Turns(groups)
        self._lock = threading.Lock()

    def append(self, call: Call, session_id: str) -> Any:
        with self._lock:
            alone = self._turns.may_go_alone(session_id)
            if alone:
                self._turns.begin([session_id])
            else:
                waiting = _WaitingThread(call, session_id)
                self._turns.waiting.append(waiting)
        if alone:
            try:
                return self._database.run_alone(call)
            finally:
                self._end([session_id])
        self._start()
        waiting.wait(self._take_back)
        if waiting.group:
            self._lead(waiting.group)
        if waiting.error is not None:
            raise waiting.error
        return waiting.result

    def _lead(self, group: list["_WaitingThread"]) -> None:
        try:
            results = commit(self._database, [waiting.call for waiting in group])
            for waiting, (result, error) in zip(group, results, strict=True):
                waiting.result, waiting.error = result, error
                waiting.settled.set()
        except BaseException as exc:
            for waiting in group:
                waiting.error = exc
                waiting.settled.set()
            raise
        finally:
            self._end([waiting.session_id for waiting in group])

    def _end(self, sessions: list[str]) -> None:
        with self._lock:
            self._turns.end(sessions)
        self._start()

    def _start(self) -> None:
        """Wake the first of each group that may go now."""
        while True:
            with self._lock:
                group = self._turns.next_group()
                if not group:
                    return
                self._turns.begin([waiting.session_id for waiting in group])
            group[0].group = group
            group[0].settled.set()

    def _take_back(self, waiting: "_WaitingThread") -> bool:
        with self._lock:
            if waiting not in self._turns.waiting:
                return False
            self._turns.waiting.remove(waiting)
            return True


class _WaitingThread:
    """A call that waits for its group, or for being the first of one."""

    __slots__ = ("call", "error", "group", "result", "session_id", "settled")

    def __init__(self, call: Call, session_id: str) -> None:
        self.call = call
        self.session_id = session_id
        self.settled = threading.Event()
        self.group: list[_WaitingThread] = []
        self.result: Any = None
        self.error: BaseException | None = None

    def wait(self, take_back: Callable[["_WaitingThread"], bool]) -> None:
        try:
            self.settled.wait()
        except BaseException:
            # Interrupted, by Ctrl-C most likely: leave, but not with a group or a write under way.
            if take_back(self):
                raise
            self.settled.wait()


class GroupCommit:
    """Runs appends of tasks, in groups where several wait. Belongs to one event loop."""

    def __init__(
        self,
        database: "Groupable",
        workers: Workers,
        run: Callable[[Call], Any],
        turn: Callable[[], AbstractAsyncContextManager[None]],
        *,
        groups: int,
    ) -> None:
        """Use *workers* for at most *groups* groups at once, each in a *turn*; and *run* for one that is alone."""
        self._database = database
        self._workers = workers
        self._run = run
        self._turn = turn
        self._turns = Turns(groups)
        self._tasks: set[asyncio.Task[None]] = set()

    async def append(self, call: Call, session_id: str) -> Any:
        if self._turns.may_go_alone(session_id):
            self._turns.begin([session_id])
            try:
                return await self._run(call)
            finally:
                self._turns.end([session_id])
                self._start()
        waiting = _Waiting(call, session_id, asyncio.get_running_loop().create_future())
        self._turns.waiting.append(waiting)
        self._start()
        try:
            return await asyncio.shield(waiting.future)
        except asyncio.CancelledError:
            if waiting in self._turns.waiting:
                self._turns.waiting.remove(waiting)
                raise
            while not waiting.future.done():  # Under way: to its end, all of it.
                try:
                    await asyncio.wait([waiting.future])
                except asyncio.CancelledError:
                    continue
            waiting.future.exception()
            raise

    def _start(self) -> None:
        """Send for the next groups."""
        while self._turns.free and self._turns.some_may_go():
            self._turns.free -= 1
            task = asyncio.get_running_loop().create_task(self._commit())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _commit(self) -> None:
        group: list[_Waiting] = []
        sessions: list[str] = []
        try:
            async with self._turn():
                # Chosen only now: until its turn comes a call can be taken back, and others may still join.
                group = self._turns.take()
                sessions = [waiting.session_id for waiting in group]
                self._turns.busy.update(sessions)
                if group:
                    results = await self._workers.run(commit, self._database, [waiting.call for waiting in group])
                    for waiting, (result, error) in zip(group, results, strict=True):
                        if error is not None:
                            waiting.future.set_exception(error)
                        else:
                            waiting.future.set_result(result)
        except BaseException as exc:
            for waiting in group or self._turns.take():
                if not waiting.future.done():
                    waiting.future.set_exception(exc)
            if not isinstance(exc, Exception):
                raise
        finally:
            self._turns.end(sessions)
            self._start()


def commit(database: "Groupable", calls: Sequence[Call]) -> list[tuple[Any, BaseException | None]]:
    """Store what can go together, then run by itself what is left, in the order of the calls."""
    max_bytes = database.settings.max_value_bytes
    prepared = [group_appending.prepare(call, max_bytes=max_bytes) for call in calls]
    # Behind one that has to go by itself, all of its session do, to stay behind it.
    alone: set[str | None] = set()
    together: list[group_appending.Grouped] = []
    for index, (call, one) in enumerate(zip(calls, prepared, strict=True)):
        session_id = group_appending.session_of(call)
        if one is None or session_id in alone:
            alone.add(session_id)
            prepared[index] = None
        else:
            together.append(one)
    if together:
        try:
            database.run_group(lambda link: group_appending.append(link, together))
        except Exception:
            # Each by itself finds out what is wrong, and with whom. It may have been done and the reply been lost: as
            # at any second try, entries that are there already are found by their ids.
            for one in together:
                one.stored = None
            for call in calls:
                call.attempt += 1
    results: list[tuple[Any, BaseException | None]] = []
    for call, one in zip(calls, prepared, strict=True):
        if one is not None and one.stored is not None:
            results.append((one.stored, None))
            continue
        try:
            results.append((database.run_alone(call), None))
        except Exception as exc:
            results.append((None, exc))
    return results
