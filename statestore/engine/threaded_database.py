"""Operations of an event loop in worker threads, over a `Database`."""

import asyncio
import math
import threading
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager, nullcontext
from contextvars import copy_context
from functools import partial
from typing import Any

from statestore.engine import hosts, process_fork
from statestore.engine.async_database import AsyncRunner, elsewhere, finished, forked, give_up, locked
from statestore.engine.batching import carry_out
from statestore.engine.calls import Batching, Call, Mode
from statestore.engine.database import Database
from statestore.engine.execution import BoundRunner, Waiter
from statestore.engine.schedule import PATIENCE, too_late
from statestore.engine.sql import Settings
from statestore.engine.telemetry import Telemetry
from statestore.engine.waits import Waits, ends_at, out_of_time
from statestore.engine.workers import TaskBatches, Workers


class ThreadedDatabase:
    """Runs operations on a `Database`, in worker threads."""

    def __init__(self, database: Database, *, threads: int, one_connection: bool) -> None:
        self.database = database
        self._watchers = database.telemetry.watchers
        self._generation = process_fork.generation()
        self._workers = Workers(threads, "statestore", spare=3 if database.dialect.name == "sqlite" else 0)
        # SQLite has one writer. Tasks queue here, so that none of them blocks a thread that another one needs;
        # readers too, if the database is a single connection.
        self._serial = asyncio.Lock() if database.dialect.name == "sqlite" else None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._moving = threading.Lock()
        self._one_connection = one_connection
        # A transaction has its connection, and must not wait for a thread that waits for just that, or for its locks.
        self._steps = self._workers if self._serial else Workers(threads, "statestore-transaction")
        self._batches: dict[Batching[Any], TaskBatches] = {}

    @property
    def settings(self) -> Settings:
        return self.database.settings

    @property
    def waits(self) -> Waits:
        return self.database.waits

    @property
    def url(self) -> str:
        return hosts.shown(self.database.engine.url)

    @property
    def closed(self) -> bool:
        return self.database.closed

    @property
    def telemetry(self) -> Telemetry:
        return self.database.telemetry

    async def run(self, call: Call) -> Any:
        if self._watchers:
            with self.telemetry.watching(call) as outcome:
                outcome.result = await self._run(call)
            return outcome.result
        return await self._run(call)

    async def _run(self, call: Call) -> Any:
        self._check_place()
        call.ends_at = ends_at(self.database.waits.timeout)
        batching = call.batching
        if batching is not None and (self._serial is None or batching.writes):
            key = batching.key(call, self.settings)
            if key is not None:
                return await self._batches_of(batching).run(call, key)
        return await self._run_alone(call)

    def _batches_of(self, batching: Batching[Any]) -> TaskBatches:
        """See `Database.run`."""
        found = self._batches.get(batching)
        if found is None:
            together = partial(carry_out, batching, self.database)
            patience = None if self._serial else PATIENCE
            found = self._batches[batching] = TaskBatches(
                self._run_alone,
                together,
                self._workers,
                self._serialized,
                to_the_end=batching.writes,
                patience=patience,
            )
        return found

    async def _run_alone(self, call: Call) -> Any:
        if self._serial is None or (call.mode is Mode.READ and not self._one_connection):
            return await self._work(call)
        async with locked(self._serial, call.waits_until(math.inf)):
            return await self._work(call)

    async def _work(self, call: Call) -> Any:
        return await self._workers.run(
            self.database.run_alone,
            call,
            give_up=partial(give_up, call),
            until=call.ends_at,
            late=lambda begun: too_late(call, under_way=begun),
        )

    def _serialized(self, until: float) -> AbstractAsyncContextManager[None]:
        return nullcontext() if self._serial is None else locked(self._serial, until)

    def _check_place(self) -> None:
        if self._generation != process_fork.generation():
            raise forked()
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._move(loop)

    def _move(self, loop: asyncio.AbstractEventLoop) -> None:
        """Belong to *loop*: programs run one event loop after the other, with `asyncio.run` for example.

        What waited in the loop before has ended with it, and so has the time that it wanted to be woken at.
        """
        with self._moving:
            before = self._loop
            if before is not None and not before.is_closed() and (before.is_running() or self._is_busy()):
                raise elsewhere()
            self._loop = loop
            if before is not None:
                self._serial = asyncio.Lock() if self._serial else None
                self._batches = {}
                self._workers.forget_loop()
                self._steps.forget_loop()

    def _is_busy(self) -> bool:
        return self._serial is not None and self._serial.locked()

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncRunner]:
        """As `Database.transaction`."""
        self._check_place()
        waiter = Waiter(ends_at(self.database.waits.timeout))
        async with self._serialized(waiter.until), self._inside(self.database.transaction(waiter), waiter) as runner:
            yield runner

    @asynccontextmanager
    async def snapshot(self, *, read_only: bool = False) -> AsyncIterator[AsyncRunner]:
        """As `Database.snapshot`."""
        self._check_place()
        waiter = Waiter(ends_at(self.database.waits.timeout))
        alone = self._serialized(waiter.until) if self._one_connection else nullcontext()
        async with alone, self._inside(self.database.snapshot(waiter, read_only=read_only), waiter) as runner:
            yield runner

    @asynccontextmanager
    async def _inside(self, context: AbstractContextManager[BoundRunner], waiter: Waiter) -> AsyncIterator[AsyncRunner]:
        entering = _Entering(context)
        try:
            # In a copy of the task's context, so that its deadline is known in the thread, too.
            await self._workers.run(
                copy_context().run,
                entering.enter,
                give_up=waiter.give_up,
                until=waiter.until,
                late=lambda _: out_of_time(),
            )
        except BaseException as exc:
            waiter.given_up = True
            if entering.is_left():
                leaving = self._steps.run(copy_context().run, _leave, context, exc)
                await finished(leaving, hurry=entering.runner.hurry)
            raise
        runner = entering.runner
        try:
            yield ThreadedRunner(runner, self._steps, self.database.waits.timeout)
        except BaseException as exc:
            await finished(self._steps.run(copy_context().run, _leave, context, exc), hurry=runner.hurry)
            raise
        else:
            # To its end, also when cancelled: a commit that was dropped would leave the transaction open.
            leaving = self._steps.run(copy_context().run, context.__exit__, None, None, None)
            await finished(leaving, hurry=runner.hurry)

    async def verify(self) -> None:
        until = ends_at(self.database.waits.timeout)
        await self._workers.run(copy_context().run, self.database.verify, until=until)

    async def empty_log(self) -> None:
        """As `Database.empty_log`."""
        if self._serial is not None:
            async with self._serialized(ends_at(self.waits.timeout)):
                await self._workers.run(self.database.empty_log)

    async def close(self) -> None:
        self._check_place()
        if not self.database.closed:
            await finished(self._workers.run(self.database.close))
            self._workers.close()
            self._steps.close()


class ThreadedRunner:
    """A `BoundRunner`, in worker threads."""

    def __init__(self, bound: BoundRunner, workers: Workers, timeout: float) -> None:
        self._bound = bound
        self._workers = workers
        self._timeout = timeout
        self._one_at_a_time = asyncio.Lock()

    async def run(self, call: Call) -> Any:
        self._bound.check_process()
        until = ends_at(self._timeout)
        async with self._one_at_a_time:
            return await self._workers.run(
                copy_context().run,
                self._bound.run,
                call,
                give_up=partial(give_up, call),
                until=until,
                late=lambda begun: out_of_time(),  # Nothing is written before the transaction is committed.
            )


class _Entering:
    """Enters a transaction in a thread, and leaves it at once if its task has gone meanwhile."""

    runner: BoundRunner

    def __init__(self, context: AbstractContextManager[BoundRunner]) -> None:
        self._context = context
        self._lock = threading.Lock()
        self._entered = False
        self._left = False

    def enter(self) -> None:
        self.runner = self._context.__enter__()
        with self._lock:
            self._entered = True
            left = self._left
        if left:
            _leave(self._context, asyncio.CancelledError())

    def is_left(self) -> bool:
        """The task has gone: whether it has entered, and has to leave. What is still entering leaves by itself."""
        with self._lock:
            self._left = True
            return self._entered


def _leave(context: Any, exc: BaseException) -> None:
    """End a transaction that failed; the failure itself is raised where it happened."""
    try:
        context.__exit__(type(exc), exc, exc.__traceback__)
    except BaseException as raised:
        if raised is not exc:
            raise
