"""Stores whose every operation joins a transaction of an engine on psycopg2 or asyncpg, for the contract's tests."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from statestore import AsyncStateStore, StateStore
from statestore.options import StoreOptions
from tests.support.engines import async_engine, sync_engine
from tests.support.portal import Blocking, Portal

GROUPS = ("sessions", "history", "state", "lists", "user_state", "app_state", "cache", "usage", "prices")


class Joined:
    """As a store, called; each operation is committed by itself."""

    def __init__(self, url: str, portal: Portal | None, **options: Any) -> None:
        StoreOptions(**options)
        self.portal, self.options = portal, options
        self.namespace = options.get("namespace", "default")
        self.engine: Any = (
            sync_engine(url, driver="psycopg2") if portal is None else async_engine(url, driver="asyncpg")
        )

    @contextmanager
    def transaction(self) -> Iterator[Any]:
        if self.portal is None:
            with self.engine.begin() as connection:
                yield StateStore.join(connection, **self.options)
        else:
            with self.portal.enter(self.engine.begin()) as connection:
                tx = self.portal.run(AsyncStateStore.join(connection, **self.options))
                yield Blocking(self.portal, tx)

    def __getattr__(self, name: str) -> Any:
        return _Group(self, name) if name in GROUPS else _Group(self, "")._call(name)

    def close(self) -> None:
        done = self.engine.dispose()
        if self.portal is not None:
            self.portal.run(done)


class _Group:
    def __init__(self, store: Joined, name: str) -> None:
        self._store, self._name = store, name

    def _call(self, operation: str) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            with self._store.transaction() as tx:
                return getattr(getattr(tx, self._name) if self._name else tx, operation)(*args, **kwargs)

        return call

    def __getattr__(self, operation: str) -> Any:
        return self._call(operation)
