"""Results of LangGraph's nodes and tasks in statestore's cache."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from hashlib import sha256
from typing import Any

from langgraph.cache.base import BaseCache, FullKey, Namespace, ValueT
from langgraph.checkpoint.serde.base import SerializerProtocol

from statestore import NEVER, LazyStore, StoreLike
from statestore.adapters.flows import Flow, OnStore, awaited, called, store

_ALL = "langgraph/"
_LONGEST_PART = 240  # So that a key, of two parts, has at most 512 characters.


class StatestoreCache(OnStore, BaseCache[ValueT]):
    """Keeps the results of nodes with a `CachePolicy` in a statestore, as bytes.

        graph = builder.compile(cache=StatestoreCache("postgresql://app@db/agents"))

    The limits of the store's cache apply: `LazyStore(url, cache_max_entries=…)` sets them.
    """

    def __init__(self, store: StoreLike = None, *, serde: SerializerProtocol | None = None) -> None:
        """Take what opens a store, or an open one. Nothing is connected before the first use."""
        super().__init__(serde=serde)
        self._store = LazyStore.of(store)

    def _get(self, keys: Sequence[FullKey]) -> Flow[dict[FullKey, ValueT]]:
        wanted = {_key(*key): (tuple(key[0]), key[1]) for key in keys}
        found = (yield store.cache.get_many(wanted)) if wanted else {}
        return {wanted[key]: self.serde.loads_typed(_unpacked(data)) for key, data in found.items()}

    get, aget = called(_get), awaited(_get)

    def _set(self, pairs: Mapping[FullKey, tuple[ValueT, int | None]]) -> Flow[None]:
        by_ttl: dict[int | None, dict[str, bytes]] = {}
        for key, (value, ttl) in pairs.items():
            by_ttl.setdefault(ttl, {})[_key(*key)] = _packed(*self.serde.dumps_typed(value))
        for ttl, values in by_ttl.items():
            yield store.cache.set_many(values, ttl=NEVER if ttl is None else timedelta(seconds=ttl))

    set, aset = called(_set), awaited(_set)

    def _clear(self, namespaces: Sequence[Namespace] | None = None) -> Flow[None]:
        for prefix in [_ALL] if namespaces is None else map(_prefix, namespaces):
            yield store.cache.invalidate_prefix(prefix)

    clear, aclear = called(_clear), awaited(_clear)


def _key(namespace: Namespace, key: str) -> str:
    return _prefix(namespace) + _shortened(_escaped(key))


def _prefix(namespace: Namespace) -> str:
    """What the keys of a namespace begin with, and those of no other one."""
    return f"{_ALL}{_shortened('/'.join(map(_escaped, namespace)))}//"


def _escaped(text: str) -> str:
    return text.replace("%", "%25").replace("/", "%2F") or "%"


def _shortened(text: str) -> str:
    return text if len(text) <= _LONGEST_PART else "%#" + sha256(text.encode(errors="surrogatepass")).hexdigest()


def _packed(kind: str, data: bytes) -> bytes:
    return kind.encode() + b"\0" + data


def _unpacked(stored: Any) -> tuple[str, bytes]:
    kind, _, data = stored.partition(b"\0")
    return kind.decode(), data
