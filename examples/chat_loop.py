"""A chat in a terminal that remembers: `python examples/chat_loop.py`, or pipe lines into it. Run it again to go on.

The model is a function here. Put the call of your provider in its place.
"""

import sys
from collections.abc import Sequence
from typing import Any

from statestore import StateStore


def model(messages: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What an SDK returns: a message, with the tokens that it took."""
    asked = [message["content"] for message in messages if message["role"] == "user"]
    answer = f"You said {asked[-1]!r}." + (f" Before that, {asked[-2]!r}." if len(asked) > 1 else "")
    usage = {"prompt_tokens": sum(len(text) // 4 for text in asked), "completion_tokens": len(answer) // 4}
    return {"role": "assistant", "content": answer, "model": "echo-1", "usage": usage}


def main() -> None:
    if sys.stdin.isatty():
        print("Say something, and end with Ctrl-D.")
    with StateStore.open("sqlite:///chat.db") as store:
        for line in sys.stdin:
            # A turn is stored as a whole or not at all: if the model fails, no question is left without its answer.
            with store.turn("chat-with-ada", max_entries=20, create=True) as turn:
                question = {"role": "user", "content": line.strip()}
                answer = model([*(entry.content for entry in turn.window), question])
                turn.append([question, answer])
            print(answer["content"])
        total = store.usage.totals()
        print(f"{total.turns} turns, {total.input_tokens} tokens in, {total.output_tokens} out")


if __name__ == "__main__":
    main()
