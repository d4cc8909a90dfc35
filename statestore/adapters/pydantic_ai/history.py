"""The messages of one conversation, to be passed as `message_history`."""

from collections import Counter
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from pydantic_ai.messages import ModelMessage, ModelRequest, ModelResponse

from statestore import InvalidValueError, LazyStore, NewEntry, NewSession, SessionNotFoundError, StoreLike
from statestore.adapters.flows import Flow, OnStore, awaited, called, store
from statestore.adapters.pydantic_ai.messages import AGENT, entry_of, messages_of

_MESSAGES = (ModelRequest, ModelResponse)


class MessageHistory(OnStore):
    """The messages of one session, oldest first."""

    def __init__(
        self,
        session_id: str,
        store: StoreLike = None,
        *,
        user_id: str | None = None,
        agent_name: str = AGENT,
        ttl: timedelta | None = None,
    ) -> None:
        """Keep the messages of a session in *store*: a `LazyStore`, an open store, a URL, or None for STATESTORE_URL.

        Args:
            session_id: The session. The first append creates it.
            store: Where to keep it. It is opened at first use.
            user_id: The user that a new session belongs to.
            agent_name: The agent, for reports by agent.
            ttl: How long after its last use a new session expires; None for the store's default.
        """
        self._session_id = session_id
        self._store = LazyStore.of(store)
        self._agent_name = agent_name
        self._new = NewSession(user_id=user_id, agent_name=agent_name, ttl=ttl)

    def _load(self, *, last: int | None = None) -> Flow[list[ModelMessage]]:
        """The messages, or the *last* ones; none if there is no session."""
        try:
            contents = yield store.history.messages(self._session_id, last=last)
        except SessionNotFoundError:
            return []
        return messages_of(contents, "session_id", self._session_id)

    load_sync, load = called(_load), awaited(_load)

    def _append(self, messages: Sequence[ModelMessage]) -> Flow[None]:
        """Store messages at the end, all or none; those of a run that are already there are not stored again.

        Args:
            messages: The messages of a run from its first on, as `new_messages()` gives them during and after the run.
                They may be of several runs. Those without a `run_id` are stored each time.

        Raises:
            InvalidValueError: One of them is not a message. Nothing was written.
            ConflictError: The session has another message in the place of one of these. Nothing was written.
        """
        yield store.history.append(self._session_id, self._entries(messages), create=self._new)

    append_sync, append = called(_append), awaited(_append)

    def _entries(self, messages: Any) -> list[NewEntry]:
        if not isinstance(messages, Sequence) or any(not isinstance(one, _MESSAGES) for one in messages):
            raise InvalidValueError("messages", "must be a list of messages of pydantic-ai, as new_messages() returns")
        numbers = Counter[str]()
        entries = []
        for message in messages:
            entry_id = None
            if message.run_id:
                numbers[message.run_id] += 1
                entry_id = f"{message.run_id}/{numbers[message.run_id]}"
            entries.append(entry_of(message, self._agent_name, entry_id=entry_id))
        return entries
