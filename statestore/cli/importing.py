"""`statestore import`: import conversations from files; `frameworks` has those from databases."""

import os
import sys
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from typing import TYPE_CHECKING, BinaryIO

import click

from statestore.cli.failures import STOPPED, Failure, interrupted
from statestore.cli.groups import Group
from statestore.cli.options import Database, examples, json_option, store_options
from statestore.cli.output import counted, json_text, visible

if TYPE_CHECKING:
    from click._termui_impl import ProgressBar

    from statestore.importers.openai_conversations import SessionId

_REDRAW_SECONDS = 0.1


@click.group(
    cls=Group,
    name="import",
    epilog=examples(
        "statestore import openai-jsonl conversations.jsonl --user-id ada",
        "statestore import statestore backup.jsonl",
        "statestore import promptkit ./conversations",
        "statestore import conexus ./state",
        "statestore import claude-code",
        "statestore import openai-agents sqlite:///agents.db",
    ),
)
def import_() -> None:
    """Import conversations from files, and from the databases of other frameworks."""


def _template(ctx: click.Context, param: click.Parameter, value: str | None) -> "SessionId":
    from statestore.importers.openai_conversations import SessionId

    try:
        return SessionId(value, option="--session-id")
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


@import_.command(
    "openai-jsonl",
    epilog=examples(
        "statestore import openai-jsonl runs.jsonl --session-id '{task_id}-{trial}'",
        "zcat logs.jsonl.gz | statestore import openai-jsonl - --user-id ada",
    ),
)
@click.argument("file", type=click.Path(exists=True, dir_okay=False, readable=True, allow_dash=True))
@click.option(
    "--session-id",
    metavar="TEMPLATE",
    callback=_template,
    help="The session's id, with fields of the line in braces.  [default: a digest of the line]",
)
@click.option("--user-id", metavar="USER", help="The user that new sessions belong to.")
@click.option("--agent-name", metavar="AGENT", help="The agent that new sessions belong to.")
@store_options
@json_option
def openai_jsonl(
    database: Database,
    file: str,
    session_id: "SessionId",
    user_id: str | None,
    agent_name: str | None,
    as_json: bool,
) -> None:
    """Import conversations from FILE, one JSON object per line; `-` is standard input.

    Each line becomes one session. Its `messages`, OpenAI chat messages, become the history, and its other keys the
    session's metadata. Messages are kept as they are, key order included.

    Running it again changes nothing, and completes an import that was cut off. If a line has more messages than its
    session, the new ones are appended; if its messages differ, that is an error. By default the session's id is a
    digest of the line. This suits files whose lines do not change, and equal lines become one session. If conversations
    grow, give each an id with --session-id.

    A line that cannot be imported is reported on stderr and left out as a whole, the others are imported, and the exit
    code is 1. If the first 100 lines are all bad, the import stops.
    """
    from statestore.checking import checks
    from statestore.importers import NotConversationsError, Problem
    from statestore.importers import openai_jsonl as import_conversations

    checks.optional_key(user_id, "--user-id")
    checks.optional_key(agent_name, "--agent-name")
    name = "standard input" if file == "-" else os.path.basename(file)
    with _opened(file) as source, database.open(create=True) as store, Progress.reading(source) as bar:

        def say(problem: Problem) -> None:
            bar.say(f"{file}:{problem.line}: {problem.reason}")

        try:
            totals = import_conversations(
                store,
                source,
                session_id=session_id,
                user_id=user_id,
                agent_name=agent_name,
                progress=bar.advance,
                on_problem=say,
            )
        except NotConversationsError:
            raise Failure(f"{file}: none of the first lines is a conversation; is it JSON Lines?") from None
        except KeyboardInterrupt:
            raise interrupted(STOPPED, bar.say) from None
    if as_json:
        click.echo(json_text({"file": file, **asdict(totals)}))
    else:
        extended = f"{totals.sessions_extended:,} extended, " if totals.sessions_extended else ""
        click.echo(
            f"imported {visible(name)}: {counted(totals.sessions_new, 'session')} new, {extended}"
            f"{totals.sessions_unchanged:,} unchanged, {counted(totals.entries_added, 'entry')} added"
        )
    if totals.lines_failed:
        raise Failure(f"{counted(totals.lines_failed, 'line')} could not be imported; see above")


def _opened(file: str) -> AbstractContextManager[BinaryIO]:
    if file == "-":
        return nullcontext(sys.stdin.buffer)
    try:
        return open(file, "rb")
    except OSError as error:
        raise Failure(f"{file}: {error.strerror}") from None


class Progress:
    """How much of the work is done: a progress bar on a terminal, nothing elsewhere."""

    def __init__(self, label: str, length: int = 0) -> None:
        self._label = label
        self._bar: ProgressBar[int] | None = None
        self._pending = 0
        self._drawn = 0.0
        self.expect(length)

    @classmethod
    def reading(cls, source: BinaryIO, *, times: int = 1) -> "Progress":
        """Progress in the bytes of a file that is read *times* times, if its size is known."""
        try:
            return cls("importing", times * os.fstat(source.fileno()).st_size)
        except OSError:
            return cls("importing")

    def expect(self, length: int) -> None:
        """Begin, now that the amount of work is known."""
        if length > 0 and sys.stderr.isatty():
            self._bar = click.progressbar(length=length, label=self._label, file=sys.stderr, width=0)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *exc: object) -> None:
        if self._bar is not None:
            self._draw()
            self._bar.render_finish()

    def advance(self, size: int) -> None:
        self._pending += size
        if self._bar is not None and time.monotonic() - self._drawn >= _REDRAW_SECONDS:
            self._draw()

    def _draw(self) -> None:
        if self._bar is not None:
            self._bar.update(self._pending)
        self._pending = 0
        self._drawn = time.monotonic()

    def say(self, text: str) -> None:
        """Write a line above the bar."""
        clear = "\r\x1b[K" if self._bar is not None else ""
        click.echo(clear + visible(text), err=True)
