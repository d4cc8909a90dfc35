"""agno: its databases, which keep a session's runs. A run of one message is what a single append comes to."""

import time
import uuid
from typing import Any

from agno.db.base import SessionType
from agno.db.postgres import PostgresDb
from agno.db.sqlite import SqliteDb
from agno.models.message import Message
from agno.run.agent import RunOutput
from agno.session import AgentSession

from benchmarks import data
from benchmarks.peers.base import Peer


class Postgres(Peer):
    def open(self, url: str) -> None:
        self.database = self.connect(url)
        self.sessions: dict[str, AgentSession] = {}
        self.lengths: dict[str, int] = {}

    def connect(self, url: str) -> Any:
        return PostgresDb(db_url=url.replace("postgresql://", "postgresql+psycopg://", 1))

    def create(self, session_id: str) -> None:
        self.sessions[session_id] = AgentSession(
            session_id, agent_id="agent", user_id="user", session_data={}, created_at=int(time.time())
        )
        self.lengths[session_id] = 0
        self.database.upsert_session(self.sessions[session_id])

    def append(self, session_id: str, messages: list[dict[str, Any]]) -> None:
        run = RunOutput(
            run_id=str(uuid.uuid4()),
            session_id=session_id,
            agent_id="agent",
            messages=[Message(role=message["role"], content=message["content"]) for message in messages],
        )
        self.database.upsert_run(run, session_id, user_id="user", run_index=self.lengths[session_id])
        self.lengths[session_id] += 1
        self.database.upsert_session(self.sessions[session_id])

    def prepare(self) -> None:
        """One run for each message, so that the last 20 messages are the last 20 runs."""
        for session_id in self.history():
            self.create(session_id)
            for number in range(200):
                self.append(session_id, [data.message(number)])

    def read(self, session_id: str, last: int | None = None) -> Any:
        found = self.database.get_session(session_id, SessionType.AGENT, runs_limit=last)
        return [message for run in found.runs for message in run.messages]


class Sqlite(Postgres):
    def connect(self, url: str) -> Any:
        return SqliteDb(db_file=url.removeprefix("sqlite:///"))
