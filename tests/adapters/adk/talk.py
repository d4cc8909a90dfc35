"""An agent in a process of its own: `python -m tests.adapters.adk.talk URL [INVOCATION]`.

It calls a tool until the tool has counted to six, and then answers. It prints the id of each event that the runner has
acknowledged. With an invocation, it goes on with that one.
"""

import asyncio
import sys
from collections.abc import AsyncGenerator
from typing import Any

from google.adk.agents.llm_agent import LlmAgent
from google.adk.apps.app import App, ResumabilityConfig
from google.adk.models.base_llm import BaseLlm
from google.adk.models.llm_request import LlmRequest
from google.adk.models.llm_response import LlmResponse
from google.adk.runners import Runner
from google.adk.tools.tool_context import ToolContext
from google.genai import types

from statestore.adapters.adk import StatestoreSessionService

S: Any = {"user_id": "ada", "session_id": "s"}
LAST = 6


def step(tool_context: ToolContext) -> dict[str, int]:
    """Count one step."""
    n = tool_context.state.get("step", 0) + 1
    tool_context.state["step"] = n
    tool_context.state["user:step"] = n
    return {"step": n}


class FakeLlm(BaseLlm):
    async def generate_content_async(
        self, llm_request: LlmRequest, stream: bool = False
    ) -> AsyncGenerator[LlmResponse, None]:
        parts = [part for content in llm_request.contents for part in content.parts or ()]
        answers = [part.function_response.response or {} for part in parts if part.function_response]
        done = any(answer.get("step") == LAST for answer in answers)
        part = types.Part(text="Done.") if done else types.Part(function_call=types.FunctionCall(name="step", args={}))
        used = types.GenerateContentResponseUsageMetadata(prompt_token_count=10, candidates_token_count=1)
        yield LlmResponse(
            content=types.Content(role="model", parts=[part]), usage_metadata=used, model_version="fake-1"
        )


def runner(service: StatestoreSessionService) -> Runner:
    agent = LlmAgent(name="counter", model=FakeLlm(model="fake"), tools=[step])
    app = App(name="count", root_agent=agent, resumability_config=ResumabilityConfig(is_resumable=True))
    return Runner(app=app, session_service=service)


async def main(url: str, invocation_id: str | None = None) -> None:
    async with StatestoreSessionService(url) as service:
        if invocation_id is None:
            await service.create_session(app_name="count", **S)
            asked: Any = {"new_message": types.Content(role="user", parts=[types.Part(text="Count.")])}
        else:
            asked = {"invocation_id": invocation_id}
        async for event in runner(service).run_async(**S, **asked):
            print(event.invocation_id, event.id, flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
