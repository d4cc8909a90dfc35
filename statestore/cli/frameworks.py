"""`statestore import openai-agents`, and those of other frameworks: sessions from the databases they wrote."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Final

import click

from statestore.cli.failures import STOPPED, Failure, interrupted
from statestore.cli.options import Database, examples, json_option, store_options
from statestore.cli.output import counted, json_text, visible
from statestore.cli.terminal import StatusLine
from statestore.errors import DatabaseError, InvalidValueError

if TYPE_CHECKING:
    from statestore.importers.databases import DatabaseReport
    from statestore.importers.problems import Problem

# The command, the function of statestore.importers that does it, and what the command's help says it imports.
FRAMEWORKS: Final[dict[str, tuple[str, str]]] = {
    "agno": ("agno", "sessions of agno, with their runs and usage"),
    "langchain": ("langchain", "chats of LangChain's SQLChatMessageHistory"),
    "adk": ("adk", "sessions of Google's ADK, with their state and that of users and apps"),
    "langgraph": ("langgraph", "threads of LangGraph, from the tables of its PostgresSaver or SqliteSaver"),
    "openai-agents": ("openai_agents", "sessions of the OpenAI Agents SDK, with their branches and usage"),
}
# Those whose databases hold no times of messages.
_TIMELESS: Final = {"langchain": "LangChain"}


def commands() -> list[click.Command]:
    """A command for each framework."""
    return [_command(name, function, what) for name, (function, what) in FRAMEWORKS.items()]


def _command(name: str, function: str, what: str) -> click.Command:
    times = f". {_TIMELESS[name]} keeps no times, so theirs is that of the import" if name in _TIMELESS else _TIMES

    @click.command(
        name,
        help=f"Import {what}, from the database SOURCE.\n\n{_HELP.format(times=times)}",
        epilog=examples(
            f"statestore import {name} sqlite:///agents.db",
            f"statestore import {name} postgresql://reader@db.example.com/agents --url sqlite:///copy.db --json",
        ),
    )
    @click.argument("source")
    @store_options
    @json_option
    def command(database: Database, source: str, as_json: bool) -> None:
        from statestore import importers

        with database.open(create=True) as store, _Count() as count:
            try:
                with _errors_of_source():
                    report = getattr(importers, function)(
                        store, source, progress=count.advance, on_problem=count.report
                    )
            except KeyboardInterrupt:
                raise interrupted(STOPPED, count.say) from None
        _print(report, as_json)

    return command


@contextmanager
def _errors_of_source() -> Iterator[None]:
    """Say what is wrong with SOURCE as it is: the remedies of `remedies` are for the database of --url."""
    try:
        yield
    except InvalidValueError as error:
        if error.argument not in ("url", "target"):
            raise
        raise Failure(f"SOURCE: {str(error).removeprefix(f'{error.argument}: ')}") from None
    except DatabaseError as error:
        if "source" not in vars(error):
            raise
        raise Failure(str(error)) from None


_TIMES = ", with their times"
_HELP = """SOURCE is a URL, of PostgreSQL or SQLite, or the path of a SQLite file. It is opened read-only.

Messages are kept as they are{times}. What they used is counted once. Running it again adds what is new and
changes nothing else, and completes an import that was cut off.

At the end of each session its entries are compared with those of the source: how many, and what they are. If a session
differs, since one side was changed after an earlier import, or cannot be imported, it is named on stderr, and the exit
code is 1."""


def _print(report: "DatabaseReport", as_json: bool) -> None:
    if as_json:
        click.echo(json_text(asdict(report)))
    else:
        click.echo(
            f"{counted(report.sessions, 'session')} with {counted(report.entries, 'entry')}: "
            f"{counted(report.added, 'entry')} added, {counted(report.unchanged, 'session')} unchanged"
        )
    for session_id in report.differing:
        click.echo(visible(f"session {session_id!r} differs from the source"), err=True)
    if not report.complete:
        failed = f"{counted(report.failed, 'session')} could not be imported" if report.failed else ""
        differing = f"{counted(len(report.differing), 'session')} not as in the source" if report.differing else ""
        raise Failure(f"{' and '.join(filter(None, (failed, differing)))}; see above")


class _Count(StatusLine):
    """A line that counts entries."""

    _entries = 0

    def advance(self, entries: int) -> None:
        self._entries += entries
        self.show(f"importing: {self._entries:,} entries")

    def report(self, problem: "Problem") -> None:
        self.say(f"{problem.source}: {problem.reason}")
