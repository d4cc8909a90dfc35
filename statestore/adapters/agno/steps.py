"""Operations of several calls, written once: generators that yield each call, and get its result."""

from collections.abc import Callable, Generator
from operator import attrgetter
from typing import Any, TypeAlias, TypeVar

from statestore import LazyStore, StateStoreError

T = TypeVar("T")
Call: TypeAlias = Callable[[Any], Any]
Steps: TypeAlias = Generator[Call, Any, T]


def call(operation: str, *args: Any, **kwargs: Any) -> Call:
    """A call of an operation, such as `sessions.find`, on whichever store it is made."""
    find = attrgetter(operation)
    return lambda store: find(store)(*args, **kwargs)


def run(lazy: LazyStore, steps: Steps[T]) -> T:
    """Make the calls of *steps* on the synchronous store. What a call raises is raised where it was yielded."""
    try:
        step = next(steps)
        store = lazy.sync()
        while True:
            try:
                result = step(store)
            except StateStoreError as error:
                step = steps.throw(error)
            else:
                step = steps.send(result)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]


async def run_async(lazy: LazyStore, steps: Steps[T]) -> T:
    """As `run`, on the asynchronous store."""
    try:
        step = next(steps)
        store = await lazy.here()
        while True:
            try:
                result = await step(store)
            except StateStoreError as error:
                step = steps.throw(error)
            else:
                step = steps.send(result)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]
