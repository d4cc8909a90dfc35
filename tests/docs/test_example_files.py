"""The programs in examples/ run offline, and again where they ran before, and print what they promise."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.pages import CHECKOUT
from tests.support.warm import programs

EXAMPLES = sorted((CHECKOUT / "examples").glob("*.py"))

# What they print the first time, and the next.
PRINTED = {
    "cached_tool": "tea 5, coffee 4: looked up 3 times\n2 hits, 3 misses\n",
    "chat_loop": "Before that, 'Hello'.\n",
    "resume_after_kill": "run 2 was killed\nrun 3 got to the end\n10 steps, sum 45\n",
    "tree_search": "add 7: 25\n3 forks deep; 21 tries cost $0.021\n",
    "usage_mail": "Agents: $1.75 for 3 calls, 0 errors\n",
    "workers": "12 jobs, each done once: True\n",
}
AGAIN = {
    "chat_loop": "4 turns, ",
    "resume_after_kill": "run 1 got to the end\n10 steps, sum 45\n",
}


def run(example: Path, folder: Path) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("STATESTORE_")}
    done = subprocess.run(
        [programs() / "python", example],
        cwd=folder,
        env=environment | {"PYTHONPATH": os.pathsep.join(sys.path)},
        input="Hello\nWhat did I say?\n",
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.stem)
def test_it_runs_and_runs_again(example: Path, tmp_path: Path) -> None:
    if example.stem == "fastapi_stream":
        return  # Which is served, below.
    assert PRINTED[example.stem] in run(example, tmp_path)
    assert AGAIN.get(example.stem, PRINTED[example.stem]) in run(example, tmp_path)


def test_the_service_streams_and_remembers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("fastapi")
    from fastapi.testclient import TestClient

    monkeypatch.chdir(tmp_path)
    spec = importlib.util.spec_from_file_location("fastapi_stream", CHECKOUT / "examples" / "fastapi_stream.py")
    assert spec is not None
    assert spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    for first in (True, False):
        with TestClient(example.app) as client:
            with client.stream("POST", "/chats/ada", json={"content": "Hi"}) as answer:
                said = list(answer.iter_text())
            assert "".join(said).startswith("That was message 1: Hi" if first else "That was message 3: Hi")
            assert len(client.get("/chats/ada").json()) == (2 if first else 4)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.stem)
def test_it_is_listed_with_what_it_shows(example: Path) -> None:
    assert f"`{example.name}`" in (CHECKOUT / "examples" / "README.md").read_text()
