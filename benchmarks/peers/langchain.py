"""LangChain: the chat histories of langchain-community (SQLAlchemy) and langchain-postgres (psycopg)."""

import uuid
from typing import Any

import psycopg
from langchain_community.chat_message_histories import SQLChatMessageHistory
from langchain_core.messages import AIMessage, HumanMessage
from langchain_postgres import PostgresChatMessageHistory
from sqlalchemy import create_engine

from benchmarks.peers.base import Peer, sqlalchemy_url


class Community(Peer):
    def open(self, url: str) -> None:
        self.engine = create_engine(sqlalchemy_url(url, "postgresql+psycopg", "sqlite"))
        self.sessions: dict[str, Any] = {}

    def close(self) -> None:
        self.engine.dispose()

    def session(self, session_id: str) -> Any:
        if session_id not in self.sessions:
            self.sessions[session_id] = SQLChatMessageHistory(session_id, connection=self.engine)
        return self.sessions[session_id]

    def begin(self, session_id: str) -> None:
        self.session(session_id)

    def append(self, session_id: str, messages: list[dict[str, Any]]) -> None:
        self.session(session_id).add_messages(
            [(HumanMessage if m["role"] == "user" else AIMessage)(m["content"]) for m in messages]
        )

    def read(self, session_id: str, last: int | None = None) -> Any:
        found = self.session(session_id).messages
        return found if last is None else found[-last:]


class Postgres(Community):
    def open(self, url: str) -> None:
        self.connection = psycopg.connect(url)
        PostgresChatMessageHistory.create_tables(self.connection, "chat_history")
        self.sessions: dict[str, Any] = {}

    def close(self) -> None:
        self.connection.close()

    def session(self, session_id: str) -> Any:
        if session_id not in self.sessions:
            self.sessions[session_id] = PostgresChatMessageHistory(
                "chat_history", session_id_of(session_id), sync_connection=self.connection
            )
        return self.sessions[session_id]


def session_id_of(name: str) -> str:
    """It takes UUIDs only."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, name))
