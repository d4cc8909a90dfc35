"""Counting what a model of a framework costs."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.support.clock import MovableClock
from tests.support.wire import Traffic

# As in tests/contract/test_round_trips.py: by then psycopg has prepared every statement that a connection repeats.
WARM_UP = 8


@pytest.fixture
def counted_store(connect: Callable[..., Any], traffic: Traffic, clock: MovableClock) -> Any:
    """A store whose statements `statements` counts."""
    return connect(traffic.url, clock=clock)


@pytest.fixture
def statements(traffic: Traffic) -> Callable[[Callable[[], Any]], int]:
    """How many statements a call on `counted_store` sends to the database, transactions included."""

    def count(act: Callable[[], Any]) -> int:
        for _ in range(WARM_UP):
            traffic.clear()
            act()
        return len(traffic.statements)

    return count


@pytest.fixture
def on_postgresql(database_url: str) -> bool:
    return database_url.startswith("postgresql")
