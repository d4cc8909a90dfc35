"""Worker threads that run the blocking calls of event loops, and batches of the calls of tasks; see `batching`."""

import asyncio
import copy
import math
import threading
import time
from collections.abc import Callable, Hashable
from contextlib import AbstractAsyncContextManager, suppress
from queue import SimpleQueue
from typing import Any

from statestore.engine.batching import Together
from statestore.engine.calls import Call
from statestore.engine.schedule import PATIENCE, Run, Schedule, keys_of, left_of, too_late, unknown
from statestore.engine.waits import GRACE, out_of_time
from statestore.errors import StateStoreError, StoreClosedError

# Seconds. What takes longer most likely waits for somebody, and does nothing that another thread would disturb.
_UNTIL_RELIEF = 0.02


class _Job:
    """A call that waits for a thread, and the future that waits for the call."""

    __slots__ = ("args", "claimed", "function", "future", "loop")

    def __init__(self, loop: asyncio.AbstractEventLoop, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
        self.loop = loop
        self.future: asyncio.Future[Any] = loop.create_future()
        self.function = function
        self.args = args
        # Taken by whichever comes first: the thread that runs the job, or the task that gives it up.
        self.claimed = threading.Lock()

    def run(self) -> None:
        if not self.claimed.acquire(blocking=False):
            return
        result = error = None
        try:
            result = self.function(*self.args)
        except BaseException as exc:
            error = exc
        with suppress(RuntimeError):  # The loop was closed meanwhile, so nobody waits.
            self.loop.call_soon_threadsafe(_settle, self.future, result, error)


class Workers:
    """Runs blocking functions in threads of its own, at most *size* at once, in the order in which they come.

    Leaner than `concurrent.futures`: one queue and one wake-up of the loop for each call. Threads are started as they
    are needed and end with `close`.
    """

    def __init__(self, size: int, name: str, *, spare: int = 0) -> None:
        """*spare*: how many more threads there may be, for calls that wait behind others which do not get on."""
        self._size = size
        self._spare = spare
        self._ended = 0
        """How many calls have come to their end: whether the threads get on."""
        self._relief: asyncio.TimerHandle | None = None
        self._name = name
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._idle = 0
        self._closed = False
        self._lock = threading.Lock()

    async def run(
        self,
        function: Callable[..., Any],
        *args: Any,
        give_up: Callable[[], None] | None = None,
        until: float = math.inf,
        late: Callable[[bool], Exception] = out_of_time,
    ) -> Any:
        """Run *function* in a thread.

        A cancellation takes back what has not begun. What has begun is given up: *give_up* is called, once, and then
        the call has a moment to come to its end, so that nothing is left behind half done. In either case the
        cancellation is passed on within half a second.

        Args:
            function: What to run.
            args: Its arguments.
            give_up: Hurries what has begun; must not block.
            until: When the call has to have ended, on the monotonic clock. It sees to that itself; this is for when it
                does not, or has not begun.
            late: Makes the error to raise then; it is told whether *function* has begun.

        Raises:
            StoreClosedError: After `close`; *function* was not called.
        """
        loop = asyncio.get_running_loop()
        job = _Job(loop, function, args)
        self._enqueue(job)
        if self._spare and self._idle < 0 and self._relief is None:
            self._relief = loop.call_later(_UNTIL_RELIEF, self._relieve, loop, self._ended)
        timer = None if until == math.inf else loop.call_later(until - time.monotonic() + GRACE, _expire, job, late)
        try:
            return await asyncio.shield(job.future)
        except asyncio.CancelledError:
            if job.claimed.acquire(blocking=False):
                job.future.cancel()
                raise
            if give_up is not None and not job.future.done():
                give_up()
            await until_done(job.future, GRACE * 1.5)
            job.future.add_done_callback(_put_away)
            raise
        finally:
            if timer is not None:
                timer.cancel()

    def forget_loop(self) -> None:
        """The event loop that was to relieve them will not: it has ended, or another one has come."""
        self._relief = None

    def close(self) -> None:
        """Let the threads end when they have done what is queued, and take nothing more."""
        with self._lock:
            self._closed = True
            for _ in self._threads:
                self._jobs.put(None)
            self._threads.clear()

    def _enqueue(self, job: _Job) -> None:
        with self._lock:
            if self._closed:
                raise StoreClosedError("the store is closed; open another")
            if self._idle == 0 and len(self._threads) < self._size:
                self._add_thread()
            else:
                self._idle -= 1
            self._jobs.put(job)

    def _add_thread(self) -> None:
        thread = threading.Thread(target=self._work, name=f"{self._name}-{len(self._threads)}", daemon=True)
        thread.start()
        self._threads.append(thread)

    def _relieve(self, loop: asyncio.AbstractEventLoop, ended: int) -> None:
        """Calls have waited for a moment: if no other has ended meanwhile, one more thread is started."""
        self._relief = None
        with self._lock:
            if self._idle >= 0 or self._closed:
                return
            if ended == self._ended and len(self._threads) < self._size + self._spare:
                self._add_thread()
                self._idle += 1
            if self._idle < 0:
                self._relief = loop.call_later(_UNTIL_RELIEF, self._relieve, loop, self._ended)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job.run()
            del job
            with self._lock:
                self._idle += 1
                self._ended += 1


def _settle(future: "asyncio.Future[Any]", result: Any, error: BaseException | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(result)
        return
    future.set_exception(error)


def _put_away(future: "asyncio.Future[Any]") -> None:
    """Nobody asks for the outcome now."""
    if not future.cancelled():
        future.exception()


def _expire(job: _Job, late: Callable[[bool], Exception]) -> None:
    """The time of a job is over. It may have ended by itself, a little late, which tells more."""
    begun = not job.claimed.acquire(blocking=False)
    if not job.future.done():
        job.future.set_exception(late(begun))


async def until_done(future: "asyncio.Future[Any]", seconds: float) -> None:
    """Wait for *future*, for at most so many *seconds*, whatever else is cancelled meanwhile."""
    until = time.monotonic() + seconds
    while not future.done() and (left := until - time.monotonic()) > 0:
        try:
            await asyncio.wait([future], timeout=left)
        except asyncio.CancelledError:
            continue  # Already being passed on.


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
