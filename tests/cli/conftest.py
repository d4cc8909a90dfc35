"""The command line as tests use it: in this process where that is enough, as a process of its own where it matters."""

import os
import subprocess
import sysconfig
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import pytest

from statestore import StateStore
from tests.support.command_line import Ran, invoke
from tests.support.trajectories import file as trajectory_file
from tests.support.warm import programs

CHECKOUT = Path(__file__).parents[2]
# The program as it is installed, for what belongs to its start.
SCRIPT = Path(sysconfig.get_path("scripts")) / "statestore"


class CommandLine:
    """`cli("sessions", "--json")` runs the command on a database."""

    def __init__(self, url: str) -> None:
        self.url = url

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "STATESTORE_URL": self.url}

    def __call__(self, *arguments: str, code: int = 0, **options: Any) -> Ran:
        result = invoke(*arguments, env={"STATESTORE_URL": self.url}, **options)
        assert result.exit_code == code, result.output
        return result

    def process(self, *arguments: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [programs() / "statestore", *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
            **options,
        )

    def python(self, code: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        command = [programs() / "python", "-c", code, *arguments]
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, check=False)

    def store(self, **options: Any) -> StateStore:
        return StateStore.open(self.url, **options)


def resolved(arguments: Sequence[str]) -> click.Command:
    """The command that the arguments lead to, once click has accepted them."""
    from statestore.cli import main

    command: click.Command = main
    context = click.Context(main)
    while isinstance(command, click.Group) and arguments:
        assert arguments[0] in command.commands, arguments
        command, arguments = command.commands[arguments[0]], arguments[1:]
    known = {option for parameter in command.params for option in parameter.opts}
    for argument in arguments:
        assert argument == "-" or not argument.startswith("-") or argument in known, argument
    command.make_context(command.name, [a for a in arguments if a != "--help"], parent=context, resilient_parsing=True)
    return command


@pytest.fixture
def cli(database_url: str) -> CommandLine:
    """On a migrated database."""
    return CommandLine(database_url)


@pytest.fixture
def empty_cli(empty_database_url: str) -> CommandLine:
    """On a database without the schema."""
    return CommandLine(empty_database_url)


@pytest.fixture(scope="session")
def trajectories(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """200 runs of an agent: real ones, which stay outside the checkout, or made up where there are none."""
    return trajectory_file(tmp_path_factory.mktemp("runs"))


@pytest.fixture
def sqlite_cli(sqlite_url: str) -> CommandLine:
    """For what does not depend on the database."""
    return CommandLine(sqlite_url)
