"""Worker threads that run the blocking calls of event loops."""

import asyncio
import math
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from typing import Any

from statestore.engine.waits import GRACE, out_of_time
from statestore.errors import StoreClosedError

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
