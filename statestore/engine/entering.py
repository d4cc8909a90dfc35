"""What can be awaited or entered: `await store.open(…)`, and `async with store.open(…) as store`."""

from collections.abc import Callable, Coroutine, Generator
from contextlib import AbstractAsyncContextManager
from functools import wraps
from types import TracebackType
from typing import Any, Generic, ParamSpec, TypeVar

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
