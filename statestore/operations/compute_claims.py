"""The claim to compute a value: taken, renewed while the value is computed, and given back.

`single_flight` decides how long each claim lasts.
"""

import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, NamedTuple, TypeAlias

from statestore.engine import process_fork
from statestore.engine.calls import Call
from statestore.engine.database import Runner
from statestore.engine.flows import Flow, Join, NewSignal, Signal, Start, Undoable, Wait
from statestore.errors import StateStoreError
from statestore.operations import single_flight
from statestore.repositories.cache.compute_claims import CacheClaims

Renewals: TypeAlias = Iterator[tuple[float, Callable[[], timedelta]]]


def claim(key: str, token: str, timeout: timedelta) -> Flow[bool]:
    """Take the claim, and tell whether that succeeded."""

    def undo(claimed: bool) -> Call | None:
        return Call(CacheClaims.release, (key, token)) if claimed else None

    lasts = single_flight.claim_time(timeout)
    claimed: bool = yield Undoable(Call(CacheClaims.claim, (key, token, lasts)), undo)
    return claimed


def release(key: str, token: str) -> Flow[None]:
    """Give a claim back. If that fails, it ends by itself; the caller has its value, or a more useful error."""
    try:
        yield Call(CacheClaims.release, (key, token))
    except StateStoreError:
        return


class ThreadRenewals:
    """Keeps the claims of threads while they compute.

    One thread serves all: one per computation doubled the cost of a quick one.
    """

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._renewer = _Renewer(self._renew)

    def begin(self, key: str, token: str, timeout: timedelta) -> Flow[Any]:
        """Renew a claim from now on, but for at most *timeout*. Returns what `end` takes."""
        self._renewer.add(key, token, single_flight.renewals(timeout))
        yield from ()
        return token

    def end(self, begun: Any) -> Flow[None]:
        self._renewer.remove(begun)
        yield from ()

    def _renew(self, key: str, token: str, lasts: timedelta) -> bool:
        """Whether to go on; temporary errors are retried."""
        try:
            renewed: bool = self._runner.run(Call(CacheClaims.renew, (key, token, lasts)))
        except StateStoreError as error:
            return error.retryable
        return renewed


class TaskRenewals:
    """As `ThreadRenewals`, for tasks: each computation has its own renewing task."""

    def begin(self, key: str, token: str, timeout: timedelta) -> Flow[Any]:
        stop: Signal = yield NewSignal()
        task = yield Start(lambda: self._keep(key, token, timeout, stop), "statestore-claim")
        return stop, task

    def end(self, begun: Any) -> Flow[None]:
        stop, task = begun
        stop.set()
        yield Join(task)

    def _keep(self, key: str, token: str, timeout: timedelta, stop: Signal) -> Flow[None]:
        for pause, lasts in single_flight.renewals(timeout):
            if (yield Wait(stop, pause)):
                return
            try:
                renewed = yield Call(CacheClaims.renew, (key, token, lasts()))
            except StateStoreError as error:
                renewed = error.retryable
            if not renewed:
                return


class _Renewal(NamedTuple):
    at: float
    key: str
    lasts: Callable[[], timedelta]
    later: Renewals


class _Renewer:
    """Renews claims, in a thread that runs only while there are any.

    A renewal may still be under way when its claim has been given back: it does not revive the claim.
    """

    def __init__(self, renew: Callable[[str, str, timedelta], bool]) -> None:
        self._renew = renew
        self.renew_after_fork()
        process_fork.renew_in_child(self)

    def renew_after_fork(self) -> None:
        """In a forked child, start empty: the claims belong to the parent."""
        # Entered itself, in C: a signal handler that raises in the function of a condition leaves it locked for good.
        self._lock = threading.RLock()
        self._sooner = threading.Condition(self._lock)
        self._renewals: dict[str, _Renewal] = {}
        self._thread: threading.Thread | None = None
        self._wakes = 0.0

    def add(self, key: str, token: str, renewals: Renewals) -> None:
        with self._lock:
            self._plan(key, token, renewals)
            planned = self._renewals.get(token)
            if planned is None:
                return
            if self._thread is None:
                thread = threading.Thread(target=self._work, name="statestore-claims", daemon=True)
                thread.start()
                self._thread = thread
            elif planned.at < self._wakes:
                self._sooner.notify()

    def remove(self, token: str) -> None:
        # The thread is not woken: it notices this the next time it wakes.
        with self._lock:
            self._renewals.pop(token, None)

    def _plan(self, key: str, token: str, renewals: Renewals) -> None:
        self._renewals.pop(token, None)
        for pause, lasts in renewals:
            self._renewals[token] = _Renewal(time.monotonic() + pause, key, lasts, renewals)
            return

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._renewals:
                    self._thread = None
                    return
                token, planned = min(self._renewals.items(), key=lambda item: item[1].at)
                pause = planned.at - time.monotonic()
                if pause > 0:
                    self._wakes = planned.at
                    self._sooner.wait(pause)
                    continue
            renewed = self._renew(planned.key, token, planned.lasts())
            with self._lock:
                if token in self._renewals:
                    self._plan(planned.key, token, planned.later if renewed else iter(()))
