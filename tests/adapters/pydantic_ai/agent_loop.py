"""A process that runs an agent which books seats one after the other, and says after each step what is stored.

It goes on where another one was killed. What the tool does is in a file, as it would be in another system.
"""

import asyncio
import sys
from pathlib import Path

from pydantic_ai import Agent
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart, ToolCallPart
from pydantic_ai.models.function import AgentInfo, FunctionModel

from statestore.adapters.pydantic_ai import MessageHistory

SEATS = 6


def booked(messages: list[ModelMessage]) -> int:
    return sum(part.part_kind == "tool-return" for message in messages for part in message.parts)


def answer(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
    seat = booked(messages) + 1
    if seat > SEATS:
        return ModelResponse(parts=[TextPart("All are booked.")])
    return ModelResponse(parts=[ToolCallPart("book", {"seat": seat}, tool_call_id=f"call-{seat}")])


async def main(url: str, file: str) -> None:
    agent = Agent(FunctionModel(answer))

    @agent.tool_plain
    def book(seat: int) -> str:
        with Path(file).open("a") as seats:
            seats.write(f"{seat}\n")
        return f"seat {seat}"

    history = MessageHistory("trip", url, user_id="ada")
    stored = await history.load()
    prompt = None if stored else "Book all seats."
    async with agent.iter(prompt, message_history=stored) as run:
        async for _ in run:
            await history.append(run.new_messages())
            print("stored", len(await history.load()), flush=True)
            if "--slow" in sys.argv:
                await asyncio.sleep(0.05)
    await history.append(run.new_messages())
    print("done", flush=True)
    await history.aclose()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2]))
