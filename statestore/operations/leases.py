"""Waiting for a lease, and holding one while a block of code runs."""

import asyncio
import contextlib
import random
import threading
import time
from collections.abc import Coroutine, Generator, Iterator
from datetime import timedelta
from types import TracebackType
from typing import Any, Self

from statestore.checking import checks
from statestore.engine import forking
from statestore.engine.async_database import AsyncRunner, finished
from statestore.engine.calls import Call
from statestore.engine.database import Runner
from statestore.errors import ConflictError, StaleLeaseError, StateStoreError
from statestore.repositories.sessions.leases import Holder, LeasesRepository, LeaseWork
from statestore.values.sessions import Lease

_FIRST_PAUSE, _LONGEST_PAUSE = 0.01, 0.25
# Renewed when a third of it is over, so that two tries may fail.
_RENEWALS = 3
# Seconds that a cancelled task waits for the answer of the database, which it may have to give a lease back for.
_LONGEST_FAREWELL = 0.5


class _Held(Lease):
    """A lease that its holder may enter: see `HeldLease`."""

    __slots__ = ("_failure", "_generation", "_runner", "_stop", "_worker")

    def __init__(self, lease: Lease, runner: Any) -> None:
        super().__init__(
            session_id=lease.session_id, owner=lease.owner, token=lease.token, ttl=lease.ttl, until=lease.until
        )
        # Only the holder's own bookkeeping changes, and `until`, which renewing moves.
        object.__setattr__(self, "_runner", runner)
        object.__setattr__(self, "_failure", None)
        object.__setattr__(self, "_generation", forking.generation())

    _runner: Any
    _failure: StateStoreError | None
    _generation: int
    _stop: Any
    _worker: Any

    @property
    def lost(self) -> bool:
        """Whether renewing the lease was refused: somebody else may be at work on the session."""
        return self._failure is not None

    def _call(self, method: Any) -> Call:
        return Call(method, (self,))

    def _renewed(self, lease: Lease) -> None:
        object.__setattr__(self, "until", lease.until)

    def _failed(self, error: StateStoreError) -> bool:
        """Whether renewing has come to its end. What may pass is tried again: the database says when it is too late."""
        if error.retryable:
            return False
        object.__setattr__(self, "_failure", error)
        return True

    def check_process(self) -> None:
        """Refuse a lease in a process that was forked from the one that acquired it.

        Raises:
            StaleLeaseError: It stays with the parent. Nothing was written.
        """
        if self._generation != forking.generation():
            raise self._of_the_parent()

    def _of_the_parent(self) -> StaleLeaseError:
        return StaleLeaseError(
            f"the lease with token {self.token} on session {self.session_id!r} was acquired before this process was "
            "forked, and stays with the parent; acquire another",
            session_id=self.session_id,
            expected=self.token,
        )

    def _ended(self, held: bool) -> None:
        if self._failure is not None:
            raise self._failure
        if not held:
            raise StaleLeaseError(
                f"the lease with token {self.token} on session {self.session_id!r} was lost while it was in use; "
                "what was written without lease= may have met another holder's work",
                session_id=self.session_id,
                expected=self.token,
            )


class HeldLease(_Held):
    """A lease of a `StateStore`. As a context manager it keeps itself: `with store.sessions.acquire(…) as lease:`.

    While the block runs a thread renews it, and the session is busy; then the session is ready again and the lease is
    released. Where it was lost meanwhile, the end of the block raises `StaleLeaseError`.
    """

    __slots__ = ()
    _runner: Runner

    def __enter__(self) -> Self:
        try:
            self._runner.run(self._call(LeaseWork.begin_work))
        except BaseException:
            with contextlib.suppress(StateStoreError):
                self._runner.run(self._call(LeaseWork.end_work))
            raise
        stop = threading.Event()
        worker = threading.Thread(target=self._keep, args=(stop,), name="statestore-lease", daemon=True)
        object.__setattr__(self, "_stop", stop)
        object.__setattr__(self, "_worker", worker)
        worker.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._generation != forking.generation():
            if exc is None:
                raise self._of_the_parent()
            return
        self._stop.set()
        self._worker.join()
        if exc is not None:
            with contextlib.suppress(StateStoreError):
                self._runner.run(self._call(LeaseWork.end_work))
            return
        self._ended(self._runner.run(self._call(LeaseWork.end_work)))

    def _keep(self, stop: threading.Event) -> None:
        while not stop.wait(self.ttl.total_seconds() / _RENEWALS):
            try:
                self._renewed(self._runner.run(self._call(LeasesRepository.renew)))
            except StateStoreError as error:
                if self._failed(error):
                    return


class AsyncHeldLease(_Held):
    """A lease of an `AsyncStateStore`: `async with store.sessions.acquire(…) as lease:`. See `HeldLease`."""

    __slots__ = ()
    _runner: AsyncRunner

    async def __aenter__(self) -> Self:
        try:
            await self._runner.run(self._call(LeaseWork.begin_work))
        except BaseException:
            with contextlib.suppress(StateStoreError):
                await finished(self._runner.run(self._call(LeaseWork.end_work)))
            raise
        stop = asyncio.Event()
        object.__setattr__(self, "_stop", stop)
        object.__setattr__(self, "_worker", asyncio.create_task(self._keep(stop), name="statestore-lease"))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # To its end, also when cancelled: nobody else would give the lease back.
        if exc is not None:
            with contextlib.suppress(StateStoreError):
                await finished(self._end())
            return
        self._ended(await finished(self._end()))

    async def _end(self) -> bool:
        self._stop.set()
        await self._worker
        held: bool = await self._runner.run(self._call(LeaseWork.end_work))
        return held

    async def _keep(self, stop: asyncio.Event) -> None:
        while True:
            try:
                async with asyncio.timeout(self.ttl.total_seconds() / _RENEWALS):
                    await stop.wait()
                return
            except TimeoutError:
                pass
            try:
                self._renewed(await self._runner.run(self._call(LeasesRepository.renew)))
            except StateStoreError as error:
                if self._failed(error):
                    return


class Acquiring(Coroutine[Any, Any, AsyncHeldLease]):
    """A lease that is being acquired: await it to have it, or enter it to work under it."""

    __slots__ = ("_acquiring", "_lease")

    def __init__(self, acquiring: Coroutine[Any, Any, AsyncHeldLease]) -> None:
        self._acquiring = acquiring

    def __await__(self) -> Generator[Any, Any, AsyncHeldLease]:
        return self._acquiring.__await__()

    # A coroutine, and no mere awaitable, since asyncio.create_task takes nothing else.
    def send(self, value: Any) -> Any:
        return self._acquiring.send(value)

    def throw(self, *exc: Any) -> Any:
        return self._acquiring.throw(*exc)

    def close(self) -> None:
        self._acquiring.close()

    async def __aenter__(self) -> AsyncHeldLease:
        self._lease = await self._acquiring
        return await self._lease.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._lease.__aexit__(kind, exc, traceback)


def acquire(runner: Runner, session_id: str, *, owner: str, ttl: timedelta, wait: timedelta | None) -> HeldLease:
    """See `Sessions.acquire`."""
    pauses = _pauses(checks.optional_duration(wait, "wait") or timedelta())
    while True:
        found = runner.run(_take(session_id, owner, ttl))
        if isinstance(found, Lease):
            return HeldLease(found, runner)
        time.sleep(_next(pauses, session_id, found))


async def acquire_async(
    runner: AsyncRunner, session_id: str, *, owner: str, ttl: timedelta, wait: timedelta | None
) -> AsyncHeldLease:
    """See `Sessions.acquire`."""
    pauses = _pauses(checks.optional_duration(wait, "wait") or timedelta())
    while True:
        found = await _taken(runner, _take(session_id, owner, ttl))
        if isinstance(found, Lease):
            return AsyncHeldLease(found, runner)
        await asyncio.sleep(_next(pauses, session_id, found))


# Where nobody waits any more for a lease that is on its way: asyncio itself does not hold on to its tasks.
_unwanted: set["asyncio.Task[None]"] = set()


async def _taken(runner: AsyncRunner, call: Call) -> Any:
    """What taking a lease gives. Cancelled meanwhile, a lease that it got goes back."""
    taking = asyncio.ensure_future(runner.run(call))
    try:
        return await asyncio.shield(taking)
    except asyncio.CancelledError:
        giving_back = asyncio.ensure_future(_given_back(runner, taking))
        _unwanted.add(giving_back)
        giving_back.add_done_callback(_unwanted.discard)
        # Behind a lock it may take longer than a cancelled task should; then it goes on without it.
        await finished(asyncio.wait([giving_back], timeout=_LONGEST_FAREWELL))
        raise


async def _given_back(runner: AsyncRunner, taking: "asyncio.Future[Any]") -> None:
    with contextlib.suppress(StateStoreError):
        found = await taking
        if isinstance(found, Lease):
            await runner.run(Call(LeasesRepository.release, (found,)))


def _take(session_id: str, owner: str, ttl: timedelta) -> Call:
    return Call(LeaseWork.take, (session_id,), {"owner": owner, "ttl": ttl})


def _pauses(patience: timedelta) -> Iterator[float]:
    """How long to pause before each further try, with jitter, so that those who wait do not come all at once."""
    deadline = time.monotonic() + patience.total_seconds()
    pause = _FIRST_PAUSE
    while (left := deadline - time.monotonic()) > 0:
        yield min(left, pause * random.uniform(0.5, 1.5))
        pause = min(2 * pause, _LONGEST_PAUSE)


def _next(pauses: Iterator[float], session_id: str, holder: Holder) -> float:
    pause = next(pauses, None)
    if pause is None:
        raise ConflictError(
            f"the lease on session {session_id!r} is held by {holder.owner!r} until {holder.until}; "
            "try again later, or pass wait=",
            session_id=session_id,
            owner=holder.owner,
            until=holder.until,
        )
    return pause
