"""From repository methods and flows to the operations of a store: one list for both worlds.

A group of operations is written once, as a class of descriptors, and inherited by two classes: a `Group` calls them,
an `AsyncGroup` awaits them. A type checker sees the same parameters in both, and a coroutine in the second.

    append = operation(HistoryRepository.append)     one call
    @flow                                            several, see `statestore.engine.flows`
    @stream                                          what is iterated over
    @block                                           what is entered
"""

from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from functools import update_wrapper
from inspect import Parameter, signature
from typing import Any, Concatenate, Generic, ParamSpec, Self, TypeVar, overload

from statestore.engine import flows
from statestore.engine.async_database import AsyncRunner
from statestore.engine.calls import Call, belongs_to
from statestore.engine.database import Runner
from statestore.engine.flows import Block, Flow, Stream
from statestore.repositories.base import Repository

P = ParamSpec("P")
R = TypeVar("R")
M = TypeVar("M", bound=Callable[..., Any])


class Operations:
    """Operations that go through one runner."""

    _runner: Any
    _namespace: str


class Group(Operations):
    """Operations that are called."""

    _runner: Runner

    def __init__(self, runner: Runner, namespace: str) -> None:
        self._runner = runner
        self._namespace = namespace


class AsyncGroup(Operations):
    """Operations that are awaited."""

    _runner: AsyncRunner

    def __init__(self, runner: AsyncRunner, namespace: str) -> None:
        self._runner = runner
        self._namespace = namespace


class Declared(Generic[P, R]):
    """A member of a group that is written once for both worlds."""

    def __init__(self, method: Callable[..., Any]) -> None:
        self.method = method
        self.__doc__ = method.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def _keep(self, group: Operations, call: Callable[..., Any]) -> Any:
        """Keep *call* in the group, named and documented: this is done once per group, not once per call."""
        group.__dict__[self._name] = _dressed(call, self.method)
        return call


class operation(Declared[P, R]):
    """A repository method as an operation."""

    def __init__(self, method: Callable[Concatenate[Any, P], R]) -> None:
        super().__init__(method)

    @overload
    def __get__(self, group: None, owner: type) -> Self: ...
    @overload
    def __get__(self, group: Group, owner: type) -> Callable[P, R]: ...
    @overload
    def __get__(self, group: AsyncGroup, owner: type) -> Callable[P, Coroutine[Any, Any, R]]: ...
    def __get__(self, group: Any, owner: type) -> Any:
        if group is None:
            return self
        run, method = group._runner.run, self.method

        def call(*args: Any, **kwargs: Any) -> Any:
            return run(Call(method, args, kwargs))

        async def call_async(*args: Any, **kwargs: Any) -> Any:
            return await run(Call(method, args, kwargs))

        return self._keep(group, call_async if isinstance(group, AsyncGroup) else call)


def owned(
    repository: type[Repository],
    method: Callable[Concatenate[Any, str, P], R],
    owner: str,
    *,
    without: Sequence[str] = (),
) -> operation[Concatenate[str, P], R]:
    """A method that *repository* has inherited, as an operation on what belongs to another kind of owner.

    Args:
        repository: The one whose tables it is run on.
        method: Its first argument names the owner.
        owner: What callers call that argument. Type checkers know no way to say so, and take it by its place only.
        without: Arguments that make no sense for this owner.
    """
    full = signature(method)
    itself, first, *others = full.parameters.values()
    known = [itself, first.replace(name=owner), *(one for one in others if one.name not in without)]

    def call(self: Any, *args: Any, **kwargs: Any) -> R:
        for name in kwargs:
            if name in without or name == first.name:
                raise TypeError(f"{method.__name__}() got an unexpected keyword argument {name!r}")
        if owner in kwargs:
            return method(self, kwargs.pop(owner), *args, **kwargs)
        return method(self, *args, **kwargs)

    update_wrapper(call, method)
    call.__signature__ = full.replace(parameters=known)  # type: ignore[attr-defined]
    call.__doc__ = f"As `state.{method.__name__}`, for *{owner}*: it takes no session, so there is no TTL to extend."
    del call.__wrapped__, call.name  # type: ignore[attr-defined]
    belongs_to(repository, call, repository.group)
    renamed: Any = call
    return operation(renamed)


class flow(Declared[P, R]):
    """A method that returns a flow, as an operation."""

    def __init__(self, method: Callable[Concatenate[Any, P], Flow[R]]) -> None:
        super().__init__(method)

    @overload
    def __get__(self, group: None, owner: type) -> Self: ...
    @overload
    def __get__(self, group: Group, owner: type) -> Callable[P, R]: ...
    @overload
    def __get__(self, group: AsyncGroup, owner: type) -> Callable[P, Coroutine[Any, Any, R]]: ...
    def __get__(self, group: Any, owner: type) -> Any:
        if group is None:
            return self
        method = self.method

        def call(*args: Any, **kwargs: Any) -> Any:
            return flows.run(group._runner, method(group, *args, **kwargs))

        async def call_async(*args: Any, **kwargs: Any) -> Any:
            return await flows.run_async(group._runner, method(group, *args, **kwargs))

        return self._keep(group, call_async if isinstance(group, AsyncGroup) else call)


class stream(Declared[P, R]):
    """A method that returns a stream, as an iterator: `for` in one world, `async for` in the other."""

    def __init__(self, method: Callable[Concatenate[Any, P], Stream[R]]) -> None:
        super().__init__(method)

    @overload
    def __get__(self, group: None, owner: type) -> Self: ...
    @overload
    def __get__(self, group: Group, owner: type) -> Callable[P, Iterator[R]]: ...
    @overload
    def __get__(self, group: AsyncGroup, owner: type) -> Callable[P, AsyncIterator[R]]: ...
    def __get__(self, group: Any, owner: type) -> Any:
        if group is None:
            return self
        method = self.method
        iterate: Callable[..., Any] = flows.iterate_async if isinstance(group, AsyncGroup) else flows.iterate

        def call(*args: Any, **kwargs: Any) -> Any:
            return iterate(group._runner, method(group, *args, **kwargs))

        return self._keep(group, call)


class block(Declared[P, R]):
    """A method that returns a block, as a context manager: `with` in one world, `async with` in the other."""

    def __init__(self, method: Callable[Concatenate[Any, P], Block[R]]) -> None:
        super().__init__(method)

    @overload
    def __get__(self, group: None, owner: type) -> Self: ...
    @overload
    def __get__(self, group: Group, owner: type) -> Callable[P, AbstractContextManager[R]]: ...
    @overload
    def __get__(self, group: AsyncGroup, owner: type) -> Callable[P, AbstractAsyncContextManager[R]]: ...
    def __get__(self, group: Any, owner: type) -> Any:
        if group is None:
            return self
        method = self.method
        inside: Callable[..., Any] = flows.inside_async if isinstance(group, AsyncGroup) else flows.inside

        def call(*args: Any, **kwargs: Any) -> Any:
            return inside(group._runner, method(group, *args, **kwargs))

        return self._keep(group, call)


def documented(method: Callable[..., Any]) -> Callable[[M], M]:
    """Take over the docstring of *method*, which this operation runs."""

    def take(operation: M) -> M:
        operation.__doc__ = method.__doc__
        return operation

    return take


def _dressed(call: Callable[..., Any], method: Callable[..., Any]) -> Callable[..., Any]:
    """Give *call* the name, docstring and signature of *method*, without its self."""
    update_wrapper(call, method)
    del call.__wrapped__  # type: ignore[attr-defined]
    full = signature(method)
    parameters: list[Parameter] = list(full.parameters.values())[1:]
    call.__signature__ = full.replace(parameters=parameters)  # type: ignore[attr-defined]
    return call
