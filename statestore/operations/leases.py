"""Waiting for a lease, and holding one while a block of code runs."""

import random
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from types import TracebackType
from typing import Any, Self

from statestore.checking import checks
from statestore.engine import process_fork
from statestore.engine.async_database import AsyncRunner, finished
from statestore.engine.calls import Call
from statestore.engine.database import Runner
from statestore.engine.flows import Flow, Join, NewSignal, Signal, Sleep, Start, Undoable, Wait, run, run_async
from statestore.errors import ConflictError, StaleLeaseError, StateStoreError
from statestore.repositories.sessions.leases import Holder, LeasesRepository, LeaseWork
from statestore.values.sessions import Lease

_FIRST_PAUSE, _LONGEST_PAUSE = 0.01, 0.25
# A lease is renewed after a third of its time, so that two tries may fail.
_RENEWALS = 3


class _Held(Lease):
    """A lease that its holder may enter: see `HeldLease`."""

    __slots__ = ("_failure", "_generation", "_runner", "_stop", "_worker")

    def __init__(self, lease: Lease, runner: Any) -> None:
        super().__init__(
            session_id=lease.session_id, owner=lease.owner, token=lease.token, ttl=lease.ttl, until=lease.until
        )
        # Only the holder's own bookkeeping changes, and `until`, which each renewal moves.
        object.__setattr__(self, "_runner", runner)
        object.__setattr__(self, "_failure", None)
        object.__setattr__(self, "_generation", process_fork.generation())

    _runner: Any
    _failure: StateStoreError | None
    _generation: int
    _stop: Any
    _worker: Any

    # Equal only to itself: compared by its fields, it would get lost in a set or a dict when `until` moves.
    __eq__ = object.__eq__
    __hash__ = object.__hash__

    @property
    def lost(self) -> bool:
        """Whether renewing the lease was refused: somebody else may be working on the session."""
        return self._failure is not None

    def _call(self, method: Any) -> Call:
        return Call(method, (self,))

    def _renewed(self, lease: Lease) -> None:
        object.__setattr__(self, "until", lease.until)

    def _failed(self, error: StateStoreError) -> bool:
        """Whether to stop renewing. Temporary errors are retried: the database says when it is too late."""
        if error.retryable:
            return False
        object.__setattr__(self, "_failure", error)
        return True

    def check_process(self) -> None:
        """Refuse a lease in a process that was forked from the one that acquired it.

        Raises:
            StaleLeaseError: It belongs to the parent. Nothing was written.
        """
        if self._generation != process_fork.generation():
            raise self._of_the_parent()

    def _of_the_parent(self) -> StaleLeaseError:
        return StaleLeaseError(
            f"the lease with token {self.token} on session {self.session_id!r} was acquired before this process was "
            "forked, and belongs to the parent; acquire another",
            session_id=self.session_id,
            expected=self.token,
        )

    def _ended(self, held: bool) -> None:
        if self._failure is not None:
            raise self._failure
        if not held:
            raise StaleLeaseError(
                f"the lease with token {self.token} on session {self.session_id!r} was lost while it was in use; "
                "what was written without lease= may have mixed with another holder's work",
                session_id=self.session_id,
                expected=self.token,
            )

    def _enter(self) -> Flow[None]:
        self.check_process()
        try:
            yield self._call(LeaseWork.begin_work)
        except BaseException:
            with suppress(StateStoreError):
                yield self._call(LeaseWork.end_work)
            raise
        stop: Signal = yield NewSignal()
        worker = yield Start(lambda: self._keep(stop), "statestore-lease")
        object.__setattr__(self, "_stop", stop)
        object.__setattr__(self, "_worker", worker)

    def _leave(self, *, failed: bool) -> Flow[None]:
        if self._generation != process_fork.generation():
            if not failed:
                raise self._of_the_parent()
            return
        self._stop.set()
        yield Join(self._worker)
        if failed:
            with suppress(StateStoreError):
                yield self._call(LeaseWork.end_work)
            return
        self._ended((yield self._call(LeaseWork.end_work)))

    def _keep(self, stop: Signal) -> Flow[None]:
        while not (yield Wait(stop, self.ttl.total_seconds() / _RENEWALS)):
            try:
                self._renewed((yield self._call(LeasesRepository.renew)))
            except StateStoreError as error:
                if self._failed(error):
                    return


class HeldLease(_Held):
    """A lease from a `StateStore`. As a context manager it renews itself: `with store.sessions.acquire(…) as lease:`.

    While the block runs, a thread renews it and the session is busy; then the session is ready again and the lease is
    released. If it was lost meanwhile, the end of the block raises `StaleLeaseError`.
    """

    __slots__ = ()
    _runner: Runner

    def __enter__(self) -> Self:
        run(self._runner, self._enter())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        run(self._runner, self._leave(failed=exc is not None))


class AsyncHeldLease(_Held):
    """A lease from an `AsyncStateStore`: `async with store.sessions.acquire(…) as lease:`. See `HeldLease`."""

    __slots__ = ()
    _runner: AsyncRunner

    async def __aenter__(self) -> Self:
        await run_async(self._runner, self._enter())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # To its end, even if cancelled: nobody else would give the lease back.
        await finished(run_async(self._runner, self._leave(failed=exc is not None)))


def acquire(session_id: str, *, owner: str, ttl: timedelta, wait: timedelta | None) -> Flow[Lease]:
    """See `Sessions.acquire`."""
    pauses = _pauses(checks.optional_duration(wait, "wait") or timedelta())
    while True:
        take = Call(LeaseWork.take, (session_id,), {"owner": owner, "ttl": ttl})
        found: Lease | Holder = yield Undoable(take, _released)
        if isinstance(found, Lease):
            return found
        yield Sleep(_next(pauses, session_id, found))


def _released(found: Lease | Holder) -> Call | None:
    """Release a lease that nobody is waiting for any longer."""
    return Call(LeasesRepository.release, (found,)) if isinstance(found, Lease) else None


def _pauses(patience: timedelta) -> Iterator[float]:
    """How long to pause before each retry, with jitter, so that those who wait do not retry all at once."""
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
