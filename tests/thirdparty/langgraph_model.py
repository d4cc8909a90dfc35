"""A store as LangGraph wants it: values under a namespace of several parts and a key, searched by the first parts.

The parts and the key are one key of the state of an app; a part holds no separator.
"""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

Store = Any
Namespace = tuple[str, ...]

_SEPARATOR = "\x1f"
_OWNER = "langgraph"
_PAGE = 1000


class LangGraphStore:
    def __init__(self, store: Store, *, ttl: timedelta | None = None) -> None:
        self._state = store.app_state
        self._ttl = ttl

    def put(self, namespace: Namespace, key: str, value: Mapping[str, Any], *, ttl: timedelta | None = None) -> None:
        self._state.set(_OWNER, _joined(namespace) + key, value, ttl=ttl or self._ttl)

    def get(self, namespace: Namespace, key: str) -> dict[str, Any] | None:
        value: dict[str, Any] | None = self._state.get(_OWNER, _joined(namespace) + key, None)
        return value

    def delete(self, namespace: Namespace, key: str) -> None:
        self._state.delete(_OWNER, _joined(namespace) + key)

    def search(
        self, prefix: Namespace, *, filter: Mapping[str, Any] | None = None, limit: int = 10, offset: int = 0
    ) -> list[tuple[Namespace, str, dict[str, Any]]]:
        """Items whose namespaces begin with *prefix* and whose values have the fields of *filter*, by key."""
        found: list[Any] = []
        after = None
        while len(found) < offset + limit:
            wanted = _PAGE if filter else offset + limit
            page = self._state.entries(_OWNER, prefix=_joined(prefix), after=after, limit=wanted)
            found += [entry for entry in page if (filter or {}).items() <= entry.value.items()]
            if len(page) < wanted:
                break
            after = page[-1].key
        return [(*_split(entry.key), entry.value) for entry in found[offset : offset + limit]]

    def list_namespaces(self, *, prefix: Namespace = (), max_depth: int | None = None) -> list[Namespace]:
        keys: list[str] = []
        while page := self._state.keys(_OWNER, prefix=_joined(prefix), after=keys[-1] if keys else None, limit=_PAGE):
            keys += page
            if len(page) < _PAGE:
                break
        return sorted({_split(key)[0][:max_depth] for key in keys})


def _joined(namespace: Namespace) -> str:
    return "".join(part + _SEPARATOR for part in namespace)


def _split(joined: str) -> tuple[Namespace, str]:
    *namespace, key = joined.split(_SEPARATOR)
    return tuple(namespace), key
