"""A session as openai-agents wants it, and the usage of a run, which is known only after its items are stored."""

from collections.abc import Mapping, Sequence
from typing import Any

from statestore import NewEntry, SessionNotFoundError, Usage

Store = Any


class OpenAIAgentsSession:
    def __init__(self, store: Store, session_id: str) -> None:
        self._store = store
        self.session_id = session_id

    def get_items(self, limit: int | None = None) -> list[Any]:
        """The newest items, oldest first."""
        try:
            items: list[Any] = self._store.history.messages(self.session_id, last=limit)
        except SessionNotFoundError:
            return []
        return items

    def add_items(self, items: Sequence[Mapping[str, Any]]) -> None:
        if items:
            self._store.history.append(self.session_id, [NewEntry(item) for item in items], create=True)

    def pop_item(self) -> Any:
        """Remove the newest item and return it; None if there is none."""
        try:
            popped = self._store.history.pop_last(self.session_id)
        except SessionNotFoundError:
            return None
        return popped[0].content if popped else None

    def clear_session(self) -> None:
        try:
            self._store.history.clear(self.session_id)
        except SessionNotFoundError:
            return

    def store_run_usage(self, run_id: str, usage: Mapping[str, Any], *, model: str | None = None) -> None:
        """What a run used, once, however often it is told."""
        self._store.usage.record(
            record_id=run_id, usage=_usage(usage), session_id=self.session_id, model=model, provider_name="openai"
        )

    def store_usage_of_newest(self, usage: Mapping[str, Any], *, model: str | None = None) -> None:
        """What the call used that gave the newest item."""
        [newest] = self._store.history.read(self.session_id, last=1)
        self._store.history.set_usage(self.session_id, newest.seq, _usage(usage), response_model=model)


def _usage(usage: Mapping[str, Any]) -> Usage:
    return Usage(
        input_tokens=usage["input_tokens"],
        output_tokens=usage["output_tokens"],
        cache_read_input_tokens=usage.get("input_tokens_details", {}).get("cached_tokens"),
        reasoning_output_tokens=usage.get("output_tokens_details", {}).get("reasoning_tokens"),
    )
