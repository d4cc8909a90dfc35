"""The commands and options that the documentation shows exist, and all of them are on the page of commands."""

import os
import re
import shlex
import subprocess
from pathlib import Path

import click
import pytest

from statestore.cli import main
from tests.cli.conftest import resolved
from tests.docs.pages import CHECKOUT, PAGES, blocks, name_of

COMMANDS = CHECKOUT / "docs" / "commands.md"
TEXT = "\n".join(page.read_text() for page in PAGES)
SHELL = "\n".join(block for page in PAGES for block in blocks(page, "sh"))


def mentioned(command: str, text: str = TEXT, shell: str = SHELL) -> list[str]:
    """Every command line that begins with *command*: whole lines of code, and code within the text."""
    found = [line.strip() for line in shell.splitlines() if line.strip().startswith(f"{command} ")]
    return found + re.findall(rf"`({re.escape(command)} [^`]*)`", text)


# COMMAND stands for any.
SHOWN = sorted(line for line in {*mentioned("statestore"), *mentioned("./run cli")} if " COMMAND " not in line)


@pytest.mark.parametrize("line", SHOWN)
def test_every_command_line_it_shows_exists(line: str) -> None:
    # In text, FILE and [NEW] stand for what the reader has.
    for part in line.split(" && "):
        words = shlex.split(part.split(" | ")[0], comments=True)
        if words[0] in ("statestore", "./run"):
            words = words[2:] if words[0] == "./run" else words[1:]
            assert words
            resolved([word.strip("[]") for word in words])


def test_every_command_is_in_the_table() -> None:
    shown = {" ".join(line.split()[1:3]) for line in mentioned("statestore", COMMANDS.read_text(), "")}
    for name, command in main.commands.items():
        children = command.commands if isinstance(command, click.Group) else {"": command}
        for child in children:
            assert any(f"{one} ".startswith(f"{name} {child}".strip() + " ") for one in shown), (name, child)


@pytest.mark.parametrize("line", sorted(set(mentioned("./run"))))
def test_every_use_of_run_exists(line: str) -> None:
    usage = subprocess.run([CHECKOUT / "run", "help"], capture_output=True, text=True, check=True).stdout
    assert re.search(rf"^  {re.escape(shlex.split(line, comments=True)[1])}\b", usage, re.MULTILINE)


def test_the_options_that_the_page_of_commands_names_exist() -> None:
    named = set(re.findall(r"`(--[a-z-]+)", COMMANDS.read_text()))
    commands = [main, *main.commands.values()]
    commands += [
        child for command in commands if isinstance(command, click.Group) for child in command.commands.values()
    ]
    known = {option for command in commands for parameter in command.params for option in parameter.opts}
    assert named - {"--help"} <= known


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_it_names_no_place_on_a_machine(page: Path) -> None:
    assert not re.search(r"/(home|root|work|tmp)/", page.read_text())
    assert os.fspath(CHECKOUT) not in page.read_text()
