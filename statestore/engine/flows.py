"""Flows: what takes several calls, waits or computes, written once as a generator and carried out in either world.

A flow yields *steps*, what it waits for, and is sent what came of each; what a step raises is raised where it was
yielded. `run` carries a flow out in the calling thread, `run_async` in the event loop.
"""

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Generator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from functools import wraps
from inspect import isawaitable
from types import TracebackType
from typing import Any, Generic, ParamSpec, Protocol, TypeAlias, TypeVar

from statestore.engine import waits
from statestore.engine.async_database import AsyncRunner, finished
from statestore.engine.calls import Call, NamespaceCall
from statestore.engine.database import Database, Runner
from statestore.engine.threaded_database import ThreadedDatabase
from statestore.errors import StateStoreError

T = TypeVar("T")
R = TypeVar("R")

# Seconds that a task which was cancelled waits for what it had begun to be undone.
_LONGEST_FAREWELL = 0.5


@dataclass(frozen=True, slots=True)
class Sleep:
    seconds: float


@dataclass(frozen=True, slots=True)
class Do:
    """Call a function that is the caller's, or is particular to sync or async; an awaitable result is awaited."""

    function: Callable[[], Any]


@dataclass(frozen=True, slots=True)
class Undoable:
    """A call whose result must not get lost: if its task is cancelled meanwhile, *undo* says what undoes it."""

    call: Call
    undo: Callable[[Any], Call | None]


@dataclass(frozen=True, slots=True)
class NewSignal:
    """Gives a `Signal` of the world at hand: for one who waits, or a *shared* one for several."""

    shared: bool = False


class Signal(Protocol):
    """Tells those who wait for it, of any thread, that something has happened."""

    def set(self) -> None: ...
    def clear(self) -> None: ...
    def wait(self, seconds: float, /) -> Any:
        """Whether it was set in time, or an awaitable of that. Flows yield `Wait`."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Wait for a signal, for at most so many seconds. The flow receives whether it was set."""

    signal: Signal
    seconds: float


@dataclass(frozen=True, slots=True)
class Start:
    """Carry out another flow in the background, in a thread or a task. Gives what `Join` takes."""

    flow: Callable[[], "Flow[None]"]
    name: str


@dataclass(frozen=True, slots=True)
class Join:
    """Wait for the end of what was started."""

    started: Any


@dataclass(frozen=True, slots=True)
class Item(Generic[T]):
    """What a stream passes on."""

    value: T


@dataclass(frozen=True, slots=True)
class Enter(Generic[T]):
    """Where the caller's block runs, with a value. What it raises is raised here."""

    value: T


Step: TypeAlias = Call | Sleep | Do | Undoable | NewSignal | Wait | Start | Join

Flow: TypeAlias = Generator[Step, Any, R]
Stream: TypeAlias = Generator[Step | Item[T], Any, None]
Block: TypeAlias = Generator[Step | Enter[T], Any, None]


def run(runner: Runner, flow: Flow[R]) -> R:
    """Carry out *flow* to its end, and return what it returns. Ctrl-C is raised inside it, so that it can clean up."""
    steps = _Steps[R](flow)
    while (step := steps.next()) is not None:
        _carry_out(runner, steps, step)
    return steps.result


def iterate(runner: Runner, stream: Stream[T]) -> Iterator[T]:
    """Pass on the items of *stream*."""
    steps = _Steps[None](stream)
    try:
        while (step := steps.next()) is not None:
            if isinstance(step, Item):
                yield step.value
            else:
                _carry_out(runner, steps, step)
    finally:
        stream.close()


@contextmanager
def inside(runner: Runner, block: Block[T]) -> Iterator[T]:
    """A context manager that enters where *block* does, and goes on with it at the end."""
    steps = _Steps[None](block)
    while not isinstance(step := steps.next(), Enter):
        _carry_out(runner, steps, step)
    try:
        yield step.value
    except BaseException as exc:
        steps.failure = exc
    while (step := steps.next()) is not None:
        _carry_out(runner, steps, step)


async def run_async(runner: AsyncRunner, flow: Flow[R], *, in_thread: bool = False) -> R:
    """As `run`, awaited. What a flow still does once it was cancelled is done to its end.

    Args:
        runner: What runs the calls.
        flow: The work.
        in_thread: What lies between two steps takes long enough, or waits for files, to be done in a worker thread.
    """
    steps = _Steps[R](flow)
    while True:
        # To its end, also when cancelled: nobody else may use what the step is working with, its files for example.
        step = await finished(asyncio.to_thread(steps.next)) if in_thread else steps.next()
        if step is None:
            return steps.result
        await _carry_out_async(runner, steps, step)


async def iterate_async(runner: AsyncRunner, stream: Stream[T]) -> AsyncGenerator[T, None]:
    """As `iterate`, awaited."""
    steps = _Steps[None](stream)
    try:
        while (step := steps.next()) is not None:
            if isinstance(step, Item):
                yield step.value
            else:
                await _carry_out_async(runner, steps, step)
    finally:
        stream.close()


@asynccontextmanager
async def inside_async(runner: AsyncRunner, block: Block[T]) -> AsyncIterator[T]:
    """As `inside`, awaited."""
    steps = _Steps[None](block)
    while not isinstance(step := steps.next(), Enter):
        await _carry_out_async(runner, steps, step)
    try:
        yield step.value
    except BaseException as exc:
        steps.failure = exc
    while (step := steps.next()) is not None:
        await _carry_out_async(runner, steps, step)


def within(namespace: str, flow: Flow[R]) -> Flow[R]:
    """*flow*, whose calls are for another namespace than the store's."""
    steps = _Steps[R](flow)
    while (step := steps.next()) is not None:
        if isinstance(step, Call):
            step = NamespaceCall(namespace, step.method, *step.args, **step.kwargs)
        try:
            steps.answer = yield step
        except BaseException as exc:
            steps.failure = exc
    return steps.result


def empty_log(runner: Any) -> Flow[None]:
    """After much was deleted: what SQLite keeps of it in its log goes, as far as nobody needs it.

    The caller's own engine is left to the caller.
    """
    if isinstance(runner, Database | ThreadedDatabase):
        yield Do(runner.empty_log)


class _Steps(Generic[R]):
    """A flow that is under way."""

    result: R

    def __init__(self, flow: Generator[Any, Any, Any]) -> None:
        self._flow = flow
        self.answer: Any = None
        self.failure: BaseException | None = None
        self.interrupted = False
        self._stop: StopIteration | None = None

    def next(self) -> Any:
        """Go on from the answer, or the failure, to the next step; None at the end."""
        failure, self.failure = self.failure, None
        if isinstance(failure, StopIteration):
            self._stop = failure
        try:
            return self._flow.send(self.answer) if failure is None else self._flow.throw(failure)
        except StopIteration as end:
            self.result = end.value
            return None
        except RuntimeError as error:
            # A generator may not raise StopIteration. What a caller's function or block raised comes out as it was.
            if self._stop is not None and error.__cause__ is self._stop:
                raise self._stop from None
            raise
        finally:
            self.answer = None


def _carry_out(runner: Runner, steps: _Steps[Any], step: Any) -> None:
    try:
        steps.answer = runner.run(step) if isinstance(step, Call) else _done(runner, step)
    except BaseException as exc:
        steps.failure = exc


def _done(runner: Runner, step: Any) -> Any:
    match step:
        case Do():
            return step.function()
        case Undoable():
            return runner.run(step.call)
        case Sleep():
            return time.sleep(step.seconds)
        case NewSignal():
            return waits.SharedSignal() if step.shared else waits.Signal()
        case Wait():
            return step.signal.wait(step.seconds)
        case Start():
            thread = threading.Thread(target=lambda: run(runner, step.flow()), name=step.name, daemon=True)
            thread.start()
            return thread
        case Join():
            return step.started.join()
    raise AssertionError(f"{step!r} is not a step")


async def _carry_out_async(runner: AsyncRunner, steps: _Steps[Any], step: Any) -> None:
    try:
        work = runner.run(step) if isinstance(step, Call) else _done_async(runner, step)
        steps.answer = await (finished(work) if steps.interrupted else work)
    except Exception as exc:
        steps.failure = exc
    except BaseException as exc:
        steps.interrupted = True
        steps.failure = exc


async def _done_async(runner: AsyncRunner, step: Any) -> Any:
    match step:
        case Do():
            result = step.function()
            return await result if isawaitable(result) else result
        case Undoable():
            return await _undone_if_cancelled(runner, step)
        case Sleep():
            return await asyncio.sleep(step.seconds)
        case NewSignal():
            return _AsyncSignal()
        case Wait():
            return await step.signal.wait(step.seconds)
        case Start():
            return asyncio.create_task(run_async(runner, step.flow()), name=step.name)
        case Join():
            return await step.started
    raise AssertionError(f"{step!r} is not a step")


class _AsyncSignal:
    """An event of the event loop that runs now. May be set from any thread."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()

    def set(self) -> None:
        if threading.get_ident() == self._thread:
            self._event.set()
            return
        with suppress(RuntimeError):  # The loop is closed, and nobody waits in it.
            self._loop.call_soon_threadsafe(self._event.set)

    def clear(self) -> None:
        self._event.clear()

    async def wait(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                return await self._event.wait()
        except TimeoutError:
            return False


# asyncio itself does not hold on to its tasks.
_undoing: set["asyncio.Task[None]"] = set()


async def _undone_if_cancelled(runner: AsyncRunner, step: Undoable) -> Any:
    calling = asyncio.ensure_future(runner.run(step.call))
    try:
        return await asyncio.shield(calling)
    except asyncio.CancelledError:
        undoing = asyncio.ensure_future(_undone(runner, calling, step.undo))
        _undoing.add(undoing)
        undoing.add_done_callback(_undoing.discard)
        # Behind a lock it may take longer than a cancelled task should; then it goes on without it.
        await finished(asyncio.wait([undoing], timeout=_LONGEST_FAREWELL))
        raise


async def _undone(runner: AsyncRunner, calling: "asyncio.Future[Any]", undo: Callable[[Any], Call | None]) -> None:
    with suppress(StateStoreError):
        call = undo(await calling)
        if call is not None:
            await runner.run(call)


P = ParamSpec("P")
M = TypeVar("M", bound=AbstractAsyncContextManager[Any, Any])


class Entering(Coroutine[Any, Any, M], Generic[M]):
    """An async context manager that is on its way: await it to have it, or enter it at once."""

    __slots__ = ("_coming", "_entered")

    def __init__(self, coming: Coroutine[Any, Any, M]) -> None:
        self._coming = coming

    def __await__(self) -> Generator[Any, Any, M]:
        return self._coming.__await__()

    # A coroutine, and no mere awaitable, since asyncio.create_task takes nothing else.
    def send(self, value: Any) -> Any:
        return self._coming.send(value)

    def throw(self, *exc: Any) -> Any:
        return self._coming.throw(*exc)

    def close(self) -> None:
        self._coming.close()

    async def __aenter__(self) -> M:
        self._entered = await self._coming
        await self._entered.__aenter__()
        return self._entered

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._entered.__aexit__(kind, exc, traceback)


def entering(method: Callable[P, Coroutine[Any, Any, M]]) -> Callable[P, Entering[M]]:
    """Let what a coroutine function returns be entered without being awaited before."""

    @wraps(method)
    def call(*args: P.args, **kwargs: P.kwargs) -> Entering[M]:
        return Entering(method(*args, **kwargs))

    return call
