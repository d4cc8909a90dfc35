"""statestore itself, through its public API. Both worlds have the same methods, so that one class serves both."""

import time
from datetime import timedelta
from typing import Any, ClassVar

from benchmarks import data
from benchmarks.subjects.base import Message, SeededSubject
from statestore import AsyncStateStore, StateStore


class Statestore(SeededSubject):
    store: Any
    options: ClassVar[dict[str, Any]] = {}
    """All is measured as it comes, with the defaults."""

    def open(self, url: str) -> Any:
        self.store = StateStore.open(url, **self.options)

    def can(self, verb: str) -> bool:
        needed = {"cache_get": "cache", "cache_set": "cache", "cache_fill": "cache", "cache_expire": "cache"}
        needed |= {"cache_invalidate_tag": "cache", "sweep": "sweep"}
        return hasattr(self, verb) and hasattr(self.store, needed.get(verb, "state"))

    def close(self) -> Any:
        return self.store.close()

    def create(self, session_id: str) -> Any:
        return self.store.sessions.create(session_id)

    def append(self, session_id: str, messages: list[Message]) -> Any:
        return self.store.history.append(session_id, messages)

    def read(self, session_id: str, last: int | None = None) -> Any:
        return self.store.history.read(session_id, last=last)

    def messages(self, session_id: str, last: int) -> Any:
        return self.store.history.messages(session_id, last=last)

    select_contents = messages

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
        self.store = await AsyncStateStore.open(url, **self.options)


class Uncapped(Statestore):
    """With a cache for more than its default of 1,000 entries."""

    options: ClassVar[dict[str, Any]] = {"cache_max_entries": None}

    def cache_fill(self, tags: list[str], size: int) -> None:
        self.tags = list(tags)
        for tag in tags:
            values = {f"{tag}-{number}": data.cache_value(number) for number in range(size)}
            self.store.cache.set_many(values, ttl=timedelta(hours=1), tags=(tag,))

    def next_tag(self) -> str:
        return self.tags.pop()

    def cache_expire(self, count: int) -> None:
        """So many entries that have expired by now."""
        for start in range(0, count, 1_000):
            values = {f"gone-{start + number}": data.cache_value(number) for number in range(1_000)}
            self.store.cache.set_many(values, ttl=timedelta(milliseconds=1))
        time.sleep(0.01)


class AsyncUncapped(AsyncStatestore):
    options: ClassVar[dict[str, Any]] = {"cache_max_entries": None}
