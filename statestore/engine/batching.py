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
from collections.abc import Callable, Container, Hashable, Iterable, Sequence
from typing import Any, Protocol, TypeAlias, TypeVar

from statestore.engine.calls import Batching, Call, Item, Mode
from statestore.engine.driver_errors import Retryable, classify
from statestore.engine.sql import Link, Settings
from statestore.engine.telemetry import Telemetry, tell_batch
from statestore.engine.waits import out_of_time
from statestore.errors import CommitUnknownError, StateStoreError, UnavailableError

_LARGEST_BATCH = 64
# Seconds: far longer than a batch takes when nobody waits for a lock, and shorter than a caller would notice.
PATIENCE = 0.02
# Seconds. On a database that works, a call that takes longer is most likely waiting for a lock, as the calls behind it
# would; so only a few calls with one key overtake each other, and the other connections stay free.
_PATIENCE_WITHIN_KEY = 1.0
_MOST_OF_ONE_KEY = 3

Together: TypeAlias = Callable[[Sequence[Call], float], list[Any]]
"""Carries out the calls of a batch, until a moment on the monotonic clock. A result for each; None for one that has to
be run by itself."""


class Waiting(Protocol):
    """A call that waits for its batch."""

    call: Call
    key: Hashable


class Run:
    """One call alone, or one batch, that is under way."""

    __slots__ = ("ended", "keys", "since")

    def __init__(self, keys: Sequence[Hashable]) -> None:
        self.ended = False
        self.keys = keys
        self.since = time.monotonic()


class Schedule:
    """Which calls may go now: one at a time, a batch counting as one, except past what takes long.

    Without *patience* nothing goes past anything.
    """

    __slots__ = ("_busy", "_patience", "crowded", "current", "waiting")

    def __init__(self, patience: float | None) -> None:
        self._patience = patience
        self.current: Run | None = None
        self.crowded = False
        """Whether the latest batch was more than one: then others are about to come."""
        self.waiting: list[Any] = []
        self._busy: dict[Hashable, list[Run]] = {}

    def may_go_alone(self, key: Hashable) -> bool:
        return self.current is None and not self.waiting and not self._is_busy(key)

    def begin(self, run: Run) -> Run:
        self.current = run
        self.mark(run)
        return run

    def mark(self, run: Run) -> None:
        """The keys of *run* are under way; once each."""
        for key in run.keys:
            self._busy.setdefault(key, []).append(run)

    def end(self, run: Run, left: Container[Hashable] = ()) -> None:
        """*run* has come to its end, but for the keys of what it has *left*: see `free`."""
        if self.current is run:
            self.current = None
        for key in run.keys:
            if key not in left:
                self.free(key, run)

    def renew(self, key: Hashable, run: Run) -> Run:
        """The next call of those that *run* left of a key begins: what that one takes counts, not those before it."""
        self.free(key, run)
        run = Run([key])
        self.mark(run)
        return run

    def free(self, key: Hashable, run: Run) -> None:
        """What *run* left of a key is done."""
        runs = self._busy.get(key, [])
        if run in runs:
            runs.remove(run)
        if not runs:
            self._busy.pop(key, None)

    def overtake(self) -> None:
        """Wait no longer for what is under way, if that is for long enough."""
        if (
            self.current is not None
            and self._patience is not None
            and time.monotonic() - self.current.since >= self._patience
        ):
            self.current = None

    def batch_may_go(self) -> bool:
        return self.current is None and any(not self._is_busy(waiting.key) for waiting in self.waiting)

    def take(self) -> list[Any]:
        """Take as many as fit one batch out of those that wait, in the order in which they came."""
        batch: list[Any] = []
        rest: list[Any] = []
        for waiting in self.waiting:
            fits = len(batch) < _LARGEST_BATCH and not self._is_busy(waiting.key)
            (batch if fits else rest).append(waiting)
        self.waiting = rest
        self.crowded = len(batch) > 1
        return batch

    def _is_busy(self, key: Hashable) -> bool:
        runs = self._busy.get(key)
        if not runs:
            return False
        if self._patience is None or len(runs) >= _MOST_OF_ONE_KEY:
            return True
        return time.monotonic() - runs[-1].since < _PATIENCE_WITHIN_KEY


def too_late(call: Call, *, under_way: bool) -> UnavailableError | CommitUnknownError:
    """The error of a call that leaves its batch at its deadline, while that is *under way* or before."""
    call.given_up = True
    return out_of_time(call.unsettled or (under_way and call.mode is not Mode.READ))


W = TypeVar("W", bound=Waiting)


def keys_of(batch: "Iterable[Waiting]") -> list[Hashable]:
    """Each key of a batch once, in order."""
    return list(dict.fromkeys(waiting.key for waiting in batch))


def left_of(batch: Sequence[W], results: Sequence[Any]) -> dict[Hashable, list[W]]:
    """What has to be run by itself, by key: those with the same one go in the order in which they came."""
    left: dict[Hashable, list[W]] = {}
    for waiting, result in zip(batch, results, strict=True):
        if result is None:
            left.setdefault(waiting.key, []).append(waiting)
    return left


def unknown(batch: "Sequence[Waiting]") -> list[Any]:
    """The results if it is not known what was done: each call finds out by itself, as on any second try."""
    for waiting in batch:
        waiting.call.attempt += 1
        waiting.call.unsettled = waiting.call.mode is not Mode.READ
    return [None] * len(batch)


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
    # Behind one that has to go by itself all with its key do, to stay behind it.
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
        waiting = _WaitingThread(call, key)
        # Ctrl-C may come at the beginning of any function: what is to be ended is known before it begins.
        run, alone, queued = Run([key]), False, False
        early: BaseException | None = None
        try:
            with self._lock:
                alone = self._schedule.may_go_alone(key)
                if alone:
                    self._schedule.begin(run)
                else:
                    queued = True
                    self._schedule.waiting.append(waiting)
            if alone:
                return self._alone(call)
            self._start()
        except BaseException as exc:
            # Somebody may have taken it into a batch already, as the first perhaps.
            if not queued or self._take_back(waiting):
                raise
            early = exc
        finally:
            if alone:
                try:
                    self._end(run)
                except BaseException:
                    self._end(run)
                    raise
        interrupt = self._see_through(waiting) or early
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
        """Those with the same key that go after it, if all were left."""
        self.result: Any = None
        self.error: BaseException | None = None
