"""Calls that wait at the same moment travel together.

A round trip, a commit and a hand-over between threads cost the same for one call as for many. So a call that finds no
other under way runs at once, by itself; calls that arrive meanwhile wait for it and then run as a batch. (In a crowd of
tasks the first one also waits for the others of its iteration of the event loop.) What a batch leaves over is run call
by call, and each caller gets its own error.

Each call has a key. While a call is under way, later calls with its key wait and run in the order in which they came.
Calls with other keys wait at most `PATIENCE`; after that, as many calls run at once as there are connections. Calls
with the same key wait longer, and then a few of them overtake it: its connection may be dead. Every call leaves at its
own deadline, wherever it waits.
"""

import math
import threading
import time
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Protocol, TypeAlias

from statestore.engine.calls import Batching, Call, Item
from statestore.engine.driver_errors import Retryable, classify
from statestore.engine.schedule import PATIENCE, Run, Schedule, keys_of, left_of, too_late, unknown
from statestore.engine.sql import Link, Settings
from statestore.engine.telemetry import Telemetry, tell_batch
from statestore.engine.waits import Signal
from statestore.errors import StateStoreError

Together: TypeAlias = Callable[[Sequence[Call], float], list[Any]]
"""Carries out the calls of a batch, until a moment on the monotonic clock. A result for each; None for one that has to
be run by itself."""


class BatchRunner(Protocol):
    """A `Database`, as far as batches are concerned."""

    @property
    def settings(self) -> Settings: ...
    @property
    def telemetry(self) -> Telemetry: ...
    def run_batch(self, work: Callable[[Link], None], until: float) -> None: ...


def carry_out(batching: Batching[Any], database: BatchRunner, calls: Sequence[Call], until: float) -> list[Any]:
    """Do together what can go together; the other calls are left to be run by themselves, and get None."""
    prepared = [batching.prepare(call, database.settings) for call in calls]
    # If a call has to go by itself, so do all later ones with its key: they keep their order.
    alone: set[Hashable] = set()
    together: list[Item] = []
    room = batching.room
    for index, (call, item) in enumerate(zip(calls, prepared, strict=True)):
        key = batching.key(call, database.settings)
        if item is None or item.size > room or key in alone:
            alone.add(key)
            prepared[index] = None
        else:
            together.append(item)
            room -= item.size
    if together:
        try:
            database.run_batch(lambda link: batching.run(link, together), until)
            database.telemetry.note_batch(calls[0].name, len(together))
        except Exception as exc:
            # Each by itself finds out what is wrong, and with whom. It may have been done and the reply been lost: as
            # at any second try, what is stored already is found.
            refused = isinstance(exc, StateStoreError | Retryable)
            failure = classify(exc)
            error = exc.error if isinstance(exc, Retryable) else failure.error if failure else None
            if error is not None:
                tell_batch(calls[0].name, len(calls), error)
            for call, item in zip(calls, prepared, strict=True):
                if item is not None:
                    item.result = None
                    call.attempt += 1
                    if batching.writes:
                        call.unsettled = not refused and (failure is None or failure.lost)
    return [None if item is None else item.result for item in prepared]


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
        # Ctrl-C may come at the beginning of any function: what is to be ended is known before it begins.
        run, alone = Run([key]), False
        waiting: _WaitingThread | None = None
        early: BaseException | None = None
        try:
            with self._lock:
                alone = self._schedule.may_go_alone(key)
                if alone:
                    self._schedule.begin(run)
                else:
                    waiting = _WaitingThread(call, key)
                    self._schedule.waiting.append(waiting)
            if alone:
                return self._alone(call)
            self._start()
        except BaseException as exc:
            # Somebody may have taken it into a batch already, as the first perhaps.
            if waiting is None or self._take_back(waiting):
                raise
            early = exc
        finally:
            if alone:
                try:
                    self._end(run)
                except BaseException:
                    self._end(run)
                    raise
        assert waiting is not None
        interrupt, interrupts = early, 0
        while not waiting.is_done:
            try:
                if not waiting.has_begun:
                    interrupt = self._wait(waiting) or interrupt
                if waiting.batch:
                    interrupt = self._lead(waiting) or interrupt
                elif waiting.is_left:
                    self._run_left(waiting)
                else:
                    waiting.is_done = True
            except BaseException as exc:
                # Each step goes on from where it was interrupted; what comes again and again is a bug.
                interrupts += 1
                if interrupts == 10 or waiting.is_gone or self._take_back(waiting):
                    raise
                interrupt = exc
        if interrupt is not None:
            raise interrupt
        if waiting.error is not None:
            raise waiting.error
        return waiting.result

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
        """Carry a batch out. If it is interrupted, it is to be called again, and then does what is still to be done."""
        interrupt: BaseException | None = None
        batch, run = first.batch, first.run
        assert run is not None
        if not first.has_begun:
            first.has_begun = True
            try:
                first.settled.clear()
                first.results = self._together([waiting.call for waiting in batch], first.call.ends_at)
            except BaseException as exc:
                interrupt = None if isinstance(exc, Exception) else exc
        results = unknown(batch) if first.results is None else first.results
        left = left_of(batch, results)
        with self._lock:
            self._schedule.end(run, left)
            for waiting, result in zip(batch, results, strict=True):
                waiting.result = waiting.result if result is None else result
                if result is not None:
                    waiting.settled.set()
            for key, chain in left.items():
                for waiting in chain:
                    waiting.in_chain = True
                self._pass_on(chain, key, run)
        self._start()
        first.batch, first.has_begun = [], False
        return interrupt

    def _pass_on(self, chain: "list[_WaitingThread]", key: Hashable, run: Run) -> None:
        """Let the first call of *chain* whose caller still waits run by itself, and the others after it; once."""
        for index, waiting in enumerate(chain):
            if waiting.is_left or waiting.error is None:
                if not waiting.is_left:
                    waiting.own = waiting.own or Run([key])
                    self._schedule.free(key, run)
                    self._schedule.mark(waiting.own)
                    waiting.is_left, waiting.behind = True, chain[index + 1 :]
                self._schedule.free(key, run)
                waiting.settled.set()
                return
        self._schedule.free(key, run)

    def _run_left(self, waiting: "_WaitingThread") -> None:
        """As `_lead`, of one call."""
        assert waiting.own is not None
        if not waiting.has_begun:
            waiting.has_begun = True
            try:
                waiting.result = self._alone(waiting.call)
            except BaseException as exc:
                waiting.error = exc
        with self._lock:
            self._pass_on(waiting.behind, waiting.key, waiting.own)
        self._start()
        waiting.is_done = True

    def _end(self, run: Run) -> None:
        with self._lock:
            self._schedule.end(run)
            if not self._schedule.waiting:
                return
        self._start()

    def _start(self) -> None:
        """Wake the first of the next batch, if one may go now."""
        try:
            self._start_next()
        except BaseException:  # Others wait for it.
            self._start_next()
            raise

    def _start_next(self) -> None:
        with self._lock:
            if not self._schedule.batch_may_go():
                return
            batch = self._schedule.take()
            first = batch[0]
            run = None
            try:
                run = first.run = Run(keys_of(batch))
                self._schedule.begin(run)
                first.batch = batch
                first.settled.set()
            except BaseException:
                if run is not None:
                    self._schedule.end(run)
                first.batch = []
                first.settled.clear()
                self._schedule.waiting[:0] = batch
                raise

    def _go_past(self) -> None:
        with self._lock:
            self._schedule.overtake()
        self._start()

    def _take_back(self, waiting: "_WaitingThread") -> bool:
        with self._lock:
            if waiting not in self._schedule.waiting:
                return False
            self._schedule.waiting.remove(waiting)
            waiting.is_gone = True
            return True


class _WaitingThread:
    """A call that waits for its result; or for leading its batch, or for being run by its own thread after all."""

    __slots__ = (
        "batch",
        "behind",
        "call",
        "error",
        "has_begun",
        "in_chain",
        "is_done",
        "is_gone",
        "is_left",
        "key",
        "own",
        "result",
        "results",
        "run",
        "settled",
    )

    def __init__(self, call: Call, key: Hashable) -> None:
        self.call = call
        self.key = key
        self.settled = Signal()
        self.batch: list[_WaitingThread] = []
        """Those that it leads, itself among them."""
        self.run: Run | None = None
        """That of the batch which it leads."""
        self.results: list[Any] | None = None
        """What came of that batch; None if nobody knows."""
        self.own: Run | None = None
        """If it is left: its own."""
        self.has_begun = False
        """Whether its batch, or its call, has been sent: not a second time."""
        self.is_done = False
        self.is_gone = False
        """Whether it was taken back while it waited."""
        self.in_chain = False
        """Whether its batch has left it over, behind others with its key perhaps."""
        self.is_left = False
        """Whether it is to be run by itself now."""
        self.behind: list[_WaitingThread] = []
        """Those with the same key that go after it, if all were left."""
        self.result: Any = None
        self.error: BaseException | None = None
