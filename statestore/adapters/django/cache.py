"""A cache backend for Django: `"BACKEND": "statestore.adapters.django.cache.StatestoreCache"`."""

import math
import pickle
from collections.abc import Iterable, Mapping
from typing import Any

from asgiref.sync import sync_to_async
from django.conf import settings
from django.core.cache.backends.base import DEFAULT_TIMEOUT, BaseCache
from django.utils.module_loading import import_string

from statestore import MISSING, NEVER, InvalidValueError
from statestore.adapters.django import OPTIONS, check_options, lifetime, shared

_PLAIN = (str, int, bool, float, type(None))
_OWN_OPTIONS = ("MAX_ENTRIES", "CULL_FREQUENCY", "serializer")
_KNOWN = (*_OWN_OPTIONS, *(name for name in OPTIONS if name != "url"))


class PickleSerializer:
    """What Django's own backends do. Whoever can write to the database can run code in those who read it."""

    def dumps(self, value: Any) -> bytes:
        return pickle.dumps(value, pickle.HIGHEST_PROTOCOL)

    def loads(self, data: bytes) -> Any:
        return pickle.loads(data)


class StatestoreCache(BaseCache):
    """A cache in a namespace of a store, `django` by default.

    LOCATION is the URL of a database, a `LazyStore` or a `StateStore`; without it that of STATESTORE_URL, or else the
    file statestore.db. Beyond MAX_ENTRIES the least recently used go, one for each that comes, so there is no
    CULL_FREQUENCY.

    OPTIONS, beside those of `StateStore.open` such as `namespace` or `pool_size`:
        serializer: The dotted name of a class with `dumps` and `loads`, for what is not text or a number; by default
            pickle. `json` stores exact JSON, text and bytes as the store does, and refuses everything else.
    """

    def __init__(self, location: Any, params: Mapping[str, Any]) -> None:
        options = params.get("OPTIONS", {})
        check_options(options, "OPTIONS", _KNOWN)
        super().__init__(params)
        serializer = options.get("serializer", PickleSerializer)
        self._serializer = None if serializer == "json" else _serializer(serializer)
        if location == "":
            _check_location(type(self))
        opened = {"namespace": "django", "cache_max_entries": self._max_entries}
        opened |= {name: value for name, value in options.items() if name not in _OWN_OPTIONS}
        self._store = shared(None if location == "" else location, **opened)

    @property
    def _entries(self) -> Any:
        return self._store.sync().cache

    def get(self, key: str, default: Any = None, version: int | None = None) -> Any:
        found = self._entries.get(self.make_and_validate_key(key, version=version), MISSING)
        return default if found is MISSING else self._loads(found)

    def get_many(self, keys: Iterable[str], version: int | None = None) -> dict[str, Any]:
        names = {self.make_and_validate_key(key, version=version): key for key in keys}
        return {names[key]: self._loads(value) for key, value in self._entries.get_many(names).items()}

    def has_key(self, key: str, version: int | None = None) -> bool:
        return bool(self._entries.exists(self.make_and_validate_key(key, version=version)))

    def set(self, key: str, value: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None) -> None:
        key = self.make_and_validate_key(key, version=version)
        value = self._dumps(value)
        if (ttl := self._ttl(timeout)) is MISSING:
            self._entries.invalidate(key)
        else:
            self._entries.set(key, value, ttl=ttl)

    def add(self, key: str, value: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None) -> bool:
        key = self.make_and_validate_key(key, version=version)
        value = self._dumps(value)
        if (ttl := self._ttl(timeout)) is MISSING:
            return not self._entries.exists(key)
        return bool(self._entries.set(key, value, ttl=ttl, only_if="missing"))

    def set_many(
        self, data: Mapping[str, Any], timeout: Any = DEFAULT_TIMEOUT, version: int | None = None
    ) -> list[str]:
        """Set several values in one statement.

        Returns:
            The keys that were not stored: the first ones, if there are more than the cache keeps.
        """
        names = {self.make_and_validate_key(key, version=version): key for key in data}
        values = {name: self._dumps(data[key]) for name, key in names.items()}
        if (ttl := self._ttl(timeout)) is MISSING:
            self._entries.invalidate_many(names)
            return []
        beyond = list(names)[: -self._max_entries]
        self._entries.set_many({name: value for name, value in values.items() if name not in set(beyond)}, ttl=ttl)
        return [names[name] for name in beyond]

    def touch(self, key: str, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None) -> bool:
        key = self.make_and_validate_key(key, version=version)
        if (ttl := self._ttl(timeout)) is MISSING:
            return bool(self._entries.invalidate(key))
        return bool(self._entries.touch(key, ttl))

    def incr(self, key: str, delta: float = 1, version: int | None = None) -> Any:
        """Add to a number that is there, atomically. It keeps its timeout."""
        name = self.make_and_validate_key(key, version=version)
        try:
            total = self._entries.increment(name, delta, only_if="present")
        except InvalidValueError as error:
            raise TypeError(str(error)) from None
        if total is None:
            raise ValueError(f"Key '{name}' not found")
        return total

    def delete(self, key: str, version: int | None = None) -> bool:
        return bool(self._entries.invalidate(self.make_and_validate_key(key, version=version)))

    def delete_many(self, keys: Iterable[str], version: int | None = None) -> None:
        self._entries.invalidate_many([self.make_and_validate_key(key, version=version) for key in keys])

    def clear(self) -> None:
        """Remove everything that is in the namespace, whatever its prefix and version."""
        self._entries.clear()

    # Django's own of these are made of `aget` and `aset`, so that counting would lose calls, and the timeout.

    async def ahas_key(self, key: str, version: int | None = None) -> bool:
        return bool(await sync_to_async(self.has_key)(key, version))

    async def aget_many(self, keys: Iterable[str], version: int | None = None) -> dict[str, Any]:
        found: dict[str, Any] = await sync_to_async(self.get_many)(keys, version)
        return found

    async def aset_many(
        self, data: Mapping[str, Any], timeout: Any = DEFAULT_TIMEOUT, version: int | None = None
    ) -> list[str]:
        missing: list[str] = await sync_to_async(self.set_many)(data, timeout, version)
        return missing

    async def aincr(self, key: str, delta: float = 1, version: int | None = None) -> Any:
        return await sync_to_async(self.incr)(key, delta, version)

    async def adelete_many(self, keys: Iterable[str], version: int | None = None) -> None:
        await sync_to_async(self.delete_many)(keys, version)

    def _dumps(self, value: Any) -> Any:
        """Numbers and text as they are, so that the database can count and people can read."""
        if self._serializer is None or (
            type(value) in _PLAIN and not (type(value) is float and not math.isfinite(value))
        ):
            return value
        return self._serializer.dumps(value)

    def _loads(self, value: Any) -> Any:
        return value if self._serializer is None or not isinstance(value, bytes) else self._serializer.loads(value)

    def _ttl(self, timeout: Any) -> Any:
        """A lifetime of the store's; MISSING for one that is over already."""
        seconds = self.default_timeout if timeout is DEFAULT_TIMEOUT else timeout
        if seconds is None:
            return NEVER
        return lifetime(seconds) if seconds > 0 else MISSING


def _check_location(backend: type) -> None:
    """Refuse a LOCATION that is given but empty: Django passes a missing one as empty, too."""
    path = f"{backend.__module__}.{backend.__qualname__}"
    if any(one.get("BACKEND") == path and one.get("LOCATION") == "" for one in settings.CACHES.values()):
        raise InvalidValueError("LOCATION", "is empty; is a variable not set?")


def _serializer(given: Any) -> Any:
    """What a setting names, or is."""
    try:
        found = import_string(given) if isinstance(given, str) else given
    except ImportError as error:
        raise InvalidValueError("OPTIONS", f"serializer {given!r} cannot be imported: {error}") from error
    made = found() if callable(found) else found
    if not (callable(getattr(made, "dumps", None)) and callable(getattr(made, "loads", None))):
        raise InvalidValueError(
            "OPTIONS", "serializer must be 'json', or the dotted name of a class with dumps and loads"
        )
    return made
