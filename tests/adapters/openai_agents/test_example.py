"""The example of the documentation runs, with the SDK's own scripted model."""

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest
from agents import Usage
from agents.testing import ModelStep, ScriptedModel
from openai.types.responses import ResponseOutputMessage, ResponseOutputText

from statestore import StateStore

PAGE = Path(__file__).parents[3] / "docs" / "adapters" / "openai_agents.md"


def said(number: int) -> ModelStep:
    text = ResponseOutputText(text=f"answer {number}", type="output_text", annotations=[])
    message = ResponseOutputMessage(
        id=f"msg_{number}", content=[text], role="assistant", status="completed", type="message"
    )
    used = Usage(requests=1, input_tokens=10 + number, output_tokens=2, total_tokens=12 + number)
    return ModelStep(output=[message], usage=used)


def test_the_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    [code] = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    names: dict[str, Any] = {"model": ScriptedModel([said(number) for number in range(3)])}
    exec(code, names)

    async def run() -> Any:
        try:
            return await names["main"]()
        finally:
            await names["store"].aclose()

    branches = asyncio.run(run())
    assert [(one["branch_id"], one["message_count"], one["is_current"]) for one in branches] == [
        ("main", 4, False),
        ("museum", 4, True),
    ]
    with StateStore.open("sqlite:///agents.db") as store:
        assert store.usage.totals(user_id="ada").input_tokens == 21
