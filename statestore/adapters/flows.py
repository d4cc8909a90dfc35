"""Work that is written once for both kinds of store: a generator that yields calls, and gets their results."""

from collections.abc import AsyncIterator, Callable, Generator, Iterator
from typing import Any, NamedTuple, TypeAlias, TypeVar, cast

from statestore import LazyStore, StateStore, StateStoreError, StoreLike

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

    def on(self, store: Any) -> Any:
        return getattr(getattr(store, self.group), self.name)(*self.args, **self.kwargs)


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


class Runner:
    """Runs flows on a store that is opened at first use."""

    def __init__(self, store: StoreLike) -> None:
        self.lazy = LazyStore.of(store)

    def run(self, flow: Flow[T]) -> T:
        return _run(self.lazy.sync(), flow)

    async def arun(self, flow: Flow[T]) -> T:
        return await _arun(await self.lazy.here(), flow)

    def run_together(self, flow: Flow[T]) -> T:
        """In one transaction."""
        with self.lazy.sync().transaction() as tx:
            return _run(tx, flow)

    async def arun_together(self, flow: Flow[T]) -> T:
        async with (await self.lazy.here()).transaction() as tx:
            return await _arun(tx, flow)

    def stream(self, stream: Stream) -> Iterator[Any]:
        opened, outcome = self.lazy.sync(), _Outcome()
        while (step := outcome.give(stream)) is not None:
            if isinstance(step, list):
                yield from step
            else:
                with outcome:
                    outcome.result = step.on(opened)

    async def astream(self, stream: Stream) -> AsyncIterator[Any]:
        opened, outcome = await self.lazy.here(), _Outcome()
        while (step := outcome.give(stream)) is not None:
            if isinstance(step, list):
                for found in step:
                    yield found
            else:
                with outcome:
                    outcome.result = await step.on(opened)


class _Outcome:
    """What came of the last call of a flow, which is told it: a result, or an error of the store."""

    def __init__(self) -> None:
        self.result: Any = None
        self.error: StateStoreError | None = None

    def __enter__(self) -> None:
        """Call."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> bool:
        if isinstance(error, StateStoreError):
            self.error = error
        return self.error is not None

    def give(self, stream: Stream) -> Any:
        """The next step; None at the end."""
        result, error = self.result, self.error
        self.result = self.error = None
        try:
            return stream.send(result) if error is None else stream.throw(error)
        except StopIteration:
            return None


def _run(opened: Any, flow: Flow[T]) -> T:
    try:
        call = next(flow)
        while True:
            try:
                result = call.on(opened)
            except StateStoreError as error:
                call = flow.throw(error)
            else:
                call = flow.send(result)
    except StopIteration as done:
        return done.value  # type: ignore[no-any-return]


async def _arun(opened: Any, flow: Flow[T]) -> T:
    try:
        call = next(flow)
        while True:
            try:
                result = await call.on(opened)
            except StateStoreError as error:
                call = flow.throw(error)
            else:
                call = flow.send(result)
    except StopIteration as done:
        return done.value  # type: ignore[no-any-return]
