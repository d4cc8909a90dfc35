"""Calls that wait at the same moment travel together.

A round trip does not get cheaper by being alone, nor does a commit, nor a thread's hand-over. So a call that finds no
other under way goes at once, by itself; those that come meanwhile wait for it, and then go as a group, which somebody
else knows how to carry out. Each caller gets its own result, or its own error.

Each call has a key. While one is under way, later ones with its key wait, and go in the order in which they came. The
others wait for nobody that takes long, for a lock that somebody holds for example.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Hashable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeAlias

from statestore.repositories.base import Call
from statestore.workers import Workers

_LARGEST_GROUP = 64
# Seconds. Longer than a group takes, by far, where nobody waits for a lock; shorter than anybody would like to wait.
PATIENCE = 0.02
# What takes long keeps a connection each: the others are for those who go past it.
_MOST_OVERTAKEN = 3

Result: TypeAlias = tuple[Any, BaseException | None]
Together: TypeAlias = Callable[[Sequence[Call]], list[Result]]
"""Carries out the calls of a group, one result for each."""


class _Waiting:
    """A call that waits for its group."""

    __slots__ = ("call", "future", "key")

    def __init__(self, call: Call, key: Hashable, future: "asyncio.Future[Any]") -> None:
        self.call = call
        self.key = key
        self.future = future


class Run:
    """One call alone, or one group, that is under way."""

    __slots__ = ("keys", "since")

    def __init__(self, keys: Sequence[Hashable]) -> None:
        self.keys = keys
        self.since = time.monotonic()


class Turns:
    """Which calls may go now: one at a time, a group counting as one, except past what takes long.

    No key is under way twice, whatever takes long.
    """

    __slots__ = ("_overtaken", "_patience", "busy", "crowded", "current", "waiting")

    def __init__(self, patience: float | None) -> None:
        self._patience = patience
        self._overtaken = 0
        self.current: Run | None = None
        self.crowded = False
        """Whether the latest group was more than one: then others are about to come."""
        self.waiting: list[Any] = []
        self.busy: set[Hashable] = set()

    def may_go_alone(self, key: Hashable) -> bool:
        return self.current is None and not self.waiting and key not in self.busy

    def begin(self, keys: Sequence[Hashable]) -> Run:
        self.current = Run(keys)
        self.busy.update(keys)
        return self.current

    def end(self, run: Run) -> None:
        if self.current is run:
            self.current = None
        else:
            self._overtaken -= 1
        self.busy.difference_update(run.keys)

    def overtake(self) -> None:
        """Wait no longer for what is under way, if that is for long enough."""
        if (
            self.current is not None
            and self._patience is not None
            and self._overtaken < _MOST_OVERTAKEN
            and time.monotonic() - self.current.since >= self._patience
        ):
            self.current = None
            self._overtaken += 1

    def group_may_go(self) -> bool:
        return self.current is None and any(waiting.key not in self.busy for waiting in self.waiting)

    def take(self) -> list[Any]:
        """Take as many as fit one group out of those that wait, in the order in which they came."""
        group: list[Any] = []
        rest: list[Any] = []
        for waiting in self.waiting:
            fits = len(group) < _LARGEST_GROUP and waiting.key not in self.busy
            (group if fits else rest).append(waiting)
        self.waiting = rest
        self.crowded = len(group) > 1
        return group


class ThreadGroups:
    """Runs calls of threads, in groups where several wait. The first of a group runs it for all."""

    def __init__(self, alone: Callable[[Call], Any], together: Together, *, patience: float | None = PATIENCE) -> None:
        """*patience*: after how many seconds others go past what is under way; None for never."""
        self._alone = alone
        self._together = together
        self._patience = patience
        self._turns = Turns(patience)
        self._lock = threading.Lock()

    def run(self, call: Call, key: Hashable) -> Any:
        run = waiting = None
        with self._lock:
            if self._turns.may_go_alone(key):
                run = self._turns.begin([key])
            else:
                waiting = _WaitingThread(call, key)
                self._turns.waiting.append(waiting)
        if run is not None:
            try:
                return self._alone(call)
            finally:
                self._end(run)
        assert waiting is not None
        self._start()
        waiting.wait(self._patience, self._go_past, self._take_back)
        if waiting.group:
            self._lead(waiting)
        if waiting.error is not None:
            raise waiting.error
        return waiting.result

    def _lead(self, first: "_WaitingThread") -> None:
        group = first.group
        assert first.run is not None
        try:
            results = self._together([waiting.call for waiting in group])
            for waiting, (result, error) in zip(group, results, strict=True):
                waiting.result, waiting.error = result, error
                waiting.settled.set()
        except BaseException as exc:
            for waiting in group:
                waiting.error = exc
                waiting.settled.set()
            raise
        finally:
            self._end(first.run)

    def _end(self, run: Run) -> None:
        with self._lock:
            self._turns.end(run)
        self._start()

    def _start(self) -> None:
        """Wake the first of the next group, if one may go now."""
        with self._lock:
            if not self._turns.group_may_go():
                return
            group = self._turns.take()
            first = group[0]
            first.run = self._turns.begin([waiting.key for waiting in group])
        first.group = group
        first.settled.set()

    def _go_past(self) -> None:
        with self._lock:
            self._turns.overtake()
        self._start()

    def _take_back(self, waiting: "_WaitingThread") -> bool:
        with self._lock:
            if waiting not in self._turns.waiting:
                return False
            self._turns.waiting.remove(waiting)
            return True


class _WaitingThread:
    """A call that waits for its group, or for being the first of one."""

    __slots__ = ("call", "error", "group", "key", "result", "run", "settled")

    def __init__(self, call: Call, key: Hashable) -> None:
        self.call = call
        self.key = key
        self.settled = threading.Event()
        self.group: list[_WaitingThread] = []
        self.run: Run | None = None
        self.result: Any = None
        self.error: BaseException | None = None

    def wait(
        self, patience: float | None, go_past: Callable[[], None], take_back: Callable[["_WaitingThread"], bool]
    ) -> None:
        try:
            while not self.settled.wait(patience):
                go_past()
        except BaseException:
            # Interrupted, by Ctrl-C most likely: leave, but not with a group or a write under way.
            if take_back(self):
                raise
            self.settled.wait()


class TaskGroups:
    """Runs calls of tasks, in groups where several wait. Belongs to one event loop."""

    def __init__(
        self,
        alone: Callable[[Call], Any],
        together: Together,
        workers: Workers,
        turn: Callable[[], AbstractAsyncContextManager[None]],
        *,
        to_the_end: bool,
        patience: float | None = PATIENCE,
    ) -> None:
        """Use *workers* for groups, each in a *turn*; and await *alone* for a call by itself.

        A call that is under way in a group cannot be interrupted. *to_the_end*: its caller waits for it also when
        cancelled, as it must where something is written. *patience* is that of `ThreadGroups`.
        """
        self._alone = alone
        self._together = together
        self._workers = workers
        self._turn = turn
        self._turns = Turns(patience)
        self._patience = patience
        self._to_the_end = to_the_end
        self._tasks: set[asyncio.Task[None]] = set()
        self._watch: asyncio.TimerHandle | None = None

    async def run(self, call: Call, key: Hashable) -> Any:
        # In a crowd nobody goes alone: those whose answers came together come back in the same turn of the event loop.
        if not self._turns.crowded and self._turns.may_go_alone(key):
            run = self._turns.begin([key])
            try:
                return await self._alone(call)
            finally:
                self._turns.end(run)
                self._start()
        waiting = _Waiting(call, key, asyncio.get_running_loop().create_future())
        self._turns.waiting.append(waiting)
        self._start()
        try:
            return await asyncio.shield(waiting.future)
        except asyncio.CancelledError:
            if waiting in self._turns.waiting:
                self._turns.waiting.remove(waiting)
                raise
            if not self._to_the_end:
                waiting.future.cancel()
                raise
            while not waiting.future.done():  # Under way: to its end, all of it.
                try:
                    await asyncio.wait([waiting.future])
                except asyncio.CancelledError:
                    continue
            waiting.future.exception()
            raise

    def _start(self) -> None:
        """Send for the next group, if one may go now; if not, see to it that nobody waits for long."""
        if self._turns.group_may_go():
            # It is chosen only when it goes: until then a call can be taken back, and others may still join.
            run = self._turns.begin(())
            task = asyncio.get_running_loop().create_task(self._run_group(run))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        elif self._turns.waiting and self._patience is not None and self._watch is None:
            self._watch = asyncio.get_running_loop().call_later(self._patience, self._go_past)

    def _go_past(self) -> None:
        self._watch = None
        self._turns.overtake()
        self._start()

    async def _run_group(self, run: Run) -> None:
        group: list[_Waiting] = []
        try:
            async with self._turn():
                group = self._turns.take()
                run.keys = [waiting.key for waiting in group]
                self._turns.busy.update(run.keys)
                if group:
                    results = await self._workers.run(self._together, [waiting.call for waiting in group])
                    for waiting, (result, error) in zip(group, results, strict=True):
                        if waiting.future.cancelled():
                            continue
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
            self._turns.end(run)
            self._start()
