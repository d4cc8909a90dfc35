"""google-adk: `DatabaseSessionService`. A message is an event; state changes with an event."""

import uuid
from typing import Any

from google.adk.events import Event, EventActions
from google.adk.sessions import DatabaseSessionService
from google.adk.sessions.base_session_service import GetSessionConfig
from google.genai import types

from benchmarks.peers.base import AsyncPeer, sqlalchemy_url

_WHO = {"app_name": "bench", "user_id": "user"}


class Adk(AsyncPeer):
    async def open(self, url: str) -> None:
        self.service = DatabaseSessionService(sqlalchemy_url(url, "postgresql+asyncpg", "sqlite+aiosqlite"))
        self.sessions: dict[str, Any] = {}

    async def close(self) -> None:
        await self.service.close()

    async def create(self, session_id: str) -> None:
        self.sessions[session_id] = await self.service.create_session(**_WHO, session_id=session_id)

    async def append(self, session_id: str, messages: list[dict[str, Any]]) -> None:
        for message in messages:
            role = "user" if message["role"] == "user" else "model"
            content = types.Content(role=role, parts=[types.Part(text=message["content"])])
            event = Event(author=message["role"], invocation_id=str(uuid.uuid4()), content=content)
            await self.service.append_event(self.sessions[session_id], event)

    async def read(self, session_id: str, last: int | None = None) -> Any:
        config = None if last is None else GetSessionConfig(num_recent_events=last)
        session = await self.service.get_session(**_WHO, session_id=session_id, config=config)
        assert session is not None
        return session.events

    async def get(self, session_id: str, key: str) -> Any:
        config = GetSessionConfig(num_recent_events=1)
        session = await self.service.get_session(**_WHO, session_id=session_id, config=config)
        assert session is not None
        return session.state[key]

    async def set(self, session_id: str, key: str, value: Any) -> None:
        actions = EventActions(state_delta={key: value})
        event = Event(author="agent", invocation_id=str(uuid.uuid4()), actions=actions)
        await self.service.append_event(self.sessions[session_id], event)
