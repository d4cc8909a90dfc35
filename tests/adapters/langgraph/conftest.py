"""Savers and stores of LangGraph, called or awaited, on both databases."""

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from statestore import LazyStore, StateStore
from statestore.adapters.langgraph import StatestoreCache, StatestoreSaver, StatestoreStore
from tests.support.clock import MovableClock


class Blocking:
    """Calls the asynchronous methods of a saver, a store or a cache, and waits for them."""

    def __init__(self, loop: asyncio.Runner, called: Any) -> None:
        self._loop = loop
        self._called = called

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._called, f"a{name}", None)
        if method is None:
            return getattr(self._called, name)

        async def wait(*args: Any, **kwargs: Any) -> Any:
            result = method(*args, **kwargs)
            return [found async for found in result] if name == "list" else await result

        return lambda *args, **kwargs: self._loop.run(wait(*args, **kwargs))


@pytest.fixture(params=["sync", "async"])
def world(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def lazy_at(world: str, clock: MovableClock) -> Iterator[Callable[[str], tuple[LazyStore, Callable[[Any], Any]]]]:
    """A store at a URL, and what makes a saver on it one of the test's world."""
    opened: list[LazyStore] = []
    with asyncio.Runner() as loop:

        def make(url: str) -> tuple[LazyStore, Callable[[Any], Any]]:
            opened.append(LazyStore(url, clock=clock))
            return opened[-1], (lambda called: called if world == "sync" else Blocking(loop, called))

        yield make
        for lazy in opened:
            loop.run(lazy.aclose())


@pytest.fixture
def saver(database_url: str, lazy_at: Any) -> Any:
    lazy, blocking = lazy_at(database_url)
    return blocking(StatestoreSaver(lazy))


@pytest.fixture
def items(database_url: str, lazy_at: Any) -> Any:
    lazy, blocking = lazy_at(database_url)
    return blocking(StatestoreStore(lazy))


@pytest.fixture
def cache(database_url: str, lazy_at: Any) -> Any:
    lazy, blocking = lazy_at(database_url)
    return blocking(StatestoreCache(lazy))


@pytest.fixture
def store(database_url: str, clock: MovableClock) -> Iterator[StateStore]:
    """The same database, without the adapter."""
    with StateStore.open(database_url, clock=clock) as store:
        yield store
