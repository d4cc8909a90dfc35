"""Calls that wait at the same moment travel together.

A round trip does not get cheaper by being alone, nor does a commit, nor a thread's hand-over. So a call that finds no
other under way goes at once, by itself; those that come meanwhile wait for it, and then go as a group, which somebody
else knows how to carry out. (Of tasks that come in crowds also the first waits for the others of its turn of the event
loop.) What a group leaves over is run by itself, each for its own caller, who gets its own error.

Each call has a key. While one is under way, later ones with its key wait, and go in the order in which they came. The
others wait no longer than `PATIENCE` for what is under way: past that, as many are under way as there are connections.
"""

import asyncio
import copy
import threading
import time
from collections.abc import Callable, Container, Hashable, Sequence
from contextlib import AbstractAsyncContextManager
from itertools import pairwise
from typing import Any, TypeAlias, TypeVar

from statestore.errors import StateStoreError
from statestore.repositories.base import Call
from statestore.workers import Workers

_LARGEST_GROUP = 64
# Seconds. Longer than a group takes, by far, where nobody waits for a lock; shorter than anybody would like to wait.
PATIENCE = 0.02

Together: TypeAlias = Callable[[Sequence[Call]], list[Any]]
"""Carries out the calls of a group. A result for each; None for one that has to be run by itself."""


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

    __slots__ = ("_patience", "busy", "crowded", "current", "waiting")

    def __init__(self, patience: float | None) -> None:
        self._patience = patience
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

    def end(self, run: Run, left: Container[Hashable] = ()) -> None:
        """*run* has come to its end, but for the keys of what it has *left*: see `free`."""
        if self.current is run:
            self.current = None
        self.busy.difference_update(key for key in run.keys if key not in left)

    def free(self, key: Hashable) -> None:
        """What was left of a key is done."""
        self.busy.discard(key)

    def overtake(self) -> None:
        """Wait no longer for what is under way, if that is for long enough."""
        if (
            self.current is not None
            and self._patience is not None
            and time.monotonic() - self.current.since >= self._patience
        ):
            self.current = None

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
        run = None
        waiting = _WaitingThread(call, key)
        try:
            with self._lock:
                if self._turns.may_go_alone(key):
                    run = self._turns.begin([key])
                else:
                    self._turns.waiting.append(waiting)
            if run is not None:
                return self._alone(call)
        finally:
            if run is not None:
                self._end(run)
        self._start()
        interrupt = self._see_through(waiting)
        if interrupt is not None:
            raise interrupt
        if waiting.error is not None:
            raise waiting.error
        return waiting.result

    def _see_through(self, waiting: "_WaitingThread") -> BaseException | None:
        """Wait, and do for the group what falls to this thread. Returns what has interrupted it meanwhile."""
        interrupt: BaseException | None = None
        while True:
            interrupt = waiting.wait(self._patience, self._go_past, self._take_back) or interrupt
            if waiting.group:
                interrupt = self._lead(waiting) or interrupt
            elif waiting.is_left:
                self._run_left(waiting)
                return interrupt
            else:
                return interrupt

    def _lead(self, first: "_WaitingThread") -> BaseException | None:
        interrupt: BaseException | None = None
        group, first.group = first.group, []
        first.settled.clear()
        try:
            results = self._together([waiting.call for waiting in group])
        except BaseException as exc:
            interrupt = None if isinstance(exc, Exception) else exc
            results = _unknown(group)
        left = _left(group, results)
        assert first.run is not None
        with self._lock:
            self._turns.end(first.run, left)
            for chain in left.values():
                chain[0].is_left = True
                for before, after in pairwise(chain):
                    before.behind = after
            for waiting, result in zip(group, results, strict=True):
                waiting.result = result
                if result is not None or waiting.is_left:
                    waiting.settled.set()
        self._start()
        return interrupt

    def _run_left(self, waiting: "_WaitingThread") -> None:
        try:
            waiting.result = self._alone(waiting.call)
        except BaseException as exc:
            waiting.error = exc
        finally:
            with self._lock:
                if waiting.behind is None:
                    self._turns.free(waiting.key)
                else:
                    waiting.behind.is_left = True
                    waiting.behind.settled.set()
            self._start()

    def _end(self, run: Run) -> None:
        with self._lock:
            self._turns.end(run)
        self._start()

    def _start(self) -> None:
        """Wake the first of the next group, if one may go now."""
        with self._lock:
            if self._turns.group_may_go():
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
    """A call that waits for its result; or for leading its group, or for being run by its own thread after all."""

    __slots__ = ("behind", "call", "error", "group", "is_left", "key", "result", "run", "settled")

    def __init__(self, call: Call, key: Hashable) -> None:
        self.call = call
        self.key = key
        self.settled = threading.Event()
        self.group: list[_WaitingThread] = []
        self.run: Run | None = None
        self.is_left = False
        self.behind: _WaitingThread | None = None
        """The next with the same key, where both were left."""
        self.result: Any = None
        self.error: BaseException | None = None

    def wait(
        self, patience: float | None, go_past: Callable[[], None], take_back: Callable[["_WaitingThread"], bool]
    ) -> BaseException | None:
        """Until there is something to do, or nothing more. Returns what has interrupted the thread meanwhile."""
        interrupt: BaseException | None = None
        while True:
            try:
                if self.settled.wait(patience):
                    return interrupt
                go_past()
            except BaseException as exc:
                # Ctrl-C most likely: leave, but not with a group or a write under way.
                if take_back(self):
                    raise
                interrupt = exc


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
        """Send for the next group, if one may go now; and see to it that nobody waits for long."""
        loop = asyncio.get_running_loop()
        if self._turns.group_may_go():
            # It is chosen only when it goes: until then a call can be taken back, and others may still join.
            self._keep(loop.create_task(self._run_group(self._turns.begin(()))))
        if self._turns.waiting and self._patience is not None and self._watch is None:
            self._watch = loop.call_later(self._patience, self._go_past)

    def _go_past(self) -> None:
        self._watch = None
        self._turns.overtake()
        self._start()

    def _keep(self, task: asyncio.Task[None]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run_group(self, run: Run) -> None:
        group: list[_Waiting] = []
        results: list[Any] = []
        try:
            async with self._turn():
                group = self._turns.take()
                run.keys = [waiting.key for waiting in group]
                self._turns.busy.update(run.keys)
                if group:
                    results = await self._workers.run(self._together, [waiting.call for waiting in group])
        except StateStoreError as error:  # Its turn did not come, or the store was closed: nothing was done.
            for waiting in group or self._turns.take():
                if not waiting.future.done():
                    waiting.future.set_exception(copy.copy(error))
            group = []
        except Exception:
            results = _unknown(group)
        except BaseException:  # The event loop is being closed.
            for waiting in group:
                waiting.future.cancel()
            raise
        finally:
            left = _left(group, results) if results else {}
            self._turns.end(run, left)
            for waiting, result in zip(group, results, strict=False):
                if result is not None and not waiting.future.done():
                    waiting.future.set_result(result)
            for chain in left.values():
                self._keep(asyncio.get_running_loop().create_task(self._run_left(chain)))
            self._start()

    async def _run_left(self, chain: "list[_Waiting]") -> None:
        try:
            for waiting in chain:
                if waiting.future.done():
                    continue
                try:
                    result = await self._alone(waiting.call)
                except Exception as exc:
                    if not waiting.future.done():
                        waiting.future.set_exception(exc)
                else:
                    if not waiting.future.done():
                        waiting.future.set_result(result)
        except BaseException:  # As above.
            for waiting in chain:
                waiting.future.cancel()
            raise
        finally:
            self._turns.free(chain[0].key)
            self._start()


W = TypeVar("W", _Waiting, _WaitingThread)


def _left(group: Sequence[W], results: Sequence[Any]) -> dict[Hashable, list[W]]:
    """What has to be run by itself, by key: those with the same one go in the order in which they came."""
    left: dict[Hashable, list[W]] = {}
    for waiting, result in zip(group, results, strict=True):
        if result is None:
            left.setdefault(waiting.key, []).append(waiting)
    return left


def _unknown(group: Sequence[W]) -> list[Any]:
    """The results where it is not known what was done: each finds out by itself, as at any second try."""
    for waiting in group:
        waiting.call.attempt += 1
    return [None] * len(group)
