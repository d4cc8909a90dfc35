"""Stores that are opened at first use, for frameworks that make their sessions where nothing can be awaited."""

import asyncio
import os
import threading
from typing import TypeAlias, Unpack

from sqlalchemy import URL

from statestore.async_store import AsyncStateStore
from statestore.engine import hosts, process_fork
from statestore.engine.engines import is_memory, parse
from statestore.errors import InvalidValueError
from statestore.options import OpenArguments, StoreOptions, takes
from statestore.schema import prefixes
from statestore.store import StateStore


class _Place:
    """Of one event loop: its store, when there is one."""

    def __init__(self) -> None:
        self.opening = asyncio.Lock()
        self.store: AsyncStateStore | None = None


class _Opened:
    """The stores of a process."""

    def __init__(self) -> None:
        self.sync: StateStore | None = None
        self.by_loop: dict[asyncio.AbstractEventLoop, _Place] = {}
        self.lock = threading.Lock()
        process_fork.renew_in_child(self)

    def renew_after_fork(self) -> None:
        """Leave the parent's event loops, and what is theirs, to the parent. A synchronous store renews itself."""
        self.lock = threading.Lock()  # A thread of the parent's may have been opening a store under it.
        self.by_loop = {}


StoreLike: TypeAlias = "LazyStore | StateStore | AsyncStateStore | URL | os.PathLike[str] | str | None"


class LazyStore:
    """A database, and the stores on it that somebody has used.

        store = LazyStore("postgresql://app@db/agents", namespace="support")
        session = StatestoreSession("user-42", store)

    Safe to share between threads and event loops. All event loops that end one after the other, as with
    `asyncio.run`, have one asynchronous store; each that runs at the same time as another has its own.
    """

    @takes(OpenArguments)
    def __init__(self, url: URL | os.PathLike[str] | str | None = None, **options: Unpack[OpenArguments]) -> None:
        """Take what `StateStore.open` takes. Nothing is connected before the first use; arguments are checked now."""
        checked = StoreOptions(**options)
        self._url = parse(url)
        prefixes.check_for(self._url.get_backend_name(), checked.table_prefix)
        self._options = options
        self._opened = _Opened()

    @classmethod
    def of(cls, store: StoreLike) -> "LazyStore":
        """One on the database of a URL, or on *store*, lazy or open, which stays its owner's to close."""
        if isinstance(store, LazyStore):
            return _Lent(store)
        if isinstance(store, StateStore | AsyncStateStore):
            return _Given(store)
        if not (store is None or isinstance(store, URL | os.PathLike | str)):
            raise InvalidValueError(
                "store",
                f"must be a URL, a path, or a LazyStore, StateStore or AsyncStateStore, not {type(store).__name__}; "
                "for an engine: StateStore(engine)",
            )
        return cls(store)

    def sync(self) -> StateStore:
        """The synchronous store."""
        if self._opened.sync is None:
            with self._opened.lock:
                if self._opened.sync is None:
                    self._check_memory(self._opened.by_loop)
                    self._opened.sync = StateStore.open(self._url, **self._options)
        return self._opened.sync

    async def here(self) -> AsyncStateStore:
        """The asynchronous store of the running event loop."""
        loop = asyncio.get_running_loop()
        place = self._opened.by_loop.get(loop)
        if place is None or place.store is None:
            place = self._place(loop)
            async with place.opening:
                if place.store is None:
                    place.store = await AsyncStateStore.open(self._url, **self._options)
        return place.store

    def _place(self, loop: asyncio.AbstractEventLoop) -> "_Place":
        """Where the store of *loop* belongs, with that of an event loop that has ended, if there is one."""
        with self._opened.lock:
            if loop in self._opened.by_loop:
                return self._opened.by_loop[loop]
            ended = [other for other in self._opened.by_loop if other.is_closed()]
            place = self._opened.by_loop.pop(ended[0]) if ended else _Place()
            self._check_memory(self._opened.sync or self._opened.by_loop)
            place.opening = asyncio.Lock()
            self._opened.by_loop[loop] = place
            return place

    def _check_memory(self, others: object) -> None:
        if others and is_memory(self._url):
            raise InvalidValueError(
                "url", "sqlite:// is private to one store; to share it between threads and event loops, use a file"
            )

    async def aclose(self) -> None:
        """Close the synchronous store, and those of this event loop and of ended ones. A later use opens them again."""
        here = asyncio.get_running_loop()
        with self._opened.lock:
            ended = [loop for loop in self._opened.by_loop if loop is here or loop.is_closed()]
            places = [(loop, self._opened.by_loop.pop(loop)) for loop in ended]
        for loop, place in places:
            if loop is here:
                async with place.opening:  # Somebody may be about to have it.
                    await _close(place)
            else:
                await _close(place)
        self.close()

    def close(self) -> None:
        """Close the synchronous store. A later use opens it again."""
        with self._opened.lock:
            store, self._opened.sync = self._opened.sync, None
        if store is not None:
            store.close()

    def __repr__(self) -> str:
        return f"<LazyStore {hosts.shown(self._url)}>"


async def _close(place: _Place) -> None:
    if place.store is not None:
        await place.store.close()


class _OfAnother(LazyStore):
    """What its owner closes."""

    def __init__(self, owned: LazyStore | StateStore | AsyncStateStore) -> None:
        self._owned = owned

    async def aclose(self) -> None:
        """Leave it to its owner."""

    def close(self) -> None:
        """Leave it to its owner."""

    def __repr__(self) -> str:
        return repr(self._owned)


class _Lent(_OfAnother):
    """A lazy store."""

    _owned: LazyStore

    def sync(self) -> StateStore:
        return self._owned.sync()

    async def here(self) -> AsyncStateStore:
        return await self._owned.here()


class _Given(_OfAnother):
    """A store that its owner has opened."""

    _owned: StateStore | AsyncStateStore

    def sync(self) -> StateStore:
        if not isinstance(self._owned, StateStore):
            raise InvalidValueError("store", "must be a StateStore or a LazyStore here, not an AsyncStateStore")
        return self._owned

    async def here(self) -> AsyncStateStore:
        if not isinstance(self._owned, AsyncStateStore):
            raise InvalidValueError("store", "must be an AsyncStateStore or a LazyStore here, not a StateStore")
        return self._owned
