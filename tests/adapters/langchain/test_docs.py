"""The example of the documentation runs."""

import re
from pathlib import Path
from typing import Any

import pytest
from langchain_core.globals import set_llm_cache

PAGE = Path(__file__).parents[3] / "docs" / "adapters" / "langchain.md"


@pytest.mark.filterwarnings("ignore:RunnableWithMessageHistory is deprecated")
def test_the_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    [example] = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    names: dict[str, Any] = {}
    try:
        exec(example, names)
    finally:
        set_llm_cache(None)
        names["store"].close()
    assert capsys.readouterr().out == "In the morning, yes. 2\n"
