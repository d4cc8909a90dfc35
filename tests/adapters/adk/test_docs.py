"""The example in the documentation runs."""

import re
from pathlib import Path

import pytest
from google.adk.models.base_llm import BaseLlm
from google.adk.models.llm_request import LlmRequest
from google.adk.models.llm_response import LlmResponse
from google.genai import types

from statestore import StateStore


class Agreeable(BaseLlm):
    async def generate_content_async(self, llm_request: LlmRequest, stream: bool = False):  # type: ignore[no-untyped-def]
        yield LlmResponse(content=types.Content(role="model", parts=[types.Part(text="In the morning, yes.")]))


def test_the_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    page = Path(__file__).parents[3].joinpath("docs/adapters/adk.md").read_text()
    monkeypatch.chdir(tmp_path)
    [example] = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    exec(compile(example, "adk.md", "exec"), {"__name__": "example", "model": Agreeable(model="agreeable")})
    assert capsys.readouterr().out == "guide In the morning, yes.\n"
    with StateStore.open("sqlite:///agents.db") as store:
        assert store.history.count("travel:ada:s-1") == 2
