"""How a command ends that failed."""

from collections.abc import Sequence
from typing import IO, Any

import click

from statestore.cli.output import visible
from statestore.cli.terminal import message


class Failure(click.ClickException):
    """The command failed, and its message says why and what to do."""

    exit_code = 1

    def __init__(self, message: str, details: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.details = details
        """Lines that follow the message."""

    def show(self, file: IO[Any] | None = None) -> None:
        text = f"error: {visible(self.message)}"
        click.echo(message(text) if file is None else text, file=file, err=file is None)
        for line in self.details:
            click.echo(f"  {visible(line)}", file=file, err=file is None)
