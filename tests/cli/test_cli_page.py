"""What docs/cli.md shows is what the commands print, and what it names exists."""

import os
import re
import shlex
import subprocess
from itertools import takewhile
from pathlib import Path

import pytest

from statestore.cli import settings
from tests.cli.conftest import CHECKOUT, CommandLine, resolved
from tests.support.warm import programs

PAGE = (CHECKOUT / "docs" / "cli.md").read_text()
CONSOLES = re.findall(r"^```console\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
[TOML] = re.findall(r"^```toml\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
SHELL = "\n".join(re.findall(r"^```sh\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE))
NAMED = [*re.findall(r"`(statestore [^`]*)`", PAGE), *(line for line in SHELL.splitlines() if line)]


def steps(console: str) -> list[tuple[str, str]]:
    """Each command with what it prints."""
    parts = re.split(r"^\$ (.*)\n", console, flags=re.MULTILINE)[1:]
    return list(zip(parts[::2], parts[1::2], strict=True))


def run(line: str, directory: Path, **environment: str) -> str:
    """What a line prints in a shell, with `statestore` on its path; `jq` is done here, as it need not be installed."""
    line, _, filtered = line.partition(" | jq ")
    kept = {name: value for name, value in os.environ.items() if not name.startswith("STATESTORE_")}
    path = f"{programs()}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["/bin/sh", "-c", line], cwd=directory, env={**kept, "PATH": path, **environment}, capture_output=True,
        text=True, check=True,
    )  # fmt: skip
    if filtered:
        return "".join(f"{found}\n" for found in re.findall(r'"session_id":"([^"]*)"', done.stdout))
    return done.stdout


def test_the_examples_print_what_the_page_says(sqlite_cli: CommandLine, tmp_path: Path) -> None:
    assert sqlite_cli.process("demo", "--path", tmp_path / "demo.db").returncode == 0
    for line, printed in steps(CONSOLES[0]):
        assert run(line, tmp_path, STATESTORE_URL=f"sqlite:///{tmp_path}/demo.db") == printed


def test_the_settings_are_those_of_its_file(tmp_path: Path) -> None:
    (tmp_path / "statestore.toml").write_text(TOML)
    for line, printed in steps(CONSOLES[1]):
        assert run(line, tmp_path) == printed


def test_it_names_all_keys_and_variables() -> None:
    for name, variable in settings.SETTINGS.items():
        assert f"| `{name}` |" in PAGE
        assert f"| `{variable}` |" in PAGE


@pytest.mark.parametrize("line", sorted(set(NAMED)))
def test_every_command_it_names_is_accepted(line: str) -> None:
    words = list(shlex.shlex(line, posix=True, punctuation_chars=True))
    for begin in [index for index, word in enumerate(words) if word == "statestore" and words[index + 1] != "COMMAND"]:
        resolved(list(takewhile(lambda word: word not in ("|", "&&", ">"), words[begin + 1 :])))
