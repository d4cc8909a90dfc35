"""Results of LangGraph's nodes and tasks in statestore's cache."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from hashlib import sha256
from typing import Any

from langgraph.cache.base import BaseCache, FullKey, Namespace, ValueT
from langgraph.checkpoint.serde.base import SerializerProtocol

from statestore import NEVER, InvalidValueError, LazyStore, StoreLike
from statestore.adapters.flows import Flow, OnStore, awaited, called, store
from statestore.adapters.langgraph import checks

_ALL = "langgraph/"
_NOTHING, _SECOND = timedelta(0), timedelta(seconds=1)
_LONGEST_PART = 240  # So that a key, of two parts, has at most 512 characters.


class StatestoreCache(OnStore, BaseCache[ValueT]):
    """Keeps the results of nodes with a `CachePolicy` in a statestore, as bytes.

        graph = builder.compile(cache=StatestoreCache("postgresql://app@db/agents"))

    The limits of the store's cache apply: `LazyStore(url, cache_max_entries=…)` sets them.
    """

    def __init__(self, store: StoreLike = None, *, serde: SerializerProtocol | None = None) -> None:
        """Take what opens a store, or an open one. Nothing is connected before the first use."""
        super().__init__(serde=serde)
        checks.serialiser("serde", serde)
        self._store = LazyStore.of(store)

    def _get(self, keys: Sequence[FullKey]) -> Flow[dict[FullKey, ValueT]]:
        wanted = {_key(key): (tuple(key[0]), key[1]) for key in checks.several("keys", keys, "key")}
        found = (yield store.cache.get_many(wanted)) if wanted else {}
        return {wanted[key]: self.serde.loads_typed(_unpacked(data)) for key, data in found.items()}

    get, aget = called(_get), awaited(_get)

    def _set(self, pairs: Mapping[FullKey, tuple[ValueT, int | None]]) -> Flow[None]:
        """What has no time to live is not kept, nor what was kept under its key."""
        by_ttl: dict[timedelta | None, dict[str, bytes]] = {}
        over = []
        for key, (value, seconds) in checks.mapping("pairs", pairs).items():
            ttl = None if seconds is None else checks.span("ttl", seconds, _SECOND)
            if ttl is None or ttl > _NOTHING:
                by_ttl.setdefault(ttl, {})[_key(key)] = _packed(*self.serde.dumps_typed(value))
            else:
                over.append(_key(key))
        if over:
            yield store.cache.invalidate_many(over)
        for ttl, values in by_ttl.items():
            yield store.cache.set_many(values, ttl=NEVER if ttl is None else ttl)

    set, aset = called(_set), awaited(_set)

    def _clear(self, namespaces: Sequence[Namespace] | None = None) -> Flow[None]:
        given = [] if namespaces is None else checks.several("namespaces", namespaces, "namespace")
        for prefix in [_ALL] if namespaces is None else [_prefix(namespace) for namespace in given]:
            yield store.cache.invalidate_prefix(prefix)

    clear, aclear = called(_clear), awaited(_clear)


def _key(full: Any) -> str:
    if not (isinstance(full, tuple | list) and len(full) == 2):
        raise InvalidValueError("keys", "must be pairs of a namespace and a key")
    return _prefix(full[0]) + _shortened(_escaped(full[1], "key"))


def _prefix(namespace: Any) -> str:
    """What the keys of a namespace begin with, and those of no other one."""
    labels = checks.several("namespace", namespace, "label")
    return f"{_ALL}{_shortened('/'.join(_escaped(label, 'namespace') for label in labels))}//"


def _escaped(text: Any, argument: str) -> str:
    found: str = checks.checked(argument, text, str, "a string")
    return found.replace("%", "%25").replace("/", "%2F") or "%"


def _shortened(text: str) -> str:
    return text if len(text) <= _LONGEST_PART else "%#" + sha256(text.encode(errors="surrogatepass")).hexdigest()


def _packed(kind: str, data: bytes) -> bytes:
    return kind.encode() + b"\0" + data


def _unpacked(stored: Any) -> tuple[str, bytes]:
    kind, _, data = stored.partition(b"\0")
    return kind.decode(), data
