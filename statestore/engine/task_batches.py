"""Batches of the calls of tasks: what `ThreadBatches` in `batching` is for threads."""

import asyncio
import copy
import time
from collections.abc import Callable, Hashable
from contextlib import AbstractAsyncContextManager
from typing import Any

from statestore.engine.batching import Together
from statestore.engine.calls import Call
from statestore.engine.schedule import PATIENCE, Run, Schedule, keys_of, left_of, too_late, unknown
from statestore.engine.waits import GRACE
from statestore.engine.workers import Workers, until_done
from statestore.errors import StateStoreError

# Seconds between two looks for calls that are out of time, if none overtakes another.
_LOOK = 0.05


class TaskBatches:
    """Runs calls of tasks, in batches where several wait. Belongs to one event loop."""

    def __init__(
        self,
        alone: Callable[[Call], Any],
        together: Together,
        workers: Workers,
        serialized: Callable[[float], AbstractAsyncContextManager[None]],
        *,
        to_the_end: bool,
        patience: float | None = PATIENCE,
    ) -> None:
        """Use *workers* for batches, each in *serialized*; and await *alone* for a call by itself.

        A call that is under way in a batch cannot be interrupted. *to_the_end*: its caller waits for it for a moment
        when cancelled, as it should where something is written. *patience* is that of `ThreadBatches`.
        """
        self._alone = alone
        self._together = together
        self._workers = workers
        self._serialized = serialized
        self._schedule = Schedule(patience)
        self._patience = patience
        self._to_the_end = to_the_end
        self._tasks: set[asyncio.Task[None]] = set()
        self._under_way: set[_Waiting] = set()
        self._watch: asyncio.TimerHandle | None = None

    async def run(self, call: Call, key: Hashable) -> Any:
        # In a crowd nobody goes alone: callers whose answers came together come back in the same iteration of the loop.
        if not self._schedule.crowded and self._schedule.may_go_alone(key):
            run = self._schedule.begin(Run([key]))
            try:
                return await self._alone(call)
            finally:
                self._schedule.end(run)
                self._start()
        waiting = _Waiting(call, key, asyncio.get_running_loop().create_future())
        self._schedule.waiting.append(waiting)
        self._start()
        try:
            return await asyncio.shield(waiting.future)
        except asyncio.CancelledError:
            if waiting in self._schedule.waiting:
                self._schedule.waiting.remove(waiting)
            elif self._to_the_end:
                # Under way, with those of others. What has not begun when the wait is over never begins.
                await until_done(waiting.future, 2 * GRACE)
                call.given_up = True
            waiting.leave()
            raise

    def _start(self) -> None:
        """Send for the next batch, if one may go now; and see to it that nobody waits for long."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:  # A call that its event loop left behind is collected: nobody waits for it.
            return
        if self._schedule.batch_may_go():
            # It is chosen only when it goes: until then a call can be taken back, and others may still join.
            run = self._schedule.begin(Run(()))
            self._keep(loop.create_task(self._run_batch(run))).add_done_callback(lambda _: self._batch_is_over(run))
        if self._watch is None and (self._schedule.waiting or self._under_way):
            self._watch = loop.call_later(self._patience or _LOOK, self._look)

    def _look(self) -> None:
        self._watch = None
        self._schedule.overtake()
        now = time.monotonic()
        for waiting in [waiting for waiting in self._schedule.waiting if waiting.call.ends_at <= now]:
            self._schedule.waiting.remove(waiting)
            waiting.fail(too_late(waiting.call, under_way=False))
        # What is under way is cut at its deadline, and then tells what came of it.
        for waiting in [waiting for waiting in self._under_way if waiting.call.ends_at + GRACE <= now]:
            self._under_way.discard(waiting)
            waiting.fail(too_late(waiting.call, under_way=not waiting.in_chain))
        self._start()

    def _keep(self, task: asyncio.Task[None]) -> asyncio.Task[None]:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _batch_is_over(self, run: Run) -> None:
        # A task that is cancelled before its first step never comes to its own end.
        if not run.ended:
            self._schedule.end(run)
            run.ended = True
            self._start()

    async def _run_batch(self, run: Run) -> None:
        batch: list[_Waiting] = []
        results: list[Any] = []
        # All may have left before its first step. Calls that come while it waits may have more time than these.
        until = max((waiting.call.ends_at for waiting in self._schedule.waiting), default=0.0)
        try:
            async with self._serialized(until):
                batch = self._schedule.take()
                run.keys = keys_of(batch)
                self._schedule.mark(run)
                self._under_way.update(batch)
                if batch:
                    latest = max(waiting.call.ends_at for waiting in batch)
                    results = await self._workers.run(self._together, [waiting.call for waiting in batch], latest)
        except StateStoreError as error:  # It did not get its turn in time, or the store was closed: nothing was done.
            late = [waiting for waiting in self._schedule.waiting if waiting.call.ends_at <= until]
            for waiting in batch or late:
                waiting.fail(copy.copy(error))
            if not batch:
                self._schedule.waiting = [waiting for waiting in self._schedule.waiting if waiting not in late]
            batch = []
        except Exception:
            results = unknown(batch)
        except BaseException:  # The event loop is being closed.
            for waiting in batch:
                waiting.leave()
            raise
        finally:
            run.ended = True
            left = left_of(batch, results) if results else {}
            self._schedule.end(run, left)
            self._under_way.difference_update(batch)
            for waiting, result in zip(batch, results, strict=False):
                if result is not None and not waiting.future.done():
                    waiting.future.set_result(result)
            for key, chain in left.items():
                self._under_way.update(chain)
                for waiting in chain:
                    waiting.in_chain = True
                self._follow(chain, key, run)
            self._start()

    def _follow(self, chain: "list[_Waiting]", key: Hashable, run: Run) -> None:
        run = self._schedule.renew(key, run)
        task = self._keep(asyncio.get_running_loop().create_task(self._run_left(chain, run)))

        def over(_: asyncio.Task[None]) -> None:  # Even if it never took its first step.
            for waiting in chain:
                self._under_way.discard(waiting)
                waiting.leave()
            self._schedule.free(key, run)
            self._start()

        task.add_done_callback(over)

    async def _run_left(self, chain: "list[_Waiting]", run: Run) -> None:
        for waiting in chain:
            if waiting.future.done():
                continue
            waiting.in_chain = False
            run.since = time.monotonic()  # See `Schedule.renew`.
            try:
                result = await self._alone(waiting.call)
            except Exception as exc:
                waiting.fail(exc)
            else:
                if not waiting.future.done():
                    waiting.future.set_result(result)
            self._under_way.discard(waiting)


class _Waiting:
    """A call that waits for its batch."""

    __slots__ = ("call", "future", "in_chain", "key")

    def __init__(self, call: Call, key: Hashable, future: "asyncio.Future[Any]") -> None:
        self.call = call
        self.key = key
        self.future = future
        self.in_chain = False
        """Whether its batch has left it over, and it waits to be run by itself."""

    def fail(self, error: Exception) -> None:
        if not self.future.done():
            self.future.set_exception(error)

    def leave(self) -> None:
        """Its caller has stopped waiting."""
        if not self.future.done():
            self.future.cancel()
        elif not self.future.cancelled():
            self.future.exception()
