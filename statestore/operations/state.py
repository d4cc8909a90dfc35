"""Operations on the state of a session, of a user and of an agent, and on the lists of a session."""

from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal, overload

from statestore.operations.base import AsyncGroup, Group, Operations, operation, owned
from statestore.repositories.state.lists import ListsRepository
from statestore.repositories.state.repository import AppStateRepository, StateRepository, UserStateRepository
from statestore.values.sessions import NewSession
from statestore.values.state import StateEntry


class StateOperations(Operations):
    set_many = operation(StateRepository.set_many)
    get = operation(StateRepository.get)
    get_many = operation(StateRepository.get_many)
    get_all = operation(StateRepository.get_all)
    get_all_many = operation(StateRepository.get_all_many)
    scopes_many = operation(StateRepository.scopes_many)
    entry = operation(StateRepository.entry)
    entries = operation(StateRepository.entries)
    keys = operation(StateRepository.keys)
    count = operation(StateRepository.count)
    exists = operation(StateRepository.exists)
    increment = operation(StateRepository.increment)
    delete = operation(StateRepository.delete)
    delete_many = operation(StateRepository.delete_many)
    clear = operation(StateRepository.clear)


class State(StateOperations, Group):
    """The key-value state of a session: `store.state`."""

    if TYPE_CHECKING:
        # What it returns depends on only_if, which the descriptor cannot say.
        @overload
        def set(
            self,
            session_id: str,
            key: str,
            value: Any,
            *,
            ttl: timedelta | None = ...,
            expected_version: int | None = ...,
            only_if: None = ...,
            create: bool | NewSession = ...,
        ) -> StateEntry: ...
        @overload
        def set(
            self,
            session_id: str,
            key: str,
            value: Any,
            *,
            ttl: timedelta | None = ...,
            only_if: Literal["missing", "present"],
            create: bool | NewSession = ...,
        ) -> StateEntry | None: ...
        def set(self, *args: Any, **kwargs: Any) -> StateEntry | None: ...
    else:
        set = operation(StateRepository.set)


class AsyncState(StateOperations, AsyncGroup):
    """As `State`, awaited."""

    if TYPE_CHECKING:
        # What it returns depends on only_if, which the descriptor cannot say.
        @overload
        async def set(
            self,
            session_id: str,
            key: str,
            value: Any,
            *,
            ttl: timedelta | None = ...,
            expected_version: int | None = ...,
            only_if: None = ...,
            create: bool | NewSession = ...,
        ) -> StateEntry: ...
        @overload
        async def set(
            self,
            session_id: str,
            key: str,
            value: Any,
            *,
            ttl: timedelta | None = ...,
            only_if: Literal["missing", "present"],
            create: bool | NewSession = ...,
        ) -> StateEntry | None: ...
        async def set(self, *args: Any, **kwargs: Any) -> StateEntry | None: ...
    else:
        set = operation(StateRepository.set)


class UserStateOperations(Operations):
    set = owned(UserStateRepository, StateRepository.set, "user_id", without=["create"])
    set_many = owned(UserStateRepository, StateRepository.set_many, "user_id", without=["create"])
    get = owned(UserStateRepository, StateRepository.get, "user_id")
    get_many = owned(UserStateRepository, StateRepository.get_many, "user_id")
    get_all = owned(UserStateRepository, StateRepository.get_all, "user_id")
    entry = owned(UserStateRepository, StateRepository.entry, "user_id")
    entries = owned(UserStateRepository, StateRepository.entries, "user_id")
    keys = owned(UserStateRepository, StateRepository.keys, "user_id")
    count = owned(UserStateRepository, StateRepository.count, "user_id")
    exists = owned(UserStateRepository, StateRepository.exists, "user_id")
    increment = owned(UserStateRepository, StateRepository.increment, "user_id", without=["create"])
    delete = owned(UserStateRepository, StateRepository.delete, "user_id")
    delete_many = owned(UserStateRepository, StateRepository.delete_many, "user_id")
    clear = owned(UserStateRepository, StateRepository.clear, "user_id")


class UserState(UserStateOperations, Group):
    """The key-value state of a user, which all sessions share: `store.user_state`. Erased by `sessions.delete_user`."""


class AsyncUserState(UserStateOperations, AsyncGroup):
    """As `UserState`, awaited."""


class AppStateOperations(Operations):
    set = operation(AppStateRepository.set)
    set_many = operation(AppStateRepository.set_many)
    get = owned(AppStateRepository, StateRepository.get, "agent_name")
    get_many = owned(AppStateRepository, StateRepository.get_many, "agent_name")
    get_all = owned(AppStateRepository, StateRepository.get_all, "agent_name")
    entry = owned(AppStateRepository, StateRepository.entry, "agent_name")
    entries = owned(AppStateRepository, StateRepository.entries, "agent_name")
    keys = owned(AppStateRepository, StateRepository.keys, "agent_name")
    count = owned(AppStateRepository, StateRepository.count, "agent_name")
    exists = owned(AppStateRepository, StateRepository.exists, "agent_name")
    increment = owned(AppStateRepository, StateRepository.increment, "agent_name", without=["create"])
    delete = owned(AppStateRepository, StateRepository.delete, "agent_name")
    delete_many = owned(AppStateRepository, StateRepository.delete_many, "agent_name")
    clear = owned(AppStateRepository, StateRepository.clear, "agent_name")


class AppState(AppStateOperations, Group):
    """The key-value state of an agent, which all users and sessions share: `store.app_state`."""


class AsyncAppState(AppStateOperations, AsyncGroup):
    """As `AppState`, awaited."""


class ListOperations(Operations):
    append = operation(ListsRepository.append)
    read = operation(ListsRepository.read)
    count = operation(ListsRepository.count)
    names = operation(ListsRepository.names)
    delete = operation(ListsRepository.delete)


class Lists(ListOperations, Group):
    """Named lists of a session, to which values are only added: `store.lists`."""


class AsyncLists(ListOperations, AsyncGroup):
    """As `Lists`, awaited."""
