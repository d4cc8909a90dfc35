"""Beside strands' FileSessionManager: it has no store in SQL. Files have no statements, and are not synced to disk."""

import itertools
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

from strands.session.file_session_manager import FileSessionManager
from strands.session.session_repository import SessionRepository
from strands.types.session import Session, SessionAgent, SessionMessage, SessionType

from statestore.adapters.strands import StatestoreSessionRepository

Operations = dict[str, Callable[[], Any]]


@asynccontextmanager
async def ours(url: str) -> AsyncIterator[Operations]:
    repository = StatestoreSessionRepository(url)
    yield operations(repository)
    repository.close()


@asynccontextmanager
async def theirs(url: str) -> AsyncIterator[Operations]:
    with tempfile.TemporaryDirectory() as folder:
        yield operations(FileSessionManager("own", folder))


def operations(repository: SessionRepository) -> Operations:
    session_id = str(uuid4())
    repository.create_session(Session(session_id, SessionType.AGENT))
    for agent_id in ("a", "long"):
        repository.create_agent(session_id, SessionAgent(agent_id, {"step": 1}, {}))
    for n in range(200):
        repository.create_message(session_id, "long", message(n))
    made, redacted = itertools.count(), message(199)
    redacted.redact_message = redacted.message
    return {
        "create_message": lambda: repository.create_message(session_id, "a", message(next(made))),
        "update_message": lambda: repository.update_message(session_id, "long", redacted),
        "update_agent": lambda: repository.update_agent(session_id, SessionAgent("a", {"step": 2}, {})),
        "read_agent": lambda: repository.read_agent(session_id, "a"),
        "list_messages, 200": lambda: repository.list_messages(session_id, "long"),
        "list_messages, last 20 of 200": lambda: repository.list_messages(session_id, "long", offset=180),
    }


def message(n: int) -> SessionMessage:
    content: Any = {"role": "user", "content": [{"text": f"Message {n} of a conversation about the weather."}]}
    return SessionMessage.from_message(content, n)
