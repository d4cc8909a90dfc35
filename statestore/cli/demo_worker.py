"""A process of the demonstration: one of several that write at once, or one that is killed and goes on in another."""

import sys
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Final

from statestore.store import StateStore
from statestore.values.history import NewEntry, Usage

CHAT: Final = "team-chat"
RUN: Final = "night-run"
MESSAGES: Final = 40
STEPS: Final = 12
_TOOLS = ("search_web", "read_page", "read_page")
_ERROR_AT = 8


def write(store: StateStore, name: str) -> None:
    for number in range(1, MESSAGES + 1):
        said = {"role": "user", "name": name, "content": f"message {number}"}
        store.history.append(CHAT, [said])
        store.state.increment(CHAT, "messages")
        think()


def work(store: StateStore, name: str) -> None:
    done = store.history.count(RUN) // 2
    for number in range(done + 1, STEPS + 1):
        call, result = step(number)
        store.history.append(RUN, [call, result], after_seq=2 * (number - 1))
        report(number)


def think() -> None:
    """What an agent does between two messages."""
    time.sleep(0.003)


def step(number: int) -> tuple[NewEntry, NewEntry]:
    """The call of a tool and its result, after the time that both would take."""
    time.sleep(0.05)
    tool = _TOOLS[number % len(_TOOLS)]
    call_id = f"call_{number}"
    function = {"name": tool, "arguments": f'{{"number": {number}}}'}
    call = {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": call_id, "type": "function", "function": function}],
    }
    failed = number == _ERROR_AT
    content = "503 Service Unavailable" if failed else f"finding {number}"
    return (
        NewEntry(
            call,
            usage=Usage(input_tokens=900 + 350 * number, output_tokens=40),
            response_model="large-1",
            cost_usd=0.0027 + 0.00105 * number,
        ),
        NewEntry(
            {"role": "tool", "tool_call_id": call_id, "name": tool, "content": content},
            duration=timedelta(milliseconds=300 + 40 * number),
            error_type="timeout" if failed else None,
        ),
    )


def report(number: int) -> None:
    """Tell the demonstration how far it is."""
    print(number, flush=True)


def main(url: str, job: str, name: str) -> None:
    jobs: dict[str, Callable[[StateStore, str], None]] = {"write": write, "work": work}
    with StateStore.open(url) as store:
        print("ready", flush=True)
        sys.stdin.readline()  # All begin at once.
        jobs[job](store, name)


if __name__ == "__main__":
    main(*sys.argv[1:])
