"""Operations on sessions."""

from statestore import checks, ids
from statestore.errors import InvalidValueError
from statestore.operations.base import AsyncGroup, Group, async_operation, operation
from statestore.repositories.sessions import SessionsRepository


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


def _derive_id(namespace: str, parts: tuple[str, ...]) -> str:
    if not parts:
        raise InvalidValueError("parts", "must name at least one part")
    return ids.derive(namespace, *(checks.key(part, "parts") for part in parts))
