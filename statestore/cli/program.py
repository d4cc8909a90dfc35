"""The `statestore` command itself: its subcommands and its exit codes."""

import os
import sys
from typing import Any

import click

from statestore import __version__
from statestore.cli import frameworks, remedies
from statestore.cli.cache import cache
from statestore.cli.claude_code import claude_code
from statestore.cli.completion import completion
from statestore.cli.config import config
from statestore.cli.delete import delete
from statestore.cli.demo import demo
from statestore.cli.doctor import doctor
from statestore.cli.exporting import conexus, export, promptkit, statestore_file
from statestore.cli.failures import Failure, interrupted, unread
from statestore.cli.fork import fork
from statestore.cli.groups import Group
from statestore.cli.importing import import_
from statestore.cli.migrate import migrate
from statestore.cli.namespaces import namespaces
from statestore.cli.options import Database, examples
from statestore.cli.prices import prices
from statestore.cli.report import report
from statestore.cli.sessions import sessions
from statestore.cli.show import show
from statestore.cli.state import state
from statestore.cli.sweep import retention, sweep
from statestore.cli.tail import tail
from statestore.cli.tree import tree
from statestore.cli.vacuum import vacuum
from statestore.errors import StateStoreError

# In words that are not click's.
_WORDS = {"a valid integer range": "a whole number", "a valid integer": "a whole number", "a valid float": "a number"}


class Program(Group):
    """Turns each failure into one line on stderr and an exit code; bugs keep their traceback."""

    def main(self, *args: Any, **options: Any) -> Any:
        try:
            return super().main(*args, **options)
        except OSError as error:  # Of --help, which is printed before anything is invoked.
            failure = unread(error)
            if isinstance(failure, Failure):
                failure.show()
            sys.exit(getattr(failure, "exit_code", 1))

    def invoke(self, ctx: click.Context) -> Any:
        if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
            ctx.color = False
        try:
            done = super().invoke(ctx)
            sys.stdout.flush()
            return done
        except StateStoreError as error:
            raise Failure(remedies.text(error, Database.of(ctx))) from None
        except KeyboardInterrupt:
            raise interrupted() from None
        except click.Abort as error:
            raise _unanswered(error) from None
        except click.BadParameter as error:
            for theirs, ours in _WORDS.items():
                if (said := error.message).endswith(f"is not {theirs}."):
                    said = said.replace(f"is not {theirs}.", f"is not {ours}")
                    raise click.BadParameter(said, error.ctx, error.param, error.param_hint) from None
            raise
        except OSError as error:
            raise unread(error) from None


def _unanswered(error: click.Abort) -> BaseException:
    """How a question ended that was not answered by y."""
    cause = error.__context__
    if isinstance(cause, KeyboardInterrupt | EOFError):
        click.echo(err=True)  # The line of the question.
    if isinstance(cause, KeyboardInterrupt):
        return interrupted()
    if isinstance(cause, EOFError):
        return Failure("there is no terminal to confirm on; nothing was done. Pass --yes to skip the question")
    return error


@click.group(
    "statestore",
    cls=Program,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=examples(
        "statestore demo",
        "statestore migrate up --url postgresql://app@db.example.com/app",
        "statestore import openai-jsonl conversations.jsonl",
        "statestore sessions --user ada --limit 20",
        "statestore show user-42 --last 10",
        "statestore --profile prod tail user-42",
    ),
)
@click.version_option(__version__, message="%(prog)s %(version)s")
@click.option("--profile", metavar="NAME", help="A profile of statestore.toml, as after a command.")
@click.option("--config", metavar="FILE", help="The file to use in place of statestore.toml.")
def main(profile: str | None, config: str | None) -> None:
    """Sessions, conversation history and state of AI agents, in PostgreSQL or SQLite.

    The database is the one that --url, --profile, STATESTORE_URL or statestore.toml names, or else the SQLite file
    statestore.db in the current directory; `statestore config` says which. Where an id of a session is asked for, its
    beginning will do if no other session's id begins so.

    Prefer the environment for a URL with a password: others on the machine can see command lines.

    The exit code is 0 for success, 1 for a failure, which stderr explains, 2 for a wrong command line, 130 for Ctrl-C,
    and 141 if nobody reads the output to its end. `doctor` exits by what it finds.
    """


for command in (
    migrate,
    import_,
    export,
    sessions,
    show,
    tail,
    tree,
    fork,
    delete,
    state,
    cache,
    sweep,
    retention,
    namespaces,
    vacuum,
    doctor,
    report,
    prices,
    config,
    completion,
):
    main.add_command(command)
main.add_command(demo)
for command in (statestore_file, promptkit, conexus, claude_code, *frameworks.commands()):
    import_.add_command(command)
