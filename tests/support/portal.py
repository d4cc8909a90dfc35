"""Blocking calls into asyncio, so that one test body serves both stores.

Every call becomes a task of its own on the portal's event loop: calls from several threads are tasks that run at once.
"""

import asyncio
import inspect
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, TypeVar

from sqlalchemy.ext.asyncio import AsyncEngine

from statestore import AsyncStateStore
from statestore.operations.base import AsyncGroup
from tests.support.engines import async_engine

T = TypeVar("T")

# Seconds. A call that hangs fails its test long before pytest-timeout ends the whole run.
PATIENCE = 30


class Portal:
    """An event loop in a thread of its own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="portal", daemon=True)
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(PATIENCE)

    @contextmanager
    def enter(self, manager: Any) -> Iterator[Any]:
        """An async context manager as a blocking one."""
        value = self.run(manager.__aenter__())
        try:
            yield value
        except BaseException as exc:
            if not self.run(manager.__aexit__(type(exc), exc, exc.__traceback__)):
                raise
        else:
            self.run(manager.__aexit__(None, None, None))

    def close(self) -> None:
        self.run(self._loop.shutdown_asyncgens())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class Blocking:
    """An object with coroutine methods, such as a group of operations, whose methods block instead."""

    def __init__(self, portal: Portal, target: Any) -> None:
        self._portal = portal
        self._target = target

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._target, name)
        if isinstance(found, AsyncGroup):
            return Blocking(self._portal, found)
        if inspect.iscoroutinefunction(found) or name == "acquire":  # What this gives can be entered, too.
            return self._blocking(found)
        return found

    def __repr__(self) -> str:
        return repr(self._target)

    def _blocking(self, method: Callable[..., Coroutine[Any, Any, Any]]) -> Callable[..., Any]:
        @wraps(method)
        def call(*args: Any, **kwargs: Any) -> Any:
            return self._portal.run(method(*args, **kwargs))

        return call


class BlockingStore(Blocking):
    """An `AsyncStateStore` with the face of a `StateStore`."""

    @classmethod
    def open(cls, portal: Portal, *args: Any, **kwargs: Any) -> "BlockingStore":
        return cls(portal, portal.run(AsyncStateStore.open(*args, **kwargs)))

    @classmethod
    def on_engine(cls, portal: Portal, url: str, *, pool_size: int = 10, **kwargs: Any) -> "BlockingStore":
        """A store on an async engine that is not its own, and that goes when the store does."""
        engine = async_engine(url, pool_size=pool_size)
        store = cls(portal, AsyncStateStore(engine, **kwargs))
        store.engine = engine
        return store

    engine: AsyncEngine | None = None

    def close(self) -> None:
        try:
            self._portal.run(self._target.close())
        finally:
            if self.engine is not None:
                self._portal.run(self.engine.dispose())

    @contextmanager
    def transaction(self, **how: Any) -> Iterator[Blocking]:
        with self._portal.enter(self._target.transaction(**how)) as tx:
            yield Blocking(self._portal, tx)

    def __enter__(self) -> "BlockingStore":
        self._portal.run(self._target.__aenter__())
        return self

    def __exit__(self, *exc: Any) -> None:
        self._portal.run(self._target.__aexit__(*exc))
