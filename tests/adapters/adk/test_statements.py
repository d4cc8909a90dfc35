"""How many statements each call takes, those of transactions included."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from google.adk.events.event import Event
from google.adk.events.event_actions import EventActions

from statestore import AsyncStateStore
from statestore.adapters.adk import StatestoreSessionService
from tests.support.wire import Traffic

ADA: Any = {"app_name": "travel", "user_id": "ada"}
Count = Callable[[Callable[[], Awaitable[Any]]], Awaitable[int]]
# By then psycopg has prepared every statement that a connection repeats.
WARM_UP = 8


@pytest.fixture
async def service(traffic: Traffic) -> AsyncIterator[StatestoreSessionService]:
    async with AsyncStateStore.open(traffic.url) as store:
        yield StatestoreSessionService(store)


@pytest.fixture
def count(traffic: Traffic) -> Count:
    async def count(act: Callable[[], Awaitable[Any]]) -> int:
        for _ in range(WARM_UP):
            traffic.clear()
            await act()
        return len(traffic.statements)

    return count


@pytest.fixture
def on_postgresql(database_url: str) -> bool:
    return database_url.startswith("postgresql")


async def test_a_session_is_read_in_two(service: StatestoreSessionService, count: Count) -> None:
    session = await service.create_session(**ADA, state={"app:a": 1, "user:u": 2, "own": 3})
    await service.append_event(session, Event(author="user"))
    assert await count(lambda: service.get_session(**ADA, session_id=session.id)) == 2


async def test_an_event_is_appended_in_one(
    service: StatestoreSessionService, count: Count, on_postgresql: bool
) -> None:
    session = await service.create_session(**ADA)
    statements = await count(lambda: service.append_event(session, Event(author="user")))
    assert statements == (1 if on_postgresql else 4)


async def test_an_event_with_changes_of_state_is_one_transaction(
    service: StatestoreSessionService, count: Count, on_postgresql: bool
) -> None:
    session = await service.create_session(**ADA)

    async def append() -> None:
        delta = {"app:a": len(session.events), "user:u": 2, "own": 3}
        await service.append_event(session, Event(author="user", actions=EventActions(state_delta=delta)))

    assert await count(append) == (7 if on_postgresql else 9)


async def test_a_session_is_created_in_two(
    service: StatestoreSessionService, count: Count, on_postgresql: bool
) -> None:
    assert await count(lambda: service.create_session(**ADA)) == (2 if on_postgresql else 4)


async def test_twenty_one_sessions_are_listed_in_three(service: StatestoreSessionService, count: Count) -> None:
    for n in range(21):
        session = await service.create_session(**ADA, state={"n": n, "user:u": n, "app:a": n})
        await service.append_event(session, Event(author="user"))
    assert await count(lambda: service.list_sessions(**ADA)) == 3
    assert await count(lambda: service.get_user_state(**ADA)) == 1
