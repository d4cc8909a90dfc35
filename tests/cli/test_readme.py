"""What the README shows is run, and what it names exists."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest
from sqlalchemy import text

from statestore.cli import main
from statestore.migrate import engine_for
from tests.cli.conftest import CHECKOUT, resolved

README = (CHECKOUT / "README.md").read_text()
PYTHON = re.findall(r"^```python\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
SHELL = "\n".join(re.findall(r"^```sh\n(.*?)^```$", README, re.DOTALL | re.MULTILINE))
JOINED = "postgresql+psycopg://app@localhost/app"


def mentioned(command: str) -> list[str]:
    """Every command line of the README that begins with *command*: whole lines of code, and code within the text."""
    found = [line.strip() for line in SHELL.splitlines() if line.strip().startswith(f"{command} ")]
    return found + re.findall(rf"`({re.escape(command)} [^`]*)`", README)


def test_the_first_example_is_short_and_runs_by_itself(tmp_path: Path) -> None:
    assert len(PYTHON[0].strip().splitlines()) <= 11
    done = subprocess.run([sys.executable, "-c", PYTHON[0]], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "1 user Is Saturday good for a walk?\n2 assistant In the morning, yes.\n"


def test_all_examples_run_one_after_the_other(postgres_url: str, tmp_path: Path) -> None:
    url = postgres_url.replace("postgresql://", "postgresql+psycopg://")
    with engine_for(postgres_url).begin() as connection:
        connection.execute(text("CREATE TABLE bookings (session_id text)"))
    assert sum(block.count(JOINED) for block in PYTHON) == 1
    code = "\n".join(PYTHON).replace(JOINED, url)
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    with engine_for(postgres_url).connect() as connection:
        assert connection.execute(text("SELECT session_id FROM bookings")).scalars().all() == ["chat-7"]
        assert connection.execute(text("SELECT count(*) FROM statestore.history_entries")).scalar() == 1


@pytest.mark.parametrize("line", sorted({*mentioned("statestore"), *mentioned("./run cli")}))
def test_every_command_line_it_shows_exists(line: str) -> None:
    words = shlex.split(line, comments=True)
    words = words[2:] if words[0] == "./run" else words[1:]
    assert words
    # In the table, FILE and [NEW] stand for what the reader has.
    resolved([word.strip("[]") for word in words])


def test_every_command_is_in_the_table() -> None:
    shown = {" ".join(line.split()[1:3]) for line in mentioned("statestore")}
    for name, command in main.commands.items():
        children = command.commands if isinstance(command, click.Group) else {"": command}
        for child in children:
            assert any(f"{one} ".startswith(f"{name} {child}".strip() + " ") for one in shown), (name, child)


@pytest.mark.parametrize("line", sorted(set(mentioned("./run"))))
def test_every_use_of_run_exists(line: str) -> None:
    usage = subprocess.run([CHECKOUT / "run", "help"], capture_output=True, text=True, check=True).stdout
    assert re.search(rf"^  {re.escape(shlex.split(line, comments=True)[1])}\b", usage, re.MULTILINE)


def test_the_options_it_names_exist() -> None:
    named = set(re.findall(r"`(--[a-z-]+)", README))
    commands = [main, *main.commands.values()]
    commands += [
        child for command in commands if isinstance(command, click.Group) for child in command.commands.values()
    ]
    known = {option for command in commands for parameter in command.params for option in parameter.opts}
    assert named - {"--help"} <= known


def test_it_names_no_place_on_a_machine() -> None:
    assert not re.search(r"/(home|root|work|tmp)/", README)
    assert os.fspath(CHECKOUT) not in README
