"""`statestore import claude-code`: transcripts of Claude Code as sessions, with what they used."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from statestore.cli.options import Database, examples, json_option, store_options
from statestore.cli.output import Failure, counted, json_text, visible

_DEFAULT = "~/.claude/projects"


@click.command(
    "claude-code",
    epilog=examples(
        "statestore import claude-code --user-id ada",
        "statestore import claude-code ./transcripts --json",
    ),
)
@click.argument("path", type=click.Path(exists=True, path_type=Path), required=False)
@click.option("--user-id", metavar="USER", help="Whose the new sessions are.")
@store_options
@json_option
def claude_code(database: Database, path: Path | None, user_id: str | None, as_json: bool) -> None:
    """Import transcripts of Claude Code from PATH: a file, or a folder with all that is below it.

    Without PATH from ~/.claude/projects. Each file is a session, each sub-agent another, forked from it. Messages are
    kept as they are. A response that is written in several lines counts once, also where a resumed session begins with
    a copy of another, as long as that is there or was imported and not deleted.

    Running it again changes nothing, and adds what is new. A file's last line is left for the next run if it is not
    complete, or belongs to a response that has not said why it stopped, unless nobody has written to the file for ten
    minutes. What cannot be stored is reported with its file and line, the others go in, and the exit code is 1. Nothing
    is written to PATH. Costs are computed where prices are known: `statestore prices sync` first, or `statestore prices
    apply` afterwards.
    """
    from statestore.checking import checks
    from statestore.cli import claude_lines
    from statestore.cli.claude_transcripts import Importer

    checks.optional_key(user_id, "--user-id")
    folder = Path(_DEFAULT).expanduser() if path is None else path
    if not folder.exists():
        raise Failure(f"there is no {folder}; name the file or the folder to import")
    found = claude_lines.files(folder)

    def report(file: Path, number: int, reason: str) -> None:
        click.echo(visible(f"{file}:{number}: {reason}"), err=True)

    with database.open(create=True) as store, _progress(len(found)) as advance:
        importer = Importer(store, user_id=user_id, report=report, progress=advance)
        totals = importer.run(found)
    if as_json:
        click.echo(json_text(asdict(totals)))
    else:
        unfinished = totals.lines_unfinished
        later = f"; left for the next run: {counted(unfinished, 'line')} of what is still being written"
        click.echo(
            f"imported {counted(totals.files, 'file')}: {counted(totals.sessions_new, 'session')} new, "
            f"{totals.sessions_extended:,} extended, {totals.sessions_unchanged:,} unchanged, "
            f"{counted(totals.entries_added, 'entry')} added{later if unfinished else ''}"
        )
    if totals.lines_failed:
        raise Failure(f"{counted(totals.lines_failed, 'line')} could not be imported; see above")


@contextmanager
def _progress(files: int) -> Iterator[Callable[[Any], None]]:
    """A bar on a terminal; elsewhere nothing, where click before 8.2 would print the label."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    with click.progressbar(length=files, label="importing", file=sys.stderr, width=0) as bar:
        yield lambda _: bar.update(1)
