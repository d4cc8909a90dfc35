"""Messages as strands keeps them: a session has agents, an agent has messages under an index, and one can be redacted.

Each agent is a session that belongs to the session of them all.
"""

from collections.abc import Mapping
from typing import Any

from statestore import EntryNotFoundError, NewSession

Store = Any


class StrandsRepository:
    def __init__(self, store: Store, session_id: str) -> None:
        self._store = store
        self._session_id = session_id
        store.sessions.open(session_id)

    def create_agent(self, agent_id: str, state: Mapping[str, Any] | None = None) -> None:
        with self._store.transaction() as tx:
            tx.sessions.create(self._id(agent_id), agent_name=agent_id, belongs_to=self._session_id)
            tx.state.set_many(self._id(agent_id), state or {})

    def read_agent(self, agent_id: str) -> dict[str, Any] | None:
        if not self._store.sessions.exists(self._id(agent_id)):
            return None
        state: dict[str, Any] = self._store.state.get_all(self._id(agent_id))
        return state

    def update_agent(self, agent_id: str, state: Mapping[str, Any]) -> None:
        self._store.state.set_many(self._id(agent_id), state)

    def agents(self) -> list[str]:
        parts = self._store.sessions.page(belongs_to=self._session_id, order_by="created_at", descending=False)
        return [part.agent_name for part in parts.sessions]

    def create_message(self, agent_id: str, message: Mapping[str, Any]) -> int:
        """Append a message. Returns its index, from 0."""
        agent = NewSession(agent_name=agent_id, belongs_to=self._session_id)
        [entry] = self._store.history.append(self._id(agent_id), [message], create=agent)
        return int(entry.seq) - 1

    def read_message(self, agent_id: str, index: int) -> dict[str, Any] | None:
        try:
            message: dict[str, Any] = self._store.history.get(self._id(agent_id), index + 1).content
        except EntryNotFoundError:
            return None
        return message

    def update_message(self, agent_id: str, index: int, message: Mapping[str, Any]) -> None:
        """Replace a message, which is then gone."""
        self._store.history.replace(self._id(agent_id), index + 1, message)

    def list_messages(self, agent_id: str, *, limit: int | None = None, offset: int = 0) -> list[dict[str, Any]]:
        messages: list[dict[str, Any]] = self._store.history.messages(self._id(agent_id), after=offset, limit=limit)
        return messages

    def delete(self) -> None:
        self._store.sessions.delete(self._session_id)

    def _id(self, agent_id: str) -> str:
        return f"{self._session_id}/{agent_id}"
