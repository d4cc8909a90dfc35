"""Operations on the named lists of a session."""

from statestore.operations.base import AsyncGroup, Group, Operations, operation
from statestore.repositories.state.lists import ListsRepository


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
