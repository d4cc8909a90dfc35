"""The 200 real runs that lie beside the checkout, or runs made up in their image where they do not."""

import json
import random
from pathlib import Path
from typing import Any

FILE = Path(__file__).parents[3] / "shared" / "data" / "airline_trajectories.jsonl"


def file(directory: Path) -> Path:
    """The runs as a file of JSON Lines, one conversation a line; made in *directory* if they are made up."""
    if FILE.exists():
        return FILE
    made_up = directory / "trajectories.jsonl"
    made_up.write_text("".join(json.dumps(run) + "\n" for run in runs()))
    return made_up


def count_messages(file: Path) -> int:
    total = sum(len(json.loads(line)["messages"]) for line in file.read_text().splitlines())
    assert file != FILE or total == 5308
    return total


def runs() -> list[dict[str, Any]]:
    if FILE.exists():
        return [json.loads(line) for line in FILE.read_text().splitlines()]
    return [_made_up(random.Random(task * 4 + trial), task, trial) for task in range(50) for trial in range(4)]


def _made_up(dice: random.Random, task: int, trial: int) -> dict[str, Any]:
    messages: list[dict[str, Any]] = [{"role": "system", "content": f"policy {task}"}]
    for turn in range(dice.randint(2, 10)):
        messages.append({"role": "user", "content": "x" * dice.randint(1, 200)})
        for step in range(dice.randint(0, 3)):
            call = {"id": f"call_{turn}_{step}", "type": "function", "function": {"name": "look", "arguments": "{}"}}
            messages.append({"role": "assistant", "content": None, "tool_calls": [call]})
            result = {"role": "tool", "tool_call_id": call["id"], "name": "look", "content": "y" * dice.randint(1, 400)}
            messages.append(result)
        messages.append({"role": "assistant", "content": "z" * dice.randint(1, 200)})
    return {"task_id": task, "trial": trial, "reward": float(trial % 2), "messages": messages}
