"""A model that says what it is told to, without a network."""

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from strands.models import Model

USED = {"inputTokens": 10, "outputTokens": 5, "totalTokens": 15}


class FakeModel(Model):
    """Its answers are texts, or names of tools to call; each uses `USED`. `on_call` sees each request."""

    def __init__(self, *answers: str | dict[str, Any], on_call: Callable[[Sequence[Any]], object] = len) -> None:
        self.answers = list(answers)
        self._on_call = on_call

    def update_config(self, **config: Any) -> None:
        pass

    def get_config(self) -> dict[str, Any]:
        return {}

    async def structured_output(self, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        raise NotImplementedError
        yield

    async def stream(self, messages: Any, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        self._on_call(messages)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        yield {"messageStart": {"role": "assistant"}}
        if isinstance(answer, str):
            yield {"contentBlockDelta": {"delta": {"text": answer}}}
        else:
            yield {"contentBlockStart": {"start": {"toolUse": {"name": answer["tool"], "toolUseId": answer["id"]}}}}
            yield {"contentBlockDelta": {"delta": {"toolUse": {"input": "{}"}}}}
        yield {"contentBlockStop": {}}
        yield {"messageStop": {"stopReason": "end_turn" if isinstance(answer, str) else "tool_use"}}
        yield {"metadata": {"usage": USED, "metrics": {"latencyMs": 20}}}
