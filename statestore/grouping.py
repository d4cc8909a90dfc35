"""Calls that wait at the same moment travel together.

A round trip does not get cheaper by being alone, nor does a commit, nor a thread's hand-over. So a call that finds few
others under way goes at once, by itself; those that come meanwhile wait for one of them, and then go as a group, which
somebody else knows how to carry out. Nobody waits for a timer. Each caller gets its own result, or its own error.

Each call has a key. While one is under way, later ones with its key wait, and go in the order in which they came.
"""

import asyncio
import threading
from collections.abc import Callable, Hashable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, TypeAlias

from statestore.repositories.base import Call
from statestore.workers import Workers

_LARGEST_GROUP = 64

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


@dataclass(frozen=True, slots=True)
class Limits:
    """How many may be under way at once: a call alone begins up to *alone*, a group up to *groups*."""

    alone: int
    groups: int


class Turns:
    """Which calls may go now: no more than the limits allow, and no key twice."""

    __slots__ = ("busy", "limits", "under_way", "waiting")

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.under_way = 0
        self.waiting: list[Any] = []
        self.busy: set[Hashable] = set()

    def may_go_alone(self, key: Hashable) -> bool:
        return self.under_way < self.limits.alone and not self.waiting and key not in self.busy

    def begin(self, keys: Iterable[Hashable]) -> None:
        self.under_way += 1
        self.busy.update(keys)

    def end(self, keys: Iterable[Hashable]) -> None:
        self.under_way -= 1
        self.busy.difference_update(keys)

    def group_may_go(self) -> bool:
        return self.under_way < self.limits.groups and any(waiting.key not in self.busy for waiting in self.waiting)

    def next_group(self) -> list[Any]:
        """Take the next group out of those that wait; empty where none may go."""
        return self.take() if self.under_way < self.limits.groups else []

    def take(self) -> list[Any]:
        """Take as many as fit one group out of those that wait, in the order in which they came."""
        group: list[Any] = []
        rest: list[Any] = []
        for waiting in self.waiting:
            fits = len(group) < _LARGEST_GROUP and waiting.key not in self.busy
            (group if fits else rest).append(waiting)
        self.waiting = rest
        return group


class ThreadGroups:
    """Runs calls of threads, in groups where several wait. The first of a group runs it for all."""

    def __init__(self, alone: Callable[[Call], Any], together: Together, limits: Limits) -> None:
        self._alone = alone
        self._together = together
        self._turns = Turns(limits)
        self._lock = threading.Lock()

    def run(self, call: Call, key: Hashable) -> Any:
        with self._lock:
            alone = self._turns.may_go_alone(key)
            if alone:
                self._turns.begin([key])
            else:
                waiting = _WaitingThread(call, key)
                self._turns.waiting.append(waiting)
        if alone:
            try:
                return self._alone(call)
            finally:
                self._end([key])
        self._start()
        waiting.wait(self._take_back)
        if waiting.group:
            self._lead(waiting.group)
        if waiting.error is not None:
            raise waiting.error
        return waiting.result

    def _lead(self, group: list["_WaitingThread"]) -> None:
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
            self._end([waiting.key for waiting in group])

    def _end(self, keys: list[Hashable]) -> None:
        with self._lock:
            self._turns.end(keys)
        self._start()

    def _start(self) -> None:
        """Wake the first of each group that may go now."""
        while True:
            with self._lock:
                group = self._turns.next_group()
                if not group:
                    return
                self._turns.begin([waiting.key for waiting in group])
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

    __slots__ = ("call", "error", "group", "key", "result", "settled")

    def __init__(self, call: Call, key: Hashable) -> None:
        self.call = call
        self.key = key
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


class TaskGroups:
    """Runs calls of tasks, in groups where several wait. Belongs to one event loop."""

    def __init__(
        self,
        alone: Callable[[Call], Any],
        together: Together,
        workers: Workers,
        turn: Callable[[], AbstractAsyncContextManager[None]],
        limits: Limits,
        *,
        to_the_end: bool,
    ) -> None:
        """Use *workers* for groups, each in a *turn*; and await *alone* for a call by itself.

        A call that is under way in a group cannot be interrupted. *to_the_end*: its caller waits for it also when
        cancelled, as it must where something is written.
        """
        self._alone = alone
        self._together = together
        self._workers = workers
        self._turn = turn
        self._turns = Turns(limits)
        self._to_the_end = to_the_end
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self, call: Call, key: Hashable) -> Any:
        if self._turns.may_go_alone(key):
            self._turns.begin([key])
            try:
                return await self._alone(call)
            finally:
                self._turns.end([key])
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
        """Send for the next groups."""
        while self._turns.group_may_go():
            self._turns.begin([])
            task = asyncio.get_running_loop().create_task(self._run_group())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _run_group(self) -> None:
        group: list[_Waiting] = []
        keys: list[Hashable] = []
        try:
            async with self._turn():
                # Chosen only now: until its turn comes a call can be taken back, and others may still join.
                group = self._turns.take()
                keys = [waiting.key for waiting in group]
                self._turns.busy.update(keys)
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
            self._turns.end(keys)
            self._start()
