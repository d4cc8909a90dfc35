"""Beside ADK's own DatabaseSessionService, on aiosqlite and asyncpg."""

import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

from google.adk.events.event import Event
from google.adk.events.event_actions import EventActions
from google.adk.sessions.base_session_service import BaseSessionService, GetSessionConfig
from google.adk.sessions.database_session_service import DatabaseSessionService
from google.genai import types

from statestore.adapters.adk import StatestoreSessionService

Operations = dict[str, Callable[[], Awaitable[Any]]]
ADA: Any = {"app_name": "travel", "user_id": "ada"}


@asynccontextmanager
async def ours(url: str) -> AsyncIterator[Operations]:
    async with StatestoreSessionService(url) as service:
        yield await operations(service)


@asynccontextmanager
async def theirs(url: str) -> AsyncIterator[Operations]:
    driver = "postgresql+asyncpg" if url.startswith("postgresql") else "sqlite+aiosqlite"
    async with DatabaseSessionService(f"{driver}:{url.split(':', 1)[1]}") as service:
        yield await operations(service)


async def operations(service: BaseSessionService) -> Operations:
    session = await service.create_session(**ADA, state={"app:a": 1, "user:u": 2, "own": 3})
    long = await service.create_session(**ADA)
    bob: Any = {"app_name": "travel", "user_id": f"bob-{uuid4()}"}
    for n in range(200):
        await service.append_event(long, event(n))
    for n in range(20):
        await service.append_event(await service.create_session(**bob, state={"n": n}), event(n))
    made = itertools.count()

    async def append_with_state() -> None:
        n = next(made)
        await service.append_event(session, event(n, {"app:a": n, "user:u": n, "own": n}))

    async def create_and_delete() -> None:
        one = await service.create_session(**ADA)
        await service.delete_session(**ADA, session_id=one.id)

    recent = GetSessionConfig(num_recent_events=20)
    return {
        "create_session, delete_session": create_and_delete,
        "append_event": lambda: service.append_event(session, event(next(made))),
        "append_event, state in three scopes": append_with_state,
        "get_session, 200 events": lambda: service.get_session(**ADA, session_id=long.id),
        "get_session, last 20 of 200": lambda: service.get_session(**ADA, session_id=long.id, config=recent),
        "list_sessions, 20": lambda: service.list_sessions(**bob),
        "get_user_state": lambda: service.get_user_state(**ADA),
    }


def event(n: int, delta: dict[str, Any] | None = None) -> Event:
    content = types.Content(role="user", parts=[types.Part(text=f"Message {n} of a conversation about the weather.")])
    return Event(invocation_id="i", author="user", content=content, actions=EventActions(state_delta=delta or {}))
