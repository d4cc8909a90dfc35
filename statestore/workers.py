"""A few threads that run blocking calls for event loops."""

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from typing import Any

from statestore.errors import StoreClosedError


class _Job:
    """A call that waits for a thread, and the future that waits for the call."""

    __slots__ = ("args", "claimed", "function", "future", "loop")

    def __init__(self, loop: asyncio.AbstractEventLoop, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
        self.loop = loop
        self.future: asyncio.Future[Any] = loop.create_future()
        self.function = function
        self.args = args
        # Taken by who comes first: the thread that runs the job, or the task that gives it up.
        self.claimed = threading.Lock()

    def run(self) -> None:
        if not self.claimed.acquire(blocking=False):
            return
        result = error = None
        try:
            result = self.function(*self.args)
        except BaseException as exc:
            error = exc
        with suppress(RuntimeError):  # The loop was closed meanwhile: nobody waits any more.
            self.loop.call_soon_threadsafe(_settle, self.future, result, error)


class Workers:
    """Runs blocking functions in threads of its own, at most *size* at once, in the order in which they come.

    Leaner than `concurrent.futures`: one queue and one wake-up of the loop for each call. Threads are started as they
    are needed and end with `close`.
    """

    def __init__(self, size: int, name: str) -> None:
        self._size = size
        self._name = name
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._idle = 0
        self._closed = False
        self._lock = threading.Lock()

    async def run(self, function: Callable[..., Any], *args: Any, give_up: Callable[[], None] | None = None) -> Any:
        """Run *function* in a thread.

        A cancellation takes back what has not begun. What has begun comes to its end before the cancellation is
        passed on, so that nothing is left behind half done; *give_up* is called, in a thread of its own, to hurry it.

        Raises:
            StoreClosedError: After `close`; *function* was not called.
        """
        job = _Job(asyncio.get_running_loop(), function, args)
        self._enqueue(job)
        try:
            return await asyncio.shield(job.future)
        except asyncio.CancelledError:
            if job.claimed.acquire(blocking=False):
                job.future.cancel()
                raise
            if give_up is not None and not job.future.done():
                threading.Thread(target=give_up, daemon=True).start()
            await _until_done(job.future)
            if not job.future.cancelled():
                job.future.exception()  # It is nobody's any more.
            raise

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
                thread = threading.Thread(target=self._work, name=f"{self._name}-{len(self._threads)}", daemon=True)
                self._threads.append(thread)
                thread.start()
            else:
                self._idle -= 1
            self._jobs.put(job)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job.run()
            del job
            with self._lock:
                self._idle += 1


def _settle(future: "asyncio.Future[Any]", result: Any, error: BaseException | None) -> None:
    if future.cancelled():
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(result)


async def _until_done(future: "asyncio.Future[Any]") -> None:
    while not future.done():
        try:
            await asyncio.wait([future])
        except asyncio.CancelledError:
            continue  # Already being passed on.
