"""Batches of the calls of threads. The first of a batch runs it for all; see `batching`."""

import math
import threading
import time
from collections.abc import Callable, Hashable
from typing import Any

from statestore.engine.batching import PATIENCE, Run, Schedule, Together, keys_of, left_of, too_late, unknown
from statestore.engine.calls import Call


class ThreadBatches:
    """Runs calls of threads, in batches where several wait. The first of a batch runs it for all."""

    def __init__(self, alone: Callable[[Call], Any], together: Together, *, patience: float | None = PATIENCE) -> None:
        """*patience*: after how many seconds others go past what is under way; None for never."""
        self._alone = alone
        self._together = together
        self._patience = patience
        self._schedule = Schedule(patience)
        self._lock = threading.RLock()  # See `Watchdog`.

    def run(self, call: Call, key: Hashable) -> Any:
        run = None
        waiting = _WaitingThread(call, key)
        try:
            with self._lock:
                if self._schedule.may_go_alone(key):
                    run = self._schedule.begin([key])
                else:
                    self._schedule.waiting.append(waiting)
            if run is not None:
                return self._alone(call)
        finally:
            if run is not None:
                self._end(run)
        self._start()
        interrupt = self._see_through(waiting)
        if interrupt is not None:
            raise interrupt
        if waiting.error is not None:
            raise waiting.error
        return waiting.result

    def _see_through(self, waiting: "_WaitingThread") -> BaseException | None:
        """Wait, and do for the batch what falls to this thread. Returns what has interrupted it meanwhile."""
        interrupt: BaseException | None = None
        while True:
            interrupt = self._wait(waiting) or interrupt
            if waiting.batch:
                interrupt = self._lead(waiting) or interrupt
            elif waiting.is_left and waiting.error is None:
                self._run_left(waiting)
                return interrupt
            else:
                return interrupt

    def _wait(self, waiting: "_WaitingThread") -> BaseException | None:
        """Until there is something to do, or nothing more. Returns what has interrupted the thread meanwhile."""
        interrupt: BaseException | None = None
        patience = math.inf if self._patience is None else self._patience
        while True:
            try:
                left = min(patience, waiting.call.ends_at - time.monotonic())
                if waiting.settled.wait(None if left == math.inf else max(0.0, left)):
                    return interrupt
                if time.monotonic() >= waiting.call.ends_at and self._leave(waiting):
                    return interrupt
                self._go_past()
            except BaseException as exc:
                # Ctrl-C most likely: leave, but not with a batch or a write under way.
                if self._take_back(waiting):
                    raise
                interrupt = exc

    def _leave(self, waiting: "_WaitingThread") -> bool:
        """The time of a call is over while it waits. False, if there is something for its thread to do after all."""
        with self._lock:
            if waiting.settled.is_set():
                return False
            under_way = waiting not in self._schedule.waiting
            if not under_way:
                self._schedule.waiting.remove(waiting)
            # One that was left over by its batch waits for those before it, and has not begun again.
            waiting.error = too_late(waiting.call, under_way=under_way and not waiting.in_chain)
            waiting.settled.set()
            return True

    def _lead(self, first: "_WaitingThread") -> BaseException | None:
        interrupt: BaseException | None = None
        batch, first.batch = first.batch, []
        first.settled.clear()
        try:
            results = self._together([waiting.call for waiting in batch], first.call.ends_at)
        except BaseException as exc:
            interrupt = None if isinstance(exc, Exception) else exc
            results = unknown(batch)
        left = left_of(batch, results)
        run = first.run
        assert run is not None
        with self._lock:
            self._schedule.end(run, left)
            for waiting, result in zip(batch, results, strict=True):
                waiting.result = result
                if result is not None:
                    waiting.settled.set()
            for key, chain in left.items():
                for waiting in chain:
                    waiting.in_chain = True
                self._pass_on(chain, key, run)
        self._start()
        return interrupt

    def _pass_on(self, chain: "list[_WaitingThread]", key: Hashable, run: Run) -> None:
        """Let the first of *chain* that is still there go by itself, with the others behind it."""
        for index, waiting in enumerate(chain):
            if waiting.error is None:
                waiting.is_left, waiting.behind = True, chain[index + 1 :]
                waiting.run = self._schedule.renew(key, run)
                waiting.settled.set()
                return
        self._schedule.free(key, run)

    def _run_left(self, waiting: "_WaitingThread") -> None:
        run = waiting.run
        assert run is not None
        try:
            waiting.result = self._alone(waiting.call)
        except BaseException as exc:
            waiting.error = exc
        finally:
            with self._lock:
                self._pass_on(waiting.behind, waiting.key, run)
            self._start()

    def _end(self, run: Run) -> None:
        with self._lock:
            self._schedule.end(run)
        self._start()

    def _start(self) -> None:
        """Wake the first of the next batch, if one may go now."""
        with self._lock:
            if self._schedule.batch_may_go():
                batch = self._schedule.take()
                first = batch[0]
                first.run = self._schedule.begin(keys_of(batch))
                first.batch = batch
                first.settled.set()

    def _go_past(self) -> None:
        with self._lock:
            self._schedule.overtake()
        self._start()

    def _take_back(self, waiting: "_WaitingThread") -> bool:
        with self._lock:
            if waiting not in self._schedule.waiting:
                return False
            self._schedule.waiting.remove(waiting)
            return True


class _WaitingThread:
    """A call that waits for its result; or for leading its batch, or for being run by its own thread after all."""

    __slots__ = ("batch", "behind", "call", "error", "in_chain", "is_left", "key", "result", "run", "settled")

    def __init__(self, call: Call, key: Hashable) -> None:
        self.call = call
        self.key = key
        self.settled = threading.Event()
        self.batch: list[_WaitingThread] = []
        self.run: Run | None = None
        self.in_chain = False
        """Whether its batch has left it over, behind others with its key perhaps."""
        self.is_left = False
        """Whether it is to be run by itself now."""
        self.behind: list[_WaitingThread] = []
        """Those with the same key that go after it, where all were left."""
        self.result: Any = None
        self.error: BaseException | None = None
