"""A log of messages as stores for pydantic-ai keep it: a message has an id of its own and is found by it."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from statestore import NewEntry, NewSession

Store = Any


class MessageLog:
    def __init__(self, store: Store, conversation_id: str, *, owner_id: str | None = None) -> None:
        self._store = store
        self._conversation_id = conversation_id
        self._session = NewSession(user_id=owner_id)

    def append(
        self, messages: Sequence[Mapping[str, Any]], *, on_conflict: Literal["raise", "keep", "replace"] = "raise"
    ) -> list[int]:
        """Add the messages whose ids are new; *on_conflict* says what becomes of an id that has another message.

        Returns the positions of all, in the order given.
        """
        entries = [
            NewEntry(message, role=message["kind"], entry_id=message["id"], metadata={"run_id": message["run_id"]})
            for message in messages
        ]
        stored = self._store.history.append(
            self._conversation_id, entries, create=self._session, on_conflict=on_conflict
        )
        return [entry.seq for entry in stored]

    def find(self, message_id: str) -> dict[str, Any] | None:
        entry = self._store.history.find(self._conversation_id, message_id)
        return None if entry is None else entry.content

    def where(self, message_id: str) -> list[str]:
        """The conversations that have a message, of all that there are."""
        return [place.session_id for place in self._store.history.locate_many([message_id]).get(message_id, [])]

    def after(self, message_id: str | None = None) -> list[dict[str, Any]]:
        """The messages after one, or all."""
        if message_id is None:
            messages: list[dict[str, Any]] = self._store.history.messages(self._conversation_id)
            return messages
        entry = self._store.history.find(self._conversation_id, message_id)
        if entry is None:
            raise KeyError(message_id)
        messages = self._store.history.messages(self._conversation_id, after=entry.seq)
        return messages

    def rate(self, message_id: str, rating: int) -> None:
        """Put a rating beside a message, and nothing of it into the message."""
        entry = self._store.history.find(self._conversation_id, message_id)
        if entry is None:
            raise KeyError(message_id)
        self._store.history.annotate(self._conversation_id, entry.seq, {"rating": rating})
