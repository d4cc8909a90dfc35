"""`statestore import claude-code`: transcripts of Claude Code as sessions, with their usage."""

from dataclasses import asdict
from pathlib import Path

import click

from statestore.cli.failures import Failure
from statestore.cli.importing import Progress
from statestore.cli.options import Database, examples, json_option, store_options
from statestore.cli.output import counted, json_text

_DEFAULT = "~/.claude/projects"


@click.command(
    "claude-code",
    epilog=examples(
        "statestore import claude-code --user-id ada",
        "statestore import claude-code ./transcripts --json",
    ),
)
@click.argument("path", type=click.Path(exists=True, path_type=Path), required=False)
@click.option("--user-id", metavar="USER", help="The user that new sessions belong to.")
@store_options
@json_option
def claude_code(database: Database, path: Path | None, user_id: str | None, as_json: bool) -> None:
    """Import transcripts of Claude Code from PATH: a file, or a folder with all files below it.

    The default PATH is ~/.claude/projects. Each file becomes a session, and each sub-agent a session that belongs
    to it. Messages are kept as they are. A response that is written in several lines counts once, even if a resumed
    session begins with a copy of another, as long as the other is there or was imported and not deleted.

    Running it again adds what is new and changes nothing else. A file's last line is left for the next run if it is
    incomplete, or belongs to a response that has not said why it stopped, unless nobody has written to the file for ten
    minutes. Lines that cannot be stored are reported with file and line, the others are imported, and the exit code is
    1. Nothing is written to PATH. Costs are computed if prices are known: run `statestore prices sync` first, or
    `statestore prices apply` afterwards.
    """
    from statestore.checking import checks
    from statestore.importers import Problem
    from statestore.importers import claude_code as import_transcripts

    checks.optional_key(user_id, "--user-id")
    folder = Path(_DEFAULT).expanduser() if path is None else path
    if not folder.exists():
        raise Failure(f"{folder} does not exist; name the file or folder to import")

    with database.open(create=True) as store, Progress("importing") as bar:

        def say(problem: Problem) -> None:
            bar.say(f"{problem.source}:{problem.line or 0}: {problem.reason}")

        totals = import_transcripts(
            store,
            folder,
            user_id=user_id,
            expect=bar.expect,
            progress=lambda file: bar.advance(1),
            on_problem=say,
        )
    if as_json:
        click.echo(json_text(asdict(totals)))
    else:
        unfinished = totals.lines_unfinished
        later = f"; left {counted(unfinished, 'line')} still being written for the next run"
        click.echo(
            f"imported {counted(totals.files, 'file')}: {counted(totals.sessions_new, 'session')} new, "
            f"{totals.sessions_extended:,} extended, {totals.sessions_unchanged:,} unchanged, "
            f"{counted(totals.entries_added, 'entry')} added{later if unfinished else ''}"
        )
    if totals.lines_failed:
        raise Failure(f"{counted(totals.lines_failed, 'line')} could not be imported; see above")
