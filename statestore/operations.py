"""From repository methods to the operations of a store, in both worlds, one line each.

`append = operation(HistoryRepository.append)` in a sync group, `append = async_operation(HistoryRepository.append)` in
an async one. A type checker sees the method's own parameters in both, and a coroutine in the second; a test holds the
lists against the repositories.
"""

from collections.abc import Callable, Coroutine
from functools import update_wrapper
from inspect import Parameter, signature
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, overload

from statestore import checks, ids
from statestore.database import AsyncRunner, Runner
from statestore.errors import InvalidValueError
from statestore.repositories.base import Call, Repository
from statestore.repositories.history import HistoryRepository
from statestore.repositories.sessions import SessionsRepository
from statestore.repositories.state import StateRepository

P = ParamSpec("P")
R = TypeVar("R")


class Group:
    """Operations that go through one runner."""

    repository: type[Repository]

    def __init__(self, runner: Runner, namespace: str) -> None:
        self._runner = runner
        self._namespace = namespace


class AsyncGroup:
    """As `Group`, awaited."""

    repository: type[Repository]

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
        run, repository, method = group._runner.run, group.repository, self.method

        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            result: R = run(Call(repository, method, args, kwargs))
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
        run, repository, method = group._runner.run, group.repository, self.method

        async def call(*args: P.args, **kwargs: P.kwargs) -> R:
            result: R = await run(Call(repository, method, args, kwargs))
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


def _derive_id(namespace: str, parts: tuple[str, ...]) -> str:
    if not parts:
        raise InvalidValueError("parts", "must name at least one part")
    return ids.derive(namespace, *(checks.key(part, "parts") for part in parts))


class Sessions(Group):
    repository = SessionsRepository

    create = operation(SessionsRepository.create)
    open = operation(SessionsRepository.open)
    get = operation(SessionsRepository.get)
    find = operation(SessionsRepository.find)
    exists = operation(SessionsRepository.exists)
    page = operation(SessionsRepository.page)
    count = operation(SessionsRepository.count)
    update = operation(SessionsRepository.update)
    merge_metadata = operation(SessionsRepository.merge_metadata)
    touch = operation(SessionsRepository.touch)
    fork = operation(SessionsRepository.fork)
    lineage = operation(SessionsRepository.lineage)
    delete = operation(SessionsRepository.delete)
    delete_user = operation(SessionsRepository.delete_user)

    def derive_id(self, *parts: str) -> str:
        """A stable id: the same parts give the same id in this namespace, on every host. Asks no database."""
        return _derive_id(self._namespace, parts)


class AsyncSessions(AsyncGroup):
    repository = SessionsRepository

    create = async_operation(SessionsRepository.create)
    open = async_operation(SessionsRepository.open)
    get = async_operation(SessionsRepository.get)
    find = async_operation(SessionsRepository.find)
    exists = async_operation(SessionsRepository.exists)
    page = async_operation(SessionsRepository.page)
    count = async_operation(SessionsRepository.count)
    update = async_operation(SessionsRepository.update)
    merge_metadata = async_operation(SessionsRepository.merge_metadata)
    touch = async_operation(SessionsRepository.touch)
    fork = async_operation(SessionsRepository.fork)
    lineage = async_operation(SessionsRepository.lineage)
    delete = async_operation(SessionsRepository.delete)
    delete_user = async_operation(SessionsRepository.delete_user)

    def derive_id(self, *parts: str) -> str:
        """A stable id: the same parts give the same id in this namespace, on every host. Not a coroutine."""
        return _derive_id(self._namespace, parts)


class History(Group):
    repository = HistoryRepository

    append = operation(HistoryRepository.append)
    read = operation(HistoryRepository.read)
    get = operation(HistoryRepository.get)
    count = operation(HistoryRepository.count)
    pop_last = operation(HistoryRepository.pop_last)
    trim = operation(HistoryRepository.trim)
    clear = operation(HistoryRepository.clear)


class AsyncHistory(AsyncGroup):
    repository = HistoryRepository

    append = async_operation(HistoryRepository.append)
    read = async_operation(HistoryRepository.read)
    get = async_operation(HistoryRepository.get)
    count = async_operation(HistoryRepository.count)
    pop_last = async_operation(HistoryRepository.pop_last)
    trim = async_operation(HistoryRepository.trim)
    clear = async_operation(HistoryRepository.clear)


class State(Group):
    repository = StateRepository

    set = operation(StateRepository.set)
    set_many = operation(StateRepository.set_many)
    get = operation(StateRepository.get)
    entry = operation(StateRepository.entry)
    get_all = operation(StateRepository.get_all)
    increment = operation(StateRepository.increment)
    delete = operation(StateRepository.delete)
    clear = operation(StateRepository.clear)


class AsyncState(AsyncGroup):
    repository = StateRepository

    set = async_operation(StateRepository.set)
    set_many = async_operation(StateRepository.set_many)
    get = async_operation(StateRepository.get)
    entry = async_operation(StateRepository.entry)
    get_all = async_operation(StateRepository.get_all)
    increment = async_operation(StateRepository.increment)
    delete = async_operation(StateRepository.delete)
    clear = async_operation(StateRepository.clear)
