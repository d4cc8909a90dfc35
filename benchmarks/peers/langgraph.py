"""LangGraph: its savers, which keep the whole conversation in each checkpoint, and its stores for values."""

import sqlite3
from contextlib import ExitStack
from typing import Any

from langgraph.checkpoint.base import empty_checkpoint
from langgraph.checkpoint.postgres import PostgresSaver
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.store.postgres import PostgresStore
from langgraph.store.sqlite import SqliteStore

from benchmarks.peers.base import Peer


class _Saver(Peer):
    saver: Any

    def close(self) -> None:
        self.stack.close()

    def begin(self, session_id: str) -> None:
        self.configs[session_id] = {"configurable": {"thread_id": session_id, "checkpoint_ns": ""}}
        self.messages[session_id] = []

    def append(self, session_id: str, messages: list[dict[str, Any]]) -> None:
        held = self.messages[session_id]
        held += messages
        version = self.saver.get_next_version(self.versions.get(session_id), None)
        self.versions[session_id] = version
        checkpoint = empty_checkpoint()
        checkpoint["channel_values"] = {"messages": held}
        checkpoint["channel_versions"] = {"messages": version}
        metadata = {"source": "loop", "step": len(held), "parents": {}}
        self.configs[session_id] = self.saver.put(self.configs[session_id], checkpoint, metadata, {"messages": version})

    def read(self, session_id: str, last: int | None = None) -> Any:
        config = {"configurable": {"thread_id": session_id, "checkpoint_ns": ""}}
        found = self.saver.get_tuple(config).checkpoint["channel_values"]["messages"]
        return found if last is None else found[-last:]

    def open(self, url: str) -> None:
        self.stack = ExitStack()
        self.configs: dict[str, Any] = {}
        self.messages: dict[str, Any] = {}
        self.versions: dict[str, Any] = {}
        self.saver = self.connect(url)
        self.saver.setup()

    def connect(self, url: str) -> Any:
        raise NotImplementedError


class PostgresCheckpoints(_Saver):
    def connect(self, url: str) -> Any:
        return self.stack.enter_context(PostgresSaver.from_conn_string(url))


class SqliteCheckpoints(_Saver):
    def connect(self, url: str) -> Any:
        return self.stack.enter_context(SqliteSaver.from_conn_string(url.removeprefix("sqlite:///")))


class PostgresValues(Peer):
    store: Any

    def open(self, url: str) -> None:
        self.stack = ExitStack()
        self.store = self.stack.enter_context(PostgresStore.from_conn_string(url))
        self.store.setup()

    def close(self) -> None:
        self.stack.close()

    def get(self, session_id: str, key: str) -> Any:
        return self.store.get(("state", session_id), key).value

    def set(self, session_id: str, key: str, value: Any) -> None:
        self.store.put(("state", session_id), key, value)


class SqliteValues(PostgresValues):
    def open(self, url: str) -> None:
        self.stack = ExitStack()
        connection = sqlite3.connect(url.removeprefix("sqlite:///"), check_same_thread=False, isolation_level=None)
        self.stack.callback(connection.close)
        self.store = SqliteStore(connection)
        self.store.setup()
