from collections.abc import Iterator

import pytest

from statestore import StateStore
from statestore.adapters.strands import StatestoreSessionRepository
from tests.support.clock import MovableClock


@pytest.fixture
def store(database_url: str, clock: MovableClock) -> Iterator[StateStore]:
    with StateStore.open(database_url, clock=clock) as store:
        yield store


@pytest.fixture
def repository(store: StateStore) -> StatestoreSessionRepository:
    return StatestoreSessionRepository(store, user_id="ada")
