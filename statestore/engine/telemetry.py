"""What a store tells of its operations: to hooks, and to the log. Names, counts and durations, never content."""

import inspect
import logging
import math
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, lru_cache, partial
from operator import attrgetter
from types import UnionType
from typing import Any, TypeAlias, get_args, get_origin

from statestore.engine.calls import Call, Mode, ModelCalls, mode_of
from statestore.errors import InvalidValueError, StateStoreError
from statestore.values.operations import Operation

Hook: TypeAlias = Callable[[Operation], Any]

_log = logging.getLogger("statestore")

TRANSACTION = "transaction"
BEGIN = "the beginning of a transaction"
# Seconds. A restart ends all connections at once, and each is noticed when somebody comes to it.
_OUTAGE = 5.0
# What is public comes back as one of these.
_VALUES = "statestore.values."
_NO_MODEL_CALLS: ModelCalls = (None, ())
_REASONS = {"40P01": "a deadlock", "40001": "a serialization failure"}


class Outcome:
    """What is known of an operation when it has ended."""

    __slots__ = ("attempts", "result")

    def __init__(self) -> None:
        self.attempts = 1
        self.result: Any = None

    def tries_again(self, error: StateStoreError, pause: float) -> None:
        """A transaction was undone, and is tried again after a pause."""
        self.attempts += 1
        tell_retry(TRANSACTION, error, attempt=self.attempts, pause=pause)


class Telemetry:
    """The hooks of one store, and what they are told."""

    def __init__(self, namespace: str, slow_call: float | None = None) -> None:
        self.watchers: dict[object, Hook] = {}
        """Who wants to hear of operations. While it is empty, nothing is measured."""
        self.batches: dict[str, tuple[int, int]] = {}
        """How many batches there were, and how many calls in them, by operation."""
        self._namespace = namespace
        self._failed: set[object] = set()
        self._telling = threading.local()
        if slow_call is not None:
            self.watchers[self] = partial(_tell_if_slow, slow_call)

    def subscribe(self, hook: Hook) -> Callable[[], None]:
        """See `StateStore.on_operation`."""
        given: Any = hook
        if not callable(given) or inspect.iscoroutinefunction(hook):
            raise InvalidValueError("hook", "must be a plain function that takes an Operation; it is not awaited")
        token = object()
        self.watchers[token] = hook

        def unsubscribe() -> None:
            self.watchers.pop(token, None)

        return unsubscribe

    def note_batch(self, name: str, calls: int) -> None:
        """So many calls were carried out together. Counted always: beside what a batch costs it is nothing."""
        batches, total = self.batches.get(name, (0, 0))
        self.batches[name] = (batches + 1, total + calls)

    @contextmanager
    def watching(self, call: Call) -> Iterator[Outcome]:
        """Tell of a call that is run in the block, which leaves its result in the outcome."""
        outcome = Outcome()
        error: str | None = None
        call.watched = True
        began = time.perf_counter()
        try:
            yield outcome
        except BaseException as exc:
            error = type(exc).__name__
            raise
        finally:
            duration = time.perf_counter() - began
            rows = None if error else _rows(call.method)(outcome.result)
            find = None if error else getattr(call.method, "model_calls", None)
            stored = _NO_MODEL_CALLS if find is None else find(call, outcome.result)
            self._tell(call.name, duration, call.attempt, rows, error, stored)

    def watched(self, runner: Any) -> Any:
        """The *runner* of a transaction; if there are hooks, each of its calls is reported to them by itself."""
        return _WatchedRunner(runner, self) if self.watchers else runner

    def watched_async(self, runner: Any) -> Any:
        """As `watched`, awaited."""
        return _AsyncWatchedRunner(runner, self) if self.watchers else runner

    @contextmanager
    def transaction(self) -> Iterator[Outcome]:
        """Tell of a transaction that is run in the block, which counts its attempts in the outcome."""
        outcome = Outcome()
        error: str | None = None
        began = time.perf_counter()
        try:
            yield outcome
        except BaseException as exc:
            error = type(exc).__name__
            raise
        finally:
            self._tell(TRANSACTION, time.perf_counter() - began, outcome.attempts, None, error)

    def _tell(
        self,
        name: str,
        duration: float,
        attempts: int,
        rows: int | None,
        error: str | None,
        stored: ModelCalls = _NO_MODEL_CALLS,
    ) -> None:
        # A hook that calls the store is not told of its own calls, or it would never come to an end.
        if not self.watchers or getattr(self._telling, "now", False):
            return
        session_id, model_calls = stored
        operation = Operation(
            name=name,
            namespace=self._namespace,
            duration=duration,
            attempts=attempts,
            rows=rows,
            error=error,
            session_id=session_id if model_calls else None,
            model_calls=model_calls,
        )
        self._telling.now = True
        try:
            for token, hook in self.watchers.copy().items():  # Hooks come and go in other threads.
                try:
                    hook(operation)
                except Exception as exc:
                    self._has_failed(token, exc)
        finally:
            self._telling.now = False

    def _has_failed(self, token: object, exc: Exception) -> None:
        if token not in self._failed:
            self._failed.add(token)
            # Without what it was raised during: the operation's own error, which may name a session.
            shown = "".join(traceback.format_exception(exc, chain=False))
            _log.warning("an on_operation hook failed; this is logged once, operations are not affected\n%s", shown)


class _WatchedRunner:
    """A `Runner`; see `Telemetry.watched`."""

    def __init__(self, runner: Any, telemetry: Telemetry) -> None:
        self._runner = runner
        self._telemetry = telemetry

    def run(self, call: Call) -> Any:
        with self._telemetry.watching(call) as outcome:
            outcome.result = self._runner.run(call)
        return outcome.result


class _AsyncWatchedRunner:
    """As `_WatchedRunner`, awaited."""

    def __init__(self, runner: Any, telemetry: Telemetry) -> None:
        self._runner = runner
        self._telemetry = telemetry

    async def run(self, call: Call) -> Any:
        with self._telemetry.watching(call) as outcome:
            outcome.result = await self._runner.run(call)
        return outcome.result


class LossLog:
    """Tells of lost connections, once for all that one outage takes."""

    def __init__(self) -> None:
        self._latest = -math.inf

    def note(self, error: StateStoreError | None = None) -> None:
        now = time.monotonic()
        known = now - self._latest < _OUTAGE
        self._latest = now
        if not known:
            reason = "it was closed while it was idle" if error is None else _reason(error)
            _log.warning("a connection to the database was lost (%s); the next call opens a new one", reason)


@lru_cache(maxsize=1000)
def warn_once(message: str, *details: object) -> None:
    """Log a warning, once in a process: of what is wrong, but not the fault of a call that comes upon it."""
    _log.warning(message, *details)


def tell_retry(name: str, error: StateStoreError, *, attempt: int, pause: float) -> None:
    """Log that an operation failed for a reason that may pass, and is tried again after a pause."""
    _log.info("%s failed (%s); attempt %d follows in %.3f seconds", name, _reason(error), attempt, pause)


def tell_undone(name: str, error: StateStoreError) -> None:
    """An operation inside a transaction failed. What loses against others is told, since its caller may retry it."""
    if getattr(error, "code", None) in _REASONS:
        _log.info("%s failed (%s), and its transaction is undone", name, _reason(error))


def tell_batch(name: str, size: int, error: StateStoreError) -> None:
    """Calls that travelled together failed, and each is tried by itself."""
    _log.info("a batch of %d calls of %s failed (%s); retrying each one separately", size, name, _reason(error))


def _reason(error: StateStoreError) -> str:
    code = getattr(error, "code", None)
    parts = [type(error).__name__, *([code] if code else []), *([_REASONS[code]] if code in _REASONS else [])]
    return ", ".join(parts)


def _tell_if_slow(slow_call: float, operation: Operation) -> None:
    if operation.duration >= slow_call:
        _log.warning(
            "%s was slow: %.3f seconds in %d attempt(s); slow_call is %g",
            operation.name,
            operation.duration,
            operation.attempts,
            slow_call,
        )


@cache
def _rows(method: Callable[..., Any]) -> Callable[[Any], int | None]:
    """How the rows of an operation are counted in its result, by what it is declared to return.

    Not by what it did return: that may be a caller's own value, which happens to be a list or a number.
    """
    counted: Callable[[Any], int | None] | None = getattr(method, "rows", None)
    if counted is not None:
        return counted
    declared = method.__annotations__.get("return")
    if isinstance(declared, UnionType):
        kinds = [kind for kind in get_args(declared) if kind is not type(None)]
        declared = kinds[0] if len(kinds) == 1 else None
    kind = get_origin(declared) or declared
    if not isinstance(kind, type) or kind is Any:
        return _unknown
    if issubclass(kind, int):
        return _unknown if mode_of(method) in (Mode.READ, Mode.SNAPSHOT) else int
    if issubclass(kind, list | dict):
        return len
    if hasattr(kind, "rows"):
        return attrgetter("rows")
    return _one if kind.__module__.startswith(_VALUES) else _unknown


def _unknown(_: Any) -> None:
    return None


def _one(result: Any) -> int:
    return 0 if result is None else 1
