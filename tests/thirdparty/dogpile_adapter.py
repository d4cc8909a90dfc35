"""The cache as a backend of dogpile.cache, as thin as it can be."""

import time
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from dogpile.cache import register_backend
from dogpile.cache.api import NO_VALUE, BytesBackend, CacheMutex

from statestore import NEVER

LOCK_TTL = 30


class Mutex(CacheMutex):
    """A lock among processes: an entry that only one can add."""

    def __init__(self, cache: Any, key: str) -> None:
        self._cache = cache
        self._key = f"lock:{key}"
        self._token = uuid.uuid4().hex

    def acquire(self, wait: bool = True) -> bool:
        while not self._cache.add(self._key, self._token, ttl=LOCK_TTL):
            if not wait:
                return False
            time.sleep(0.005)
        return True

    def release(self) -> None:
        if self._cache.get(self._key) == self._token:
            self._cache.invalidate(self._key)

    def locked(self) -> bool:
        return bool(self._cache.exists(self._key))


class Backend(BytesBackend):
    """Takes an object whose `store` is the store to use."""

    def __init__(self, arguments: Mapping[str, Any]) -> None:
        self._arguments = arguments

    @property
    def _cache(self) -> Any:
        return self._arguments["holder"].store.cache

    def get_mutex(self, key: str) -> Mutex:
        return Mutex(self._cache, key)

    def get_serialized(self, key: str) -> Any:
        return self._cache.get(key, NO_VALUE)

    def get_serialized_multi(self, keys: Sequence[str]) -> list[Any]:
        found = self._cache.get_many(keys)
        return [found.get(key, NO_VALUE) for key in keys]

    def set_serialized(self, key: str, value: bytes) -> None:
        self._cache.set(key, value, ttl=NEVER)

    def set_serialized_multi(self, mapping: Mapping[str, bytes]) -> None:
        self._cache.set_many(mapping, ttl=NEVER)

    def delete(self, key: str) -> None:
        self._cache.invalidate(key)

    def delete_multi(self, keys: Sequence[str]) -> None:
        self._cache.invalidate_many(keys)


register_backend("statestore", __name__, "Backend")
