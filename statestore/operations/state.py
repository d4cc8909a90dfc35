"""Operations on the state of a session."""

from statestore.operations.base import AsyncGroup, Group, async_operation, operation
from statestore.repositories.state.repository import StateRepository


class State(Group):
    set = operation(StateRepository.set)
    set_many = operation(StateRepository.set_many)
    get = operation(StateRepository.get)
    entry = operation(StateRepository.entry)
    get_all = operation(StateRepository.get_all)
    increment = operation(StateRepository.increment)
    delete = operation(StateRepository.delete)
    clear = operation(StateRepository.clear)


class AsyncState(AsyncGroup):
    set = async_operation(StateRepository.set)
    set_many = async_operation(StateRepository.set_many)
    get = async_operation(StateRepository.get)
    entry = async_operation(StateRepository.entry)
    get_all = async_operation(StateRepository.get_all)
    increment = async_operation(StateRepository.increment)
    delete = async_operation(StateRepository.delete)
    clear = async_operation(StateRepository.clear)
