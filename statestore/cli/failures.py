"""How a command ends that failed."""

import errno
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import IO, Any

import click

from statestore.cli.output import visible
from statestore.cli.terminal import message

INTERRUPTED = 130  # What a shell reports for a command that Ctrl-C ended.
UNREAD = 141  # And for one that SIGPIPE ended: nobody reads its output any more.

STOPPED = "stopped; what was imported stays; run the same command again to continue"


def interrupted(text: str = "interrupted", say: Callable[[str], None] | None = None) -> click.exceptions.Exit:
    """What to raise once somebody has pressed Ctrl-C; prints one line, by *say*, that says what has been done."""
    if say is None:
        click.echo(visible(text), err=True)
    else:
        say(text)
    return click.exceptions.Exit(INTERRUPTED)


def unread(error: OSError) -> BaseException:
    """What to raise if what is printed cannot be written, which then shows nothing more of it."""
    with suppress(OSError, ValueError):  # What is left would be written at the end of the process, and fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if error.errno == errno.EPIPE:
        return click.exceptions.Exit(UNREAD)
    return Failure(f"{error.filename or 'the output cannot be written'}: {error.strerror or error}")


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
