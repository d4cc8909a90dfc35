"""The command line called in this process, whichever click is installed."""

import inspect
from dataclasses import dataclass
from typing import Any

from click.testing import CliRunner

# click before 8.2 writes both streams into one unless it is told not to, and later versions cannot be told.
_APART: dict[str, Any] = {"mix_stderr": False} if "mix_stderr" in inspect.signature(CliRunner).parameters else {}


@dataclass(frozen=True)
class Ran:
    """What a command did."""

    exit_code: int
    stdout: str
    stderr: str
    stdout_bytes: bytes

    @property
    def output(self) -> str:
        """Both streams, one after the other."""
        return self.stdout + self.stderr


def invoke(*arguments: str, **options: Any) -> Ran:
    """Run `statestore` with *arguments*. A bug is raised: it must not pass for an exit code of 1."""
    from statestore.cli import main

    result = CliRunner(**_APART).invoke(main, arguments, catch_exceptions=False, **options)
    return Ran(result.exit_code, result.stdout, result.stderr, result.stdout_bytes)
