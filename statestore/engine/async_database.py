"""What an `AsyncStateStore` runs on, and what its two kinds share.

A store's own engine runs in worker threads over a `Database` (`threaded_database`): a hand-over between threads costs
less than SQLAlchemy's asyncio bridge with the async driver underneath, on SQLite a quarter of it. A caller's
`AsyncEngine` is used as it is, through `run_sync` (`engine_database`). `execution` decides; these wait.
"""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Protocol, TypeVar

from statestore.engine.calls import Call
from statestore.engine.sql import Settings
from statestore.engine.telemetry import Telemetry
from statestore.engine.waits import GRACE, Waits, writer_timeout
from statestore.engine.watchdog import watchdog
from statestore.engine.workers import until_done
from statestore.errors import StoreClosedError

R = TypeVar("R")


class AsyncRunner(Protocol):
    """Runs a call, when awaited."""

    async def run(self, call: Call) -> Any: ...


class AsyncDatabase(AsyncRunner, Protocol):
    """What an `AsyncStateStore` runs on."""

    @property
    def settings(self) -> Settings: ...
    @property
    def waits(self) -> Waits: ...
    @property
    def closed(self) -> bool: ...
    @property
    def telemetry(self) -> Telemetry: ...
    @property
    def url(self) -> str: ...
    def transaction(self) -> AbstractAsyncContextManager[AsyncRunner]: ...
    def snapshot(self, *, read_only: bool = False) -> AbstractAsyncContextManager[AsyncRunner]: ...
    async def verify(self) -> None: ...
    async def close(self) -> None: ...


def give_up(call: Call) -> None:
    """The caller of *call* has left: what is under way is ended, what is to come does not begin."""
    call.given_up = True
    watch = call.watch
    if watch is not None:
        watchdog.hurry(watch)


def forked() -> StoreClosedError:
    return StoreClosedError(
        "the store was opened before this process was forked, and its event loop is the parent's; open another"
    )


def elsewhere() -> StoreClosedError:
    return StoreClosedError(
        "the store belongs to another event loop, which has not ended; open one for each, or share a LazyStore"
    )


@asynccontextmanager
async def locked(lock: asyncio.Lock, until: float) -> AsyncIterator[None]:
    """Hold *lock*; what has to have it waits *until* then, on the monotonic clock."""
    try:
        async with asyncio.timeout(None if until == math.inf else max(0.0, until - time.monotonic())):
            await lock.acquire()
    except TimeoutError:
        raise writer_timeout() from None
    try:
        yield
    finally:
        lock.release()


async def finished(work: Any, *, hurry: Callable[[], None] | None = None) -> Any:
    """Await *work* to its end, even if cancelled meanwhile; the cancellation is then passed on.

    With *hurry* it is hurried then, and left to itself when it has not come to its end shortly after.
    """
    task = unseen(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as exc:
            cancelled = exc
            if hurry is not None:
                hurry()
                await until_done(task, 1.5 * GRACE)
                break
    if cancelled is not None:
        if task.done():
            if not task.cancelled():
                task.exception()  # Nobody asks for it now.
        else:
            abandon(task)
        raise cancelled
    return task.result()


def unseen(work: Awaitable[R]) -> "asyncio.Future[R]":
    """A task for *work* that nobody finds who cancels all tasks of the event loop, as a shutdown does.

    Cancelled in the middle of opening or closing a connection, SQLAlchemy would lose it. Who made the task sees to it.
    """
    task = asyncio.ensure_future(work)
    if isinstance(task, asyncio.Task):
        asyncio.tasks._unregister_task(task)
    return task


def abandon(task: "asyncio.Future[Any]") -> None:
    """Stop waiting for a task of `unseen`: nobody reads its outcome any more, and a shutdown may cancel it."""
    if isinstance(task, asyncio.Task):
        asyncio.tasks._register_task(task)
    _abandoned.add(task)
    task.add_done_callback(_put_away)


_abandoned: set["asyncio.Future[Any]"] = set()


def _put_away(task: "asyncio.Future[Any]") -> None:
    _abandoned.discard(task)
    if not task.cancelled():
        task.exception()
