"""A model of agno's that answers offline, and runs made by hand."""

import time
from typing import Any

from agno.metrics import MessageMetrics, RunMetrics
from agno.models.base import Model
from agno.models.message import Message
from agno.models.response import ModelResponse
from agno.run.agent import RunOutput
from agno.run.base import RunStatus


class FakeModel(Model):
    """Answers with how many messages it got, for ten tokens of input and five of output."""

    def __init__(self) -> None:
        super().__init__(id="fake-1", name="Fake", provider="Fakes")

    def invoke(self, messages: list[Message], *args: Any, **kwargs: Any) -> ModelResponse:
        used = MessageMetrics(input_tokens=10, output_tokens=5, total_tokens=15)
        return ModelResponse(role="assistant", content=f"{len(messages)} messages", response_usage=used)

    async def ainvoke(self, messages: list[Message], *args: Any, **kwargs: Any) -> ModelResponse:
        return self.invoke(messages)

    def invoke_stream(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError

    def ainvoke_stream(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError

    def _parse_provider_response(self, response: Any, **kwargs: Any) -> Any:
        return response

    def _parse_provider_response_delta(self, response: Any, **kwargs: Any) -> Any:
        return response


def made_run(run_id: str, text: str = "done", **given: Any) -> RunOutput:
    """A run of three messages, as an agent stores it."""
    said = [Message(role="user", content="Is Saturday good for a walk?"), Message(role="assistant", content=text)]
    metrics = RunMetrics(input_tokens=10, output_tokens=5, total_tokens=15, cache_read_tokens=4, duration=0.5)
    values: dict[str, Any] = {
        "agent_id": "guide",
        "content": text,
        "messages": said,
        "metrics": metrics,
        "model": "fake-1",
        "model_provider": "Fakes",
        "status": RunStatus.completed,
        "created_at": int(time.time()),
    }
    return RunOutput(run_id=run_id, **{**values, **given})
