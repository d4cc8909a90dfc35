"""The example in docs/adapters/langgraph.md runs."""

import re
from pathlib import Path

import pytest

from statestore import StateStore

PAGE = Path(__file__).parents[3] / "docs" / "adapters" / "langgraph.md"


def test_the_example_runs(database_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    names: dict[str, object] = {}
    exec(example.replace("sqlite:///agents.db", database_url), names)
    assert capsys.readouterr().out == "In the morning, yes.\n"
    names["store"].close()  # type: ignore[attr-defined]
    with StateStore.open(database_url) as store:
        assert store.sessions.get("user-42").user_id == "ada"
