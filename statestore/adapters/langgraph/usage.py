"""The tokens of models' messages, which are recorded as nodes write them."""

from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any

from langchain_core.messages import AIMessage

from statestore import ConflictError, InvalidValueError, NewSession, Usage
from statestore.adapters.flows import Flow, store
from statestore.adapters.layouts import langgraph as records
from statestore.adapters.layouts.labels import label

_REMEMBERED = 10_000


class UsageCounter:
    """Records each message once, wherever in a graph it is written again; it remembers which ones were."""

    def __init__(self) -> None:
        self._counted: set[str] = set()

    def count(self, thread_id: str, task: str, new: NewSession, values: Iterable[Any]) -> Flow[None]:
        """Record what is not recorded yet, for the user and the agent of *new*."""
        for number, message in enumerate(_answers(values)):
            record_id = records.usage_id(message.id or f"{thread_id}/{task}/{number}")
            if record_id in self._counted:
                continue
            about = message.response_metadata
            # If it was written before, with other figures, the first ones count; and no graph fails for its figures.
            with suppress(ConflictError, InvalidValueError):
                yield store.usage.record(
                    record_id=record_id,
                    usage=Usage.of(message.usage_metadata, strict=False),
                    session_id=thread_id,
                    user_id=new.user_id,
                    agent_name=new.agent_name,
                    provider_name=label(about.get("model_provider")),
                    model=label(about.get("model_name") or about.get("model")),
                )
            if len(self._counted) >= _REMEMBERED:
                self._counted.clear()
            self._counted.add(record_id)


def _answers(values: Iterable[Any]) -> Iterator[AIMessage]:
    """The messages of models that say what they have used."""
    for value in values:
        if isinstance(value, AIMessage):
            if value.usage_metadata:
                yield value
        elif isinstance(value, (list, tuple)):
            yield from _answers(value)
