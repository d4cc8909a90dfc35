"""The example in the documentation runs."""

import re
from pathlib import Path

import pytest

from statestore import StateStore
from tests.adapters.strands.fake_model import FakeModel


def test_the_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    page = Path(__file__).parents[3].joinpath("docs/adapters/strands.md").read_text()
    monkeypatch.chdir(tmp_path)
    [example] = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    exec(compile(example, "strands.md", "exec"), {"__name__": "example", "model": FakeModel("In the morning, yes.")})
    assert [line for line in capsys.readouterr().out.splitlines() if line] == [
        "In the morning, yes.",
        " 2",
        "In the morning, yes.",
        " 4",
    ]
    with StateStore.open("sqlite:///agents.db") as store:
        assert store.history.count("trip-1/guide") == 4
