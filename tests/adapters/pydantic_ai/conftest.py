"""A store on each database, with the clock that the test moves."""

from collections.abc import AsyncIterator

import pytest

from statestore import LazyStore
from statestore.adapters.pydantic_ai import StatestoreConversationStore
from tests.support.clock import MovableClock


@pytest.fixture
async def lazy(database_url: str, clock: MovableClock) -> AsyncIterator[LazyStore]:
    lazy = LazyStore(database_url, clock=clock)
    yield lazy
    await lazy.aclose()


@pytest.fixture
def conversations(lazy: LazyStore) -> StatestoreConversationStore:
    return StatestoreConversationStore(lazy)
