from collections.abc import AsyncIterator

import pytest

from statestore import AsyncStateStore
from statestore.adapters.adk import StatestoreSessionService
from tests.support.clock import MovableClock


@pytest.fixture
async def store(database_url: str, clock: MovableClock) -> AsyncIterator[AsyncStateStore]:
    async with AsyncStateStore.open(database_url, clock=clock) as store:
        yield store


@pytest.fixture
def service(store: AsyncStateStore) -> StatestoreSessionService:
    return StatestoreSessionService(store)
