"""An agent that plans a trip: a model that asks for tools, and the tools. It is killed while a tool runs.

Called with a URL, a file to note calls in, and the number of the call in which the process kills itself.
"""

import os
import signal
import sys
from pathlib import Path

from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, ToolCall
from langchain_core.tools import tool
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition

from statestore.adapters.langgraph import StatestoreSaver

PLACES = ["Konstanz", "Meersburg", "Lindau"]
THREAD = {"configurable": {"thread_id": "trip", "user_id": "ada"}}


def main(url: str, notes: Path, die_at: int) -> None:
    def note(what: str) -> None:
        with notes.open("a") as file:
            file.write(f"{what}\n")
        if len(notes.read_text().splitlines()) == die_at:
            os.kill(os.getpid(), signal.SIGKILL)

    @tool
    def weather(place: str) -> str:
        """The weather of a place."""
        note(f"tool {place}")
        return f"sunny in {place}"

    def agent(state: MessagesState) -> dict[str, list[AIMessage]]:
        answered = sum(message.type == "tool" for message in state["messages"])
        calls = [ToolCall(name="weather", args={"place": place}, id=place) for place in PLACES[answered : answered + 1]]
        answer = AIMessage(
            "Wait." if calls else "Sunny everywhere.",
            id=f"answer-{answered}",
            tool_calls=calls,
            usage_metadata={"input_tokens": 10, "output_tokens": 1, "total_tokens": 11},
        )
        model = GenericFakeChatModel(messages=iter([answer]))
        note(f"model {answered}")
        return {"messages": [model.invoke(state["messages"])]}

    builder = StateGraph(MessagesState)
    builder.add_node("agent", agent)
    builder.add_node("tools", ToolNode([weather]))
    builder.add_edge(START, "agent")
    builder.add_conditional_edges("agent", tools_condition)
    builder.add_edge("tools", "agent")
    saver = StatestoreSaver(url)
    graph = builder.compile(checkpointer=saver)
    begun = saver.get_tuple(THREAD) is not None
    asked = None if begun else {"messages": [("user", "How is the weather around the lake?")]}
    graph.invoke(asked, THREAD, durability="sync")
    saver.close()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
