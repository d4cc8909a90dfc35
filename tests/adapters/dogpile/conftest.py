"""The backend, on each database: its calls are synchronous, so there is one world."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from statestore import LazyStore


@pytest.fixture
def world() -> str:
    return "sync"


@pytest.fixture
def lazy(database_url: str, clock: Callable[[], Any]) -> Iterator[LazyStore]:
    """A store for a backend, with the clock that the test moves."""
    lazy = LazyStore(database_url, namespace="dogpile", cache_max_entries=None, clock=clock)
    yield lazy
    lazy.close()
