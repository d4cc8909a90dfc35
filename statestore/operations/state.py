"""Operations on the state of a session."""

from statestore.operations.base import AsyncGroup, Group, Operations, operation
from statestore.repositories.state.repository import StateRepository


class StateOperations(Operations):
    set = operation(StateRepository.set)
    set_many = operation(StateRepository.set_many)
    get = operation(StateRepository.get)
    entry = operation(StateRepository.entry)
    get_all = operation(StateRepository.get_all)
    increment = operation(StateRepository.increment)
    delete = operation(StateRepository.delete)
    clear = operation(StateRepository.clear)


class State(StateOperations, Group):
    """The key-value state of a session: `store.state`."""


class AsyncState(StateOperations, AsyncGroup):
    """As `State`, awaited."""
