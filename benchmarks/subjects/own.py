"""statestore itself, through its public API. Both worlds have the same methods, so that one class serves both."""

from datetime import timedelta
from typing import Any

from benchmarks.subjects.base import Message, SeededSubject
from statestore import AsyncStateStore, StateStore


class Statestore(SeededSubject):
    store: Any

    def open(self, url: str) -> Any:
        self.store = StateStore.open(url)

    def close(self) -> Any:
        return self.store.close()

    def create(self, session_id: str) -> Any:
        return self.store.sessions.create(session_id)

    def append(self, session_id: str, messages: list[Message]) -> Any:
        return self.store.history.append(session_id, messages)

    def read(self, session_id: str, last: int | None = None) -> Any:
        return self.store.history.read(session_id, last=last)

    def get(self, session_id: str, key: str) -> Any:
        return self.store.state.get(session_id, key)

    def set(self, session_id: str, key: str, value: Any) -> Any:
        return self.store.state.set(session_id, key, value)

    def fork(self, source_id: str, fork_id: str) -> Any:
        return self.store.sessions.fork(source_id, fork_id)

    def page(self, user_id: str) -> Any:
        return self.store.sessions.page(user_id=user_id, limit=50)

    def cache_get(self, key: str) -> Any:
        return self.store.cache.get(key)

    def cache_set(self, key: str, value: Any, tags: tuple[str, ...] = ()) -> Any:
        return self.store.cache.set(key, value, ttl=timedelta(hours=1), tags=tags)

    def cache_invalidate_tag(self, tag: str) -> Any:
        return self.store.cache.invalidate_tag(tag)

    def sweep(self) -> Any:
        return self.store.sweep()


class AsyncStatestore(Statestore):
    asynchronous = True

    async def open(self, url: str) -> None:
        self.store = await AsyncStateStore.open(url)
