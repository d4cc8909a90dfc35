"""A region of dogpile.cache that keeps its values in a database, and has one creator for all processes.

region = make_region().configure("statestore", expiration_time=3600, arguments={"url": "postgresql://app@db/app"})
"""

import hashlib
import os
import re
import socket
import threading
import weakref
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from difflib import get_close_matches
from typing import Any
from weakref import WeakValueDictionary

from dogpile.cache.api import NO_VALUE, BytesBackend, CacheMutex

from statestore import (
    NEVER,
    ConflictError,
    HeldLease,
    InvalidValueError,
    LazyStore,
    SessionExistsError,
    SessionNotFoundError,
    StaleLeaseError,
)

LOCK_TIMEOUT = 30
# What a key of the store has room for, with what is put before the name of a lock.
_LONGEST = 500
# NUL and lone surrogates.
_NOT_STORED = re.compile(r"[\x00\ud800-\udfff]")
_KEPT = timedelta(hours=1)
_PATIENCE = timedelta(hours=1)
_ARGUMENTS = ("url", "store", "namespace", "ttl", "max_entries", "distributed_lock", "lock_timeout")


class StatestoreBackend(BytesBackend):
    """The backend `statestore`.

    Arguments of the region:
        url: The database, as for `StateStore.open`; without it that of STATESTORE_URL, or else the file statestore.db.
        store: A store of the application instead, open or lazy. It keeps its own namespace and its own limits.
        namespace: Where the values are, `dogpile` by default: regions of one namespace share their keys.
        ttl: After how many seconds a value may be removed. By default never: dogpile.cache goes by the region's
            `expiration_time` alone, and can then still serve an old value while a new one is made.
        max_entries: How many values are kept, those that were used last. By default all.
        distributed_lock: False for a lock among the threads of a process in place of one for all processes.
        lock_timeout: After how many seconds another process may go on if one has died while it made a value.
    """

    def __init__(self, arguments: Mapping[str, Any]) -> None:
        """Take the arguments. Nothing is connected before the first use."""
        _check_names(arguments)
        self._store = _store(arguments)
        self._ttl = NEVER if arguments.get("ttl") is None else _seconds(arguments["ttl"], "ttl")
        self._distributed = arguments.get("distributed_lock", True)
        if not isinstance(self._distributed, bool):
            raise InvalidValueError("distributed_lock", "must be True or False")
        self._lock_timeout = _seconds(arguments.get("lock_timeout", LOCK_TIMEOUT), "lock_timeout")
        self._local: WeakValueDictionary[str, _Local] = WeakValueDictionary()

    @property
    def _cache(self) -> Any:
        return self._store.sync().cache

    def key_mangler(self, key: str) -> str:  # type: ignore[override]
        """A key that the store can take: one that is empty or long, or that PostgreSQL cannot store, is hashed."""
        if not isinstance(key, str):
            raise InvalidValueError("key", f"must be a string, not {type(key).__name__}")
        if 0 < len(key) <= _LONGEST and not _NOT_STORED.search(key):
            return key
        return hashlib.sha256(key.encode(errors="surrogatepass")).hexdigest()

    def get_mutex(self, key: str) -> CacheMutex | None:
        if not self._distributed:
            return None
        local = self._local.setdefault(key, _Local())
        return Mutex(self._store, key, local, self._lock_timeout)

    def get_serialized(self, key: str) -> Any:
        return self._cache.get(key, NO_VALUE)

    def get_serialized_multi(self, keys: Iterable[str]) -> Sequence[Any]:
        keys = list(keys)
        found = self._cache.get_many(keys)
        return [found.get(key, NO_VALUE) for key in keys]

    def set_serialized(self, key: str, value: bytes) -> None:
        self._cache.set(key, value, ttl=self._ttl)

    def set_serialized_multi(self, mapping: Mapping[str, bytes]) -> None:
        self._cache.set_many(mapping, ttl=self._ttl)

    def delete(self, key: str) -> None:
        self._cache.invalidate(key)

    def delete_multi(self, keys: Iterable[str]) -> None:
        self._cache.invalidate_many(keys)

    def close(self) -> None:
        """Close what the backend has opened. A later use opens it again."""
        self._store.close()


class _Local:
    """The lock of a key among the threads of a process, of which one at a time asks the database."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.lease: HeldLease | None = None
        _locals.add(self)

    def renew(self) -> None:
        """What a thread of the parent's holds is the parent's: a child asks the database, as any other process does."""
        self.lock = threading.Lock()
        self.lease = None


_locals: "weakref.WeakSet[_Local]" = weakref.WeakSet()


def _renew_in_child() -> None:
    for local in list(_locals):
        local.renew()


os.register_at_fork(after_in_child=_renew_in_child)


class Mutex(CacheMutex):
    """A lock among processes: the lease of a session that exists for it alone.

    It renews itself while it is held. If its holder dies, others get it when the lease has run out, and a holder that
    was only believed dead does not release theirs.
    """

    def __init__(self, store: LazyStore, key: str, local: _Local, timeout: timedelta) -> None:
        self._store = store
        self._name = f"lock:{key}"
        self._local = local
        self._timeout = timeout

    def acquire(self, wait: bool = True) -> bool:
        if not self._local.lock.acquire(wait):
            return False
        try:
            lease = self._lease(_PATIENCE if wait else None)
            while wait and lease is None:
                lease = self._lease(_PATIENCE)
        except BaseException:
            self._local.lock.release()
            raise
        if lease is None:
            self._local.lock.release()
            return False
        self._local.lease = lease
        return True

    def release(self) -> None:
        """Release it. Whoever has lost it meanwhile, with his process stopped for so long, changes nothing."""
        lease, self._local.lease = self._local.lease, None
        if lease is None:  # It was acquired before this process was forked: it is the parent's.
            return
        try:
            with suppress(StaleLeaseError, SessionNotFoundError):
                lease.__exit__(None, None, None)
        finally:
            self._local.lock.release()

    def locked(self) -> bool:
        if self._local.lock.locked():
            return True
        sessions = self._store.sync().sessions
        try:
            sessions.release(sessions.acquire(self._name, owner="locked()", ttl=self._timeout))
        except ConflictError:
            return True
        except SessionNotFoundError:
            return False
        return False

    def _lease(self, wait: timedelta | None) -> HeldLease | None:
        sessions = self._store.sync().sessions
        owner = f"{socket.gethostname()}:{os.getpid()}"
        while True:
            try:
                return sessions.acquire(self._name, owner=owner, ttl=self._timeout, wait=wait).__enter__()
            except ConflictError:
                return None
            except SessionNotFoundError:
                with suppress(SessionExistsError):
                    sessions.create(self._name, agent_name="dogpile.cache", ttl=max(_KEPT, 2 * self._timeout))


def _check_names(arguments: Mapping[str, Any]) -> None:
    """Refuse a name that looks like a misspelt one of ours. Others are ignored, as dogpile.cache's suite demands."""
    for name in arguments:
        # Not so near that it takes the `socket_timeout` of another backend for `lock_timeout`.
        near = get_close_matches(str(name).lower(), _ARGUMENTS, n=1, cutoff=0.85)
        if near and name not in _ARGUMENTS:
            known = ", ".join(_ARGUMENTS)
            raise InvalidValueError("arguments", f"have no {name!r}; did you mean {near[0]!r}? There are {known}")


def _store(arguments: Mapping[str, Any]) -> LazyStore:
    store, url = arguments.get("store"), arguments.get("url")
    if store is not None:
        if url is not None:
            raise InvalidValueError("store", "cannot be combined with url")
        return LazyStore.of(store)
    return LazyStore(
        url, namespace=arguments.get("namespace", "dogpile"), cache_max_entries=arguments.get("max_entries")
    )


def _seconds(value: Any, argument: str) -> timedelta:
    if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
        raise InvalidValueError(argument, "must be a number of seconds above zero")
    return timedelta(seconds=value)
