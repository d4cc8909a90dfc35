"""The example in the documentation runs."""

import re
from pathlib import Path

import pytest


def test_the_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    page = Path(__file__).parents[3].joinpath("docs/adapters/pydantic_ai.md").read_text()
    monkeypatch.chdir(tmp_path)
    [example] = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    exec(compile(example, "pydantic_ai.md", "exec"), {"__name__": "example"})
    assert capsys.readouterr().out == "2\n"
