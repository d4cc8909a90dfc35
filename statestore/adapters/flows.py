"""Work that is written once for both kinds of store: a generator that yields calls, and gets their results."""

from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Iterator
from functools import update_wrapper
from inspect import isawaitable, signature
from operator import attrgetter
from types import FunctionType, NoneType
from typing import Any, Concatenate, Generic, NamedTuple, ParamSpec, TypeAlias, TypeVar, cast, get_args
from weakref import WeakSet

from statestore import LazyStore, Session, StateStore, StateStoreError

M = TypeVar("M", bound=Callable[..., Any])
P = ParamSpec("P")
S = TypeVar("S", bound="OnStore")
T = TypeVar("T")

Flow: TypeAlias = Generator[Any, Any, T]
"""Yields calls that are made of `store`."""

Stream: TypeAlias = Generator[Any, Any, None]
"""A flow that also yields lists of what it has found so far."""


class _Call(NamedTuple):
    group: str
    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def on(self, opened: Any) -> Any:
        return getattr(getattr(opened, self.group), self.name)(*self.args, **self.kwargs)


class _Group:
    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, name: str) -> Callable[..., _Call]:
        return lambda *args, **kwargs: _Call(self._name, name, args, kwargs)


class _Calls:
    def __getattr__(self, name: str) -> _Group:
        return _Group(name)


store = cast(StateStore, _Calls())
"""Stands for the store on which a flow runs: `found = yield store.state.get_many(…)`."""


class Together(NamedTuple):
    """What a flow yields for another one to run in a transaction: `yield Together(lambda: flow(…))`."""

    flow: Callable[[], Flow[Any]]

    def on(self, opened: Any) -> Any:
        drive = run if isinstance(opened, StateStore) else arun
        return opened.run_transaction(lambda tx: drive(tx, self.flow()))


class OnStore:
    """What runs flows on a store that is opened at first use."""

    __slots__ = ()
    _store: LazyStore

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Name the methods that run flows as the class does: `put`, and not `_put`, as the flow is called."""
        super().__init_subclass__(**kwargs)
        for name, member in vars(cls).items():
            method = member.fget if isinstance(member, property) else member
            if isinstance(method, FunctionType) and method in _unnamed:
                method.__name__, method.__qualname__ = name, f"{cls.__qualname__}.{name}"
                _unnamed.remove(method)

    def close(self) -> None:
        """Close what was opened here. A store that was given stays open; a later use opens again what was closed."""
        self._store.close()

    async def aclose(self) -> None:
        """As `close`, with what was opened for this event loop."""
        await self._store.aclose()


_unnamed: WeakSet[FunctionType] = WeakSet()
"""Methods that run flows, until their class is made."""


def _shown_as(flow: Callable[..., Any], result: Any = None) -> Callable[[M], M]:
    """Give a method what help and type hints show of its flow, with *result*, or with what the flow returns."""

    def show(method: M) -> M:
        update_wrapper(method, flow)
        hints = dict(flow.__annotations__)
        if "return" in hints:
            returned = result or get_args(hints["return"])[-1]
            hints["return"] = None if returned is NoneType else returned
            shown = signature(flow).replace(return_annotation=hints["return"])
            method.__signature__ = shown  # type: ignore[attr-defined]
        method.__annotations__ = hints  # Not the dictionary of the flow, which keeps its own.
        _unnamed.add(cast(FunctionType, method))
        return method

    return show


def called(flow: Callable[Concatenate[S, P], Flow[T]]) -> Callable[Concatenate[S, P], T]:
    """The method that runs a flow."""

    @_shown_as(flow)
    def method(self: S, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return run(self._store.sync(), flow(self, *args, **kwargs))

    return method


def awaited(flow: Callable[Concatenate[S, P], Flow[T]]) -> Callable[Concatenate[S, P], Coroutine[Any, Any, T]]:
    """The same for coroutines."""

    @_shown_as(flow)
    async def method(self: S, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await arun(await self._store.here(), flow(self, *args, **kwargs))

    return method


def iterated(stream: Callable[Concatenate[S, P], Stream]) -> Callable[Concatenate[S, P], Iterator[Any]]:
    """The method that yields what a stream finds."""

    @_shown_as(stream, Iterator[Any])
    def method(self: S, /, *args: P.args, **kwargs: P.kwargs) -> Iterator[Any]:
        opened, steps = self._store.sync(), _Steps(stream(self, *args, **kwargs))
        while (step := steps.next()) is not None:
            if isinstance(step, list):
                yield from step
            else:
                with steps:
                    steps.result = step.on(opened)

    return method


def async_iterated(stream: Callable[Concatenate[S, P], Stream]) -> Callable[Concatenate[S, P], AsyncIterator[Any]]:
    """The same for coroutines."""

    @_shown_as(stream, AsyncIterator[Any])
    async def method(self: S, /, *args: P.args, **kwargs: P.kwargs) -> AsyncIterator[Any]:
        opened, steps = await self._store.here(), _Steps(stream(self, *args, **kwargs))
        while (step := steps.next()) is not None:
            if isinstance(step, list):
                for found in step:
                    yield found
            else:
                with steps:
                    steps.result = await step.on(opened)

    return method


def run(opened: Any, flow: Flow[T]) -> T:
    """Run a flow on a store, or on a transaction."""
    steps = _Steps(flow)
    while (step := steps.next()) is not None:
        with steps:
            steps.result = step.on(opened)
    return steps.returned


async def arun(opened: Any, flow: Flow[T]) -> T:
    """The same for coroutines."""
    steps = _Steps(flow)
    while (step := steps.next()) is not None:
        with steps:
            result = step.on(opened)  # Of what needs no database, such as `make_key`, it is what it is.
            steps.result = await result if isawaitable(result) else result
    return steps.returned


class _Steps(Generic[T]):
    """A flow step by step. What its last call came to is told it: `result`, or an error of the store."""

    returned: T

    def __init__(self, flow: Flow[T]) -> None:
        self._flow = flow
        self._error: StateStoreError | None = None
        self.result: Any = None

    def next(self) -> Any:
        """The next step; None at the end."""
        result, error = self.result, self._error
        self.result = self._error = None
        try:
            return self._flow.send(result) if error is None else self._flow.throw(error)
        except StopIteration as done:
            self.returned = done.value
            return None

    def __enter__(self) -> None:
        """Call."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> bool:
        if isinstance(error, StateStoreError):
            self._error = error
        return self._error is not None


def all_sessions(*, limit: int | None = None, **conditions: Any) -> Flow[list[Session]]:
    """The sessions that meet conditions of `sessions.page`, all of them or the first *limit*."""
    return _all(lambda session: session, limit, conditions)


def all_ids(**conditions: Any) -> Flow[list[str]]:
    """The ids of all these sessions, of which no more than a page is held at once."""
    return _all(attrgetter("session_id"), None, conditions)


def _all(keep: Callable[[Session], T], limit: int | None, conditions: dict[str, Any]) -> Flow[list[T]]:
    found: list[T] = []
    cursor = None
    while limit is None or len(found) < limit:
        size = _PAGE if limit is None else min(limit - len(found), _PAGE)
        page = yield store.sessions.page(limit=size, cursor=cursor, **conditions)
        found += map(keep, page.sessions)
        cursor = page.next_cursor
        del page  # It would be held while the next one is read.
        if cursor is None:
            break
    return found


_PAGE = 1000
