"""Operations on the history of a session."""

from statestore.operations.base import AsyncGroup, Group, async_operation, operation
from statestore.repositories.history import HistoryRepository


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
