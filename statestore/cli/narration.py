"""A demonstration that shows the code it runs, and then what the store returns."""

import inspect
import textwrap
from collections.abc import Callable
from time import perf_counter
from typing import ParamSpec, TypeVar

import click

from statestore.cli.failures import Failure
from statestore.cli.output import visible

P = ParamSpec("P")
R = TypeVar("R")


class Narrator:
    """Tells a story in numbered steps."""

    def __init__(self) -> None:
        self._step = 0
        self.seconds = 0.0
        """How long the code that ran last took."""

    def title(self, text: str) -> None:
        self._step += 1
        click.echo()
        click.secho(f"{self._step}. {text}", bold=True)

    def run(self, code: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Show the body of *code*, and run it."""
        self.show_code(code)
        return self.time(code, *args, **kwargs)

    def show_code(self, code: Callable[..., object]) -> None:
        """Show the body of *code*, which is run elsewhere."""
        self.show(*_body(code))

    def time(self, code: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        start = perf_counter()
        result = code(*args, **kwargs)
        self.seconds = perf_counter() - start
        return result

    def show(self, *lines: str) -> None:
        for line in lines:
            click.secho(f"     {visible(line)}", fg="cyan")

    def found(self, text: str) -> None:
        click.echo(f"   → {visible(text)}")

    def expect(self, holds: bool, promise: str) -> None:
        """Say whether what the store returned is as promised; a failure if it is not."""
        self.found(f"{promise}: {'yes' if holds else 'NO'}")
        if not holds:
            raise Failure(f"this is not true: {promise}")


def _body(code: Callable[..., object]) -> list[str]:
    """The lines of a function, without its signature and without what only returns the result."""
    try:
        source = textwrap.dedent(inspect.getsource(code))
    except OSError:  # Installed without its source.
        return []
    _, _, body = source.partition(":\n")
    lines = textwrap.dedent(body).splitlines()
    shown = [line.removeprefix("return ") for line in lines]
    return [line for line in shown if not line.isidentifier()]


def milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:,.1f} ms"
