"""From repository methods to the operations of a store, in both worlds, one line each.

`append = operation(HistoryRepository.append)` in a sync group, `append = async_operation(HistoryRepository.append)` in
an async one. A type checker sees the method's own parameters in both, and a coroutine in the second; a test holds the
lists against the repositories.
"""

from collections.abc import Callable, Coroutine
from functools import update_wrapper
from inspect import Parameter, signature
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, overload

from statestore.engine.async_database import AsyncRunner
from statestore.engine.calls import Call
from statestore.engine.database import Runner

P = ParamSpec("P")
R = TypeVar("R")


class Group:
    """Operations that go through one runner."""

    def __init__(self, runner: Runner, namespace: str) -> None:
        self._runner = runner
        self._namespace = namespace


class AsyncGroup:
    """As `Group`, awaited."""

    def __init__(self, runner: AsyncRunner, namespace: str) -> None:
        self._runner = runner
        self._namespace = namespace


class operation(Generic[P, R]):
    """A repository method as an operation of a `Group`."""

    def __init__(self, method: Callable[Concatenate[Any, P], R]) -> None:
        self.method = method
        self.__doc__ = method.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, group: None, owner: type) -> "operation[P, R]": ...
    @overload
    def __get__(self, group: Group, owner: type) -> Callable[P, R]: ...
    def __get__(self, group: Group | None, owner: type) -> "operation[P, R] | Callable[P, R]":
        if group is None:
            return self
        run, method = group._runner.run, self.method

        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            result: R = run(Call(method, args, kwargs))
            return result

        # Found in the instance from now on: this runs once for each group, not for each call.
        group.__dict__[self._name] = _dressed(call, method)
        return call


class async_operation(Generic[P, R]):
    """A repository method as an operation of an `AsyncGroup`."""

    def __init__(self, method: Callable[Concatenate[Any, P], R]) -> None:
        self.method = method
        self.__doc__ = method.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, group: None, owner: type) -> "async_operation[P, R]": ...
    @overload
    def __get__(self, group: AsyncGroup, owner: type) -> Callable[P, Coroutine[Any, Any, R]]: ...
    def __get__(
        self, group: AsyncGroup | None, owner: type
    ) -> "async_operation[P, R] | Callable[P, Coroutine[Any, Any, R]]":
        if group is None:
            return self
        run, method = group._runner.run, self.method

        async def call(*args: P.args, **kwargs: P.kwargs) -> R:
            result: R = await run(Call(method, args, kwargs))
            return result

        group.__dict__[self._name] = _dressed(call, method)
        return call


def _dressed(call: Callable[..., Any], method: Callable[..., Any]) -> Callable[..., Any]:
    """Give *call* the name, docstring and signature of *method*, without its self."""
    update_wrapper(call, method)
    del call.__wrapped__  # type: ignore[attr-defined]
    full = signature(method)
    parameters: list[Parameter] = list(full.parameters.values())[1:]
    call.__signature__ = full.replace(parameters=parameters)  # type: ignore[attr-defined]
    return call
