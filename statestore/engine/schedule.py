"""Which calls that wait go next, and which of them as a batch; see `batching`."""

import time
from collections.abc import Container, Hashable, Iterable, Sequence
from typing import Any, Protocol, TypeVar

from statestore.engine.calls import Call, Mode
from statestore.engine.waits import out_of_time
from statestore.errors import CommitUnknownError, UnavailableError

_LARGEST_BATCH = 64
# Seconds: far longer than a batch takes when nobody waits for a lock, and shorter than a caller would notice.
PATIENCE = 0.02
# Seconds. On a database that works, a call that takes longer is most likely waiting for a lock, as the calls behind it
# would; so only a few calls with one key overtake each other, and the other connections stay free.
_PATIENCE_WITHIN_KEY = 1.0
_MOST_OF_ONE_KEY = 3


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
            runs = self._busy.setdefault(key, [])
            if run not in runs:
                runs.append(run)

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
        """Stop waiting for what is under way once it has been under way for longer than the patience."""
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
        crowded = len(batch) > 1
        # No call from here on: a signal handler that raises behind one would lose the batch.
        self.waiting, self.crowded = rest, crowded
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
