"""Sweeping on a schedule, inside an application: in a thread, or as a task of the event loop."""

import asyncio
import inspect
import logging
import random
import threading
import time
from collections.abc import Awaitable, Callable, Generator, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from types import TracebackType
from typing import Any, Self

from statestore.async_store import AsyncStateStore
from statestore.checking import checks
from statestore.engine import flows
from statestore.errors import InvalidValueError, StateStoreError, StoreClosedError
from statestore.operations import sweeping
from statestore.store import StateStore
from statestore.values.usage import SweepReport

logger = logging.getLogger("statestore.sweeper")

_PATIENCE = 0.9
# Entries that no session sees exist only if something else has written to the tables, and the search reads a little of
# every session: too much for every minute.
_UNSEEN_EVERY = 24 * 3600.0


@dataclass(slots=True)
class _Run:
    """What belongs to one run of a sweeper, from its start to its stop."""

    stopping: threading.Event = field(default_factory=threading.Event)
    thread: threading.Thread | None = None
    task: asyncio.Task[None] | None = None
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    failure: BaseException | None = None

    @property
    def over(self) -> bool:
        return (self.thread is None or not self.thread.is_alive()) and (self.task is None or self.task.done())


class Sweeper:
    """Sweeps a store again and again, until it is stopped.

        with Sweeper(store, every=timedelta(minutes=1)):
            serve()

    With a `StateStore` it runs in its own thread; with an `AsyncStateStore` as a task: `async with`, or `start()` in a
    running event loop and `await stop()`. Any number of sweepers, in any number of processes, may run at once. A sweep
    that the database fails is logged, and the next one starts as planned. The sweeper does not close the store.
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
        all_namespaces: bool = False,
        namespaces: str | Iterable[str] | None = None,
        max_clock_gap: timedelta | None = None,
    ) -> None:
        """Create a sweeper; nothing happens before `start`.

        Args:
            store: What to sweep: its namespace, with the limits of its cache.
            every: How long to wait between the end of a sweep and the next one.
            jitter: The longest random time to add to each wait, so that many processes do not sweep at once; by
                default a tenth of *every*. The first sweep comes after such a random time.
            batch_size: As for `StateStore.sweep`.
            time_budget: As for `StateStore.sweep`; the next sweep does what is left.
            on_sweep: Called with the report of each sweep, in the thread or task that sweeps; it may stop the sweeper.
                With an `AsyncStateStore` it may be a coroutine function, and is awaited.
            on_error: Called in the same way with the error of a sweep that the database failed, which is also logged.
            all_namespaces: As for `StateStore.sweep`: sweep all namespaces of the database.
            namespaces: As for `StateStore.sweep`: sweep these instead of the store's own, such as `acme/*`.
            max_clock_gap: As for `StateStore.sweep`; a sweep that is refused is one that failed.

        Raises:
            InvalidValueError: An argument is invalid.
        """
        if not isinstance(store, StateStore | AsyncStateStore):
            raise InvalidValueError("store", f"must be a StateStore or an AsyncStateStore, not {type(store).__name__}")
        checks.duration(every, "every")
        for name, called in (("on_sweep", on_sweep), ("on_error", on_error)):
            if called is not None and not callable(called):
                raise InvalidValueError(name, f"must be a function, not {type(called).__name__}")
            if isinstance(store, StateStore) and inspect.iscoroutinefunction(called):
                raise InvalidValueError(name, "is a coroutine function, which a thread cannot await; use a plain one")
        self._store = store
        self._every = every.total_seconds()
        self._jitter = (every / 10 if jitter is None else checks.patience(jitter, "jitter")).total_seconds()
        self._batch_size = checks.count(batch_size, "batch_size", least=1)
        self._time_budget = checks.ttl(time_budget, "time_budget", hint="use None for no limit")
        self._namespaces = sweeping.looked_over(namespaces, all_namespaces)
        self._max_clock_gap = checks.ttl(max_clock_gap, "max_clock_gap", hint="use None for any")
        self._on_sweep = on_sweep
        self._on_error = on_error
        self._current: _Run | None = None
        self._looked_at: float | None = None

    def start(self) -> Self:
        """Start sweeping. With an `AsyncStateStore` this needs a running event loop, and the sweeper runs on that.

        If it is running already, nothing happens. If it was stopped but is still in its last batch, it continues after
        that batch.
        """
        before = self._current
        if before is not None and not before.over and not before.stopping.is_set():
            return self
        run = _Run()
        if isinstance(self._store, StateStore):
            # A daemon, so that a process that forgets to stop it can still exit. An interrupted batch is rolled back.
            run.thread = threading.Thread(target=self._run, args=(run, before), name="statestore-sweeper", daemon=True)
            self._current = run
            run.thread.start()
        else:
            loop = asyncio.get_running_loop()
            run.task = loop.create_task(self._run_async(run, before), name="statestore-sweeper")
            self._current = run
        return self

    @property
    def running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._current is not None and not self._current.over

    def stop(self) -> Awaitable[None]:
        """Stop within a second: a sweep under way ends after its current batch.

        With an `AsyncStateStore`, await the result. If a bug had already ended the sweeper, this raises it. Called in
        `on_sweep` or `on_error`, it returns at once, and the sweeper ends when the callback returns.
        """
        run = self._current
        if run is None:
            return _Done()
        run.stopping.set()
        if run.task is not None:
            run.wake.set()
            return _Done() if run.task is _current_task() else _stopped(run)
        if run.thread is not None and run.thread is not threading.current_thread():
            # A batch that takes longer ends by itself, and is the last.
            run.thread.join(_PATIENCE)
            _raise_failure(run)
        return _Done()

    def __enter__(self) -> Self:
        if not isinstance(self._store, StateStore):
            raise TypeError("a Sweeper of an AsyncStateStore needs `async with`")
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

    def _run(self, run: _Run, before: _Run | None) -> None:
        if before is not None and before.thread is not None:
            before.thread.join()
        pause = random.uniform(0, self._jitter)
        while not run.stopping.wait(pause):
            try:
                self._report(flows.run(self._store._database, self._sweep(run)))
            except StoreClosedError:
                return
            except StateStoreError as error:
                self._report_error(error)
            except Exception as bug:
                _fail(run, bug)
                return
            pause = self._every + random.uniform(0, self._jitter)

    async def _run_async(self, run: _Run, before: _Run | None) -> None:
        if before is not None and before.task is not None and not before.task.done():
            await asyncio.wait({before.task})
        pause = random.uniform(0, self._jitter)
        while not await _waited(run.wake, pause):
            try:
                await _awaited(self._report(await flows.run_async(self._store._database, self._sweep(run))))
            except StoreClosedError:
                return
            except StateStoreError as error:
                await _awaited(self._report_error(error))
            except Exception as bug:
                _fail(run, bug)
                return
            pause = self._every + random.uniform(0, self._jitter)

    def _sweep(self, run: _Run) -> flows.Flow[SweepReport]:
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
            stopped=run.stopping.is_set,
            own=self._store.namespace,
            namespaces=self._namespaces,
            max_clock_gap=self._max_clock_gap,
        )

    def _report(self, report: SweepReport) -> object:
        level = logging.INFO if report.rows else logging.DEBUG
        found = ", ".join(f"{swept.rows} {kind}" for kind, swept in report.kinds.items()) or "nothing"
        logger.log(level, "swept %s in %.2f s", found, report.elapsed.total_seconds())
        return None if self._on_sweep is None else self._on_sweep(report)

    def _report_error(self, error: StateStoreError) -> object:
        logger.warning("a sweep failed; the next one starts in %.0f s: %s", self._every, error)
        return None if self._on_error is None else self._on_error(error)


def _fail(run: _Run, bug: BaseException) -> None:
    """End for good: going on would hide a bug, in the store or in `on_sweep`."""
    logger.error("the sweeper stopped because of a bug", exc_info=bug)
    run.failure = bug


def _raise_failure(run: _Run) -> None:
    failure, run.failure = run.failure, None
    if failure is not None:
        raise failure


async def _stopped(run: _Run) -> None:
    task = run.task
    assert task is not None
    await asyncio.wait({task}, timeout=_PATIENCE)
    if not task.done():
        task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    _raise_failure(run)


def _current_task() -> asyncio.Task[Any] | None:
    try:
        return asyncio.current_task()
    except RuntimeError:  # No event loop runs here.
        return None


async def _awaited(called: object) -> None:
    """Await what a callback returned, if it is awaitable."""
    if inspect.isawaitable(called):
        await called


class _Done:
    """An awaitable for when there is nothing left to wait for."""

    def __await__(self) -> Generator[Any, None, None]:
        yield from ()


async def _waited(event: asyncio.Event, seconds: float) -> bool:
    """Wait for the event, but not longer than *seconds*, and tell whether it happened."""
    with suppress(TimeoutError):
        await asyncio.wait_for(event.wait(), seconds)
    return event.is_set()
