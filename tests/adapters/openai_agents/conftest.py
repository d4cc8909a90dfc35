"""A store, and sessions on it."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from statestore import AsyncStateStore
from tests.support.clock import MovableClock


@pytest_asyncio.fixture
async def store(database_url: str, clock: MovableClock) -> AsyncIterator[AsyncStateStore]:
    async with AsyncStateStore.open(database_url, clock=clock) as store:
        yield store


@pytest.fixture(autouse=True)
def _no_tracing(monkeypatch: pytest.MonkeyPatch) -> None:
    from agents import set_tracing_disabled

    set_tracing_disabled(True)
