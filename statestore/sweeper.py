"""Sweeping on a schedule, inside an application: in a thread, or as a task of the event loop."""

import asyncio
import logging
import random
import threading
import time
from collections.abc import Awaitable, Callable, Generator
from contextlib import suppress
from datetime import timedelta
from types import TracebackType
from typing import Any, Self

from statestore import checks, sweeping
from statestore.errors import InvalidValueError, StateStoreError, StoreClosedError
from statestore.store import AsyncStateStore, StateStore
from statestore.usage_values import SweepReport

logger = logging.getLogger("statestore.sweeper")

_PATIENCE = 0.9
# What no session sees is there only where something else has written to the tables, and looking for it reads a little
# of every session: not each minute.
_UNSEEN_EVERY = 24 * 3600.0


class Sweeper:
    """Sweeps a store again and again, until it is stopped.

        with Sweeper(store, every=timedelta(minutes=1)):
            serve()

    With a `StateStore` it runs in a thread of its own; with an `AsyncStateStore` as a task: `async with`, or `start()`
    in a running event loop and `await stop()`. Any number of sweepers, in any number of processes, may run at once.
    A sweep that fails because of the database is logged, and the next one comes as planned. The store is not closed.
    """

    def __init__(
        self,
        store: StateStore | AsyncStateStore,
        *,
        every: timedelta,
        jitter: timedelta | None = None,
        batch_size: int = sweeping.DEFAULT_BATCH,
        time_budget: timedelta | None = None,
        on_sweep: Callable[[SweepReport], object] | None = None,
        on_error: Callable[[StateStoreError], object] | None = None,
    ) -> None:
        """Make a sweeper; nothing happens before `start`.

        Args:
            store: What to sweep: its namespace, with the limits of its cache.
            every: How long to wait between the end of a sweep and the next one.
            jitter: Wait longer by a random time up to this, so that many processes do not sweep at once; by default a
                tenth of *every*. The first sweep comes after such a time.
            batch_size: As for `StateStore.sweep`.
            time_budget: As for `StateStore.sweep`; what is left is for the next one.
            on_sweep: Called with the report of each sweep, in the thread or the task that sweeps.
            on_error: Called with the error of a sweep that the database has failed; it is logged in any case.
        """
        if not isinstance(store, StateStore | AsyncStateStore):
            raise InvalidValueError("store", f"must be a StateStore or an AsyncStateStore, not {type(store).__name__}")
        if checks.ttl(every, "every") is None:
            raise InvalidValueError("every", "must be a timedelta")
        self._store = store
        self._every = every.total_seconds()
        self._jitter = (every / 10 if jitter is None else _not_negative(jitter)).total_seconds()
        self._batch_size = checks.count(batch_size, "batch_size", least=1)
        self._time_budget = checks.ttl(time_budget, "time_budget")
        self._on_sweep = on_sweep
        self._on_error = on_error
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._task: asyncio.Task[None] | None = None
        self._wake: asyncio.Event | None = None
        self._looked_at: float | None = None
        self._failure: BaseException | None = None

    def start(self) -> Self:
        """Begin. With an `AsyncStateStore` it needs a running event loop, and runs on that."""
        if self.running:
            return self
        self._stopping.clear()
        self._failure = None
        if isinstance(self._store, StateStore):
            # A daemon: a process that forgets to stop it may still end. A batch that is cut off is rolled back.
            self._thread = threading.Thread(target=self._run, name="statestore-sweeper", daemon=True)
            self._thread.start()
        else:
            self._wake = asyncio.Event()
            self._task = asyncio.get_running_loop().create_task(self._run_async(), name="statestore-sweeper")
        return self

    @property
    def running(self) -> bool:
        """Whether it has been started and has not ended."""
        task, thread = self._task, self._thread
        return (thread is not None and thread.is_alive()) or (task is not None and not task.done())

    def stop(self) -> Awaitable[None]:
        """End, within a second: a sweep under way ends with the batch that it is at.

        With an `AsyncStateStore`, await what it returns. Raises what has ended the sweeper before, if that was a bug.
        """
        self._stopping.set()
        if self._thread is not None:
            # A batch that takes longer ends by itself, and is the last one.
            self._thread.join(_PATIENCE)
            self._raise_failure()
            return _Done()
        if self._wake is not None:
            self._wake.set()
        return self._stopped()

    async def _stopped(self) -> None:
        if self._task is not None:
            await asyncio.wait({self._task}, timeout=_PATIENCE)
            if not self._task.done():
                self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        self._raise_failure()

    def __enter__(self) -> Self:
        if not isinstance(self._store, StateStore):
            raise TypeError("a Sweeper of an AsyncStateStore is entered with `async with`")
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    async def __aenter__(self) -> Self:
        return self.start()

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.stop()

    def _run(self) -> None:
        pause = random.uniform(0, self._jitter)
        while not self._stopping.wait(pause):
            try:
                self._store.cache.flush()  # What was hit last is to stay.
                self._report(sweeping.run(self._store._database, self._course()))
            except StoreClosedError:
                return
            except StateStoreError as error:
                self._report_error(error)
            except Exception as bug:
                self._fail(bug)
                return
            pause = self._every + random.uniform(0, self._jitter)

    async def _run_async(self) -> None:
        assert self._wake is not None
        pause = random.uniform(0, self._jitter)
        while not await _waited(self._wake, pause):
            try:
                await self._store.cache.flush()
                self._report(await sweeping.run_async(self._store._database, self._course()))
            except StoreClosedError:
                return
            except StateStoreError as error:
                self._report_error(error)
            except Exception as bug:
                self._fail(bug)
                return
            pause = self._every + random.uniform(0, self._jitter)

    def _course(self) -> sweeping.Course:
        now = time.monotonic()
        look = self._looked_at is None or now - self._looked_at >= _UNSEEN_EVERY
        if look:
            self._looked_at = now
        return sweeping.sweep(
            batch_size=self._batch_size,
            time_budget=self._time_budget,
            dry_run=False,
            progress=None,
            look_for_unseen=look,
            stopped=self._stopping.is_set,
        )

    def _report(self, report: SweepReport) -> None:
        level = logging.INFO if report.rows else logging.DEBUG
        found = ", ".join(f"{swept.rows} {kind}" for kind, swept in report.kinds.items()) or "nothing"
        logger.log(level, "swept %s in %.2f s", found, report.elapsed.total_seconds())
        if self._on_sweep is not None:
            self._on_sweep(report)

    def _report_error(self, error: StateStoreError) -> None:
        logger.warning("a sweep failed, the next one comes in %.0f s: %s", self._every, error)
        if self._on_error is not None:
            self._on_error(error)

    def _fail(self, bug: BaseException) -> None:
        """End for good: going on would hide a bug, ours or one in `on_sweep`."""
        logger.error("the sweeper has ended", exc_info=bug)
        self._failure = bug

    def _raise_failure(self) -> None:
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure


class _Done:
    """What there is to await where nothing is left to wait for."""

    def __await__(self) -> Generator[Any, None, None]:
        yield from ()


async def _waited(event: asyncio.Event, seconds: float) -> bool:
    """Wait for the event or so long, and tell whether the event has come."""
    with suppress(TimeoutError):
        await asyncio.wait_for(event.wait(), seconds)
    return event.is_set()


def _not_negative(jitter: Any) -> timedelta:
    found = checks.optional_duration(jitter, "jitter")
    assert found is not None
    return found
