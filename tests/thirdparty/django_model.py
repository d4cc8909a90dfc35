"""A cache as Django's framework wants it: prefix and version in the key, `None` for ever, counters that must exist."""

from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from typing import Any

from statestore import MISSING, NEVER, CacheItem

Store = Any

DEFAULT: Any = object()
"""The timeout of the cache: None is one that never ends."""


class DjangoCache:
    def __init__(self, store: Store, *, prefix: str = "", version: int = 1, timeout: float | None = 300) -> None:
        self._cache = store.cache
        self._prefix, self._version, self._timeout = prefix, version, timeout

    def get(self, key: str, default: Any = None, version: int | None = None) -> Any:
        return self._cache.get(self._key(key, version), default)

    def set(self, key: str, value: Any, timeout: Any = DEFAULT, version: int | None = None) -> None:
        """Store a value; one whose timeout is over already is not there."""
        if (ttl := self._ttl(timeout)) is MISSING:
            self.delete(key, version)
        else:
            self._cache.set(self._key(key, version), value, ttl=ttl)

    def add(self, key: str, value: Any, timeout: Any = DEFAULT, version: int | None = None) -> bool:
        if (ttl := self._ttl(timeout)) is MISSING:
            return not self.has_key(key, version)
        return bool(self._cache.set(self._key(key, version), value, ttl=ttl, only_if="missing"))

    def touch(self, key: str, timeout: Any = DEFAULT, version: int | None = None) -> bool:
        if (ttl := self._ttl(timeout)) is MISSING:
            return self.delete(key, version)
        return bool(self._cache.touch(self._key(key, version), ttl))

    def delete(self, key: str, version: int | None = None) -> bool:
        return bool(self._cache.invalidate(self._key(key, version)))

    def has_key(self, key: str, version: int | None = None) -> bool:
        return bool(self._cache.exists(self._key(key, version)))

    def incr(self, key: str, by: int = 1, version: int | None = None) -> int:
        """Add to a number that is there, and keep its timeout."""
        if not self.has_key(key, version):
            raise ValueError(key)
        return int(self._cache.increment(self._key(key, version), by))

    def decr(self, key: str, by: int = 1, version: int | None = None) -> int:
        return self.incr(key, -by, version)

    def get_or_set(self, key: str, default: Callable[[], Any], timeout: Any = DEFAULT) -> Any:
        ttl = self._ttl(timeout)
        return self._cache.get_or_compute(self._key(key), default, ttl=ttl)

    def get_many(self, keys: Iterable[str], version: int | None = None) -> dict[str, Any]:
        names = {self._key(key, version): key for key in keys}
        return {names[key]: value for key, value in self._cache.get_many(names).items()}

    def set_many(self, values: Mapping[str, Any], timeout: Any = DEFAULT) -> None:
        ttl = self._ttl(timeout)
        self._cache.set_many({self._key(key): CacheItem(value, ttl=ttl) for key, value in values.items()})

    def delete_many(self, keys: Iterable[str], version: int | None = None) -> None:
        self._cache.invalidate_many([self._key(key, version) for key in keys])

    def incr_version(self, key: str, by: int = 1) -> int:
        """Move a value to another version."""
        value = self._cache.pop(self._key(key), MISSING)
        if value is MISSING:
            raise ValueError(key)
        self.set(key, value, version=self._version + by)
        return self._version + by

    def clear(self) -> None:
        self._cache.invalidate_prefix(f"{self._prefix}:")

    def _key(self, key: str, version: int | None = None) -> str:
        return f"{self._prefix}:{self._version if version is None else version}:{key}"

    def _ttl(self, timeout: Any) -> Any:
        """A lifetime of the store's; MISSING for one that is over already."""
        seconds = self._timeout if timeout is DEFAULT else timeout
        if seconds is None:
            return NEVER
        return timedelta(seconds=seconds) if seconds > 0 else MISSING
