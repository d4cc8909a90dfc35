"""Operations on the history of a session."""

from statestore.operations.base import AsyncGroup, Group, async_operation, operation
from statestore.repositories.history import HistoryRepository


class History(Group):
    repository = HistoryRepository

    append = operation(HistoryRepository.append)
    read = operation(HistoryRepository.read)
    get = operation(HistoryRepository.get)
    count = operation(HistoryRepository.count)
    window = operation(HistoryRepository.window)
    pop_last = operation(HistoryRepository.pop_last)
    trim = operation(HistoryRepository.trim)
    clear = operation(HistoryRepository.clear)
    add_summary = operation(HistoryRepository.add_summary)
    summaries = operation(HistoryRepository.summaries)


class AsyncHistory(AsyncGroup):
    repository = HistoryRepository

    append = async_operation(HistoryRepository.append)
    read = async_operation(HistoryRepository.read)
    get = async_operation(HistoryRepository.get)
    count = async_operation(HistoryRepository.count)
    window = async_operation(HistoryRepository.window)
    pop_last = async_operation(HistoryRepository.pop_last)
    trim = async_operation(HistoryRepository.trim)
    clear = async_operation(HistoryRepository.clear)
    add_summary = async_operation(HistoryRepository.add_summary)
    summaries = async_operation(HistoryRepository.summaries)
