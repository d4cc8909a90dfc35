"""A real agent loop, with a model that answers from a script. Run as a process that is killed, and as one that goes on.

    python -m tests.adapters.openai_agents.agent_loop URL FOLDER

Each turn asks a question; the model calls a tool, and answers with what it returned. What has been acknowledged is
written to FOLDER/acknowledged, and what the tool did to FOLDER/calls.
"""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from agents import Agent, Model, ModelResponse, Runner, Usage, function_tool, set_tracing_disabled
from openai.types.responses import ResponseFunctionToolCall, ResponseOutputMessage, ResponseOutputText

from statestore.adapters.openai_agents import StatestoreSession

TURNS = 24


class Scripted(Model):
    """Calls the tool for a question, and says what the tool returned."""

    async def get_response(self, system_instructions: Any, input: Any, *_: Any, **__: Any) -> ModelResponse:
        last = input[-1]
        if last.get("type") == "function_call_output":
            text = ResponseOutputText(text=f"It is {last['output']}.", type="output_text", annotations=[])
            output: Any = ResponseOutputMessage(
                id=f"msg_{last['call_id']}", content=[text], role="assistant", status="completed", type="message"
            )
        else:
            number = last["content"].split()[-1]
            output = ResponseFunctionToolCall(
                id=f"fc_{number}",
                call_id=f"call_{number}",
                name="look_up",
                arguments=json.dumps({"number": int(number)}),
                type="function_call",
            )
        used = Usage(requests=1, input_tokens=10, output_tokens=2, total_tokens=12)
        return ModelResponse(output=[output], usage=used, response_id=None)

    def stream_response(self, *_: Any, **__: Any) -> Any:
        raise NotImplementedError


async def main(url: str, folder: Path) -> None:
    set_tracing_disabled(True)

    @function_tool
    async def look_up(number: int) -> str:
        """Look something up."""
        await asyncio.sleep(0.005)
        return str(number * number)

    agent = Agent(name="clerk", model=Scripted(), tools=[look_up])
    session = StatestoreSession("loop", url)
    done = sum(item.get("role") == "assistant" for item in await session.get_items())
    # The runner stores a question before its answer is there: what was cut off is taken back, and asked again.
    while (items := await session.get_items(1)) and items[0].get("role") != "assistant":
        await session.pop_item()
    with (folder / "acknowledged").open("a", buffering=1) as acknowledged:
        for number in range(done, TURNS):
            result = await Runner.run(agent, f"What is the square of {number}", session=session)
            await session.store_run_usage(result)
            acknowledged.write(f"{number} {result.final_output}\n")
    await session.aclose()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2])))
