"""The example of the documentation runs."""

import re
from pathlib import Path
from typing import Any

import pytest

from tests.adapters.agno.fake import FakeModel

PAGE = Path(__file__).parents[3] / "docs" / "adapters" / "agno.md"


def test_the_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    [example] = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    names: dict[str, Any] = {"model": FakeModel()}
    exec(example, names)
    assert capsys.readouterr().out == "2\n"
