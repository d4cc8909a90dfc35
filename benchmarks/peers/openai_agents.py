"""openai-agents: the sessions of its SDK, `SQLAlchemySession` and `SQLiteSession`."""

from typing import Any

from agents import SQLiteSession
from agents.extensions.memory import SQLAlchemySession
from sqlalchemy.ext.asyncio import create_async_engine

from benchmarks.peers.base import AsyncPeer, sqlalchemy_url


class OverSQLAlchemy(AsyncPeer):
    async def open(self, url: str) -> None:
        self.engine = create_async_engine(sqlalchemy_url(url, "postgresql+asyncpg", "sqlite+aiosqlite"))
        self.sessions: dict[str, Any] = {}
        await SQLAlchemySession("first", engine=self.engine, create_tables=True).get_items()

    async def close(self) -> None:
        await self.engine.dispose()

    def session(self, session_id: str) -> Any:
        if session_id not in self.sessions:
            self.sessions[session_id] = SQLAlchemySession(session_id, engine=self.engine)
        return self.sessions[session_id]

    async def append(self, session_id: str, messages: list[dict[str, Any]]) -> None:
        await self.session(session_id).add_items(messages)

    async def read(self, session_id: str, last: int | None = None) -> Any:
        return await self.session(session_id).get_items(limit=last)


class OverSqlite(OverSQLAlchemy):
    async def open(self, url: str) -> None:
        self.path = url.removeprefix("sqlite:///")
        self.sessions: dict[str, Any] = {}

    async def close(self) -> None:
        for session in self.sessions.values():
            session.close()

    def session(self, session_id: str) -> Any:
        if session_id not in self.sessions:
            self.sessions[session_id] = SQLiteSession(session_id, self.path)
        return self.sessions[session_id]
