"""A store of transcripts on each database, and what it costs."""

from collections.abc import AsyncIterator

import pytest

from statestore import LazyStore
from statestore.adapters.claude_agent_sdk import StatestoreSessionStore
from tests.support.clock import MovableClock
from tests.support.wire import Traffic


@pytest.fixture
async def lazy(database_url: str, clock: MovableClock) -> AsyncIterator[LazyStore]:
    lazy = LazyStore(database_url, clock=clock)
    yield lazy
    await lazy.aclose()


@pytest.fixture
def transcripts(lazy: LazyStore) -> StatestoreSessionStore:
    return StatestoreSessionStore(lazy)


@pytest.fixture
async def counted(traffic: Traffic) -> AsyncIterator[StatestoreSessionStore]:
    """A store whose statements `traffic` has."""
    async with StatestoreSessionStore(traffic.url) as store:
        yield store
