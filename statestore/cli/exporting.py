"""`statestore export`, and the imports that bring whole sessions back: from its file, and from other systems' files."""

import os
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import click

from statestore.cli.importing import Progress
from statestore.cli.options import Database, examples, json_option, store_options
from statestore.cli.output import Failure, counted, json_text, visible

if TYPE_CHECKING:
    from statestore.importers import Problem, SessionsReport

replace_option = click.option("--replace", is_flag=True, help="Overwrite what is there already.")


@click.command(
    "export",
    epilog=examples(
        "statestore export backup.jsonl",
        "statestore export backup.jsonl all --replace",
        "statestore export ada.jsonl --user ada",
        "statestore export - --session user-42 | gzip > user-42.jsonl.gz",
    ),
)
@click.argument("file", type=click.Path(dir_okay=False, allow_dash=True))
@click.argument("which", type=click.Choice(["all"]), required=False, metavar="[all]")
@click.option("--session", "session_ids", metavar="SESSION", multiple=True, help="Only this one; may be repeated.")
@click.option("--user", metavar="USER", help="Only this user's.")
@replace_option
@store_options
@json_option
def export(
    database: Database,
    file: str,
    which: str | None,
    session_ids: tuple[str, ...],
    user: str | None,
    replace: bool,
    as_json: bool,
) -> None:
    """Write sessions to FILE, by default all of the namespace; `-` is standard output.

    The file has all that belongs to them: history, state, summaries, lineage and usage, as they are at one moment.
    `statestore import statestore FILE` brings them back, into either kind of database, and exported again they give the
    same file. A FILE that exists is not overwritten without --replace; it is complete or it is not there. A pipe or a
    device is written to as it is.
    """
    if sum((bool(session_ids), user is not None, which is not None)) > 1:
        raise click.UsageError("name either --session or --user or all")
    from statestore.portable import export_sessions

    with database.open() as store, written_file(file, replace) as target, Progress("exporting") as bar:
        totals = export_sessions(
            store, target, session_ids=session_ids or None, user_id=user, expect=bar.expect, progress=bar.advance
        )
    if as_json:
        click.echo(json_text({"file": file, **asdict(totals)}), err=file == "-")
        return
    sessions, entries = counted(totals.sessions, "session"), counted(totals.entries, "entry")
    click.echo(f"exported {sessions} with {entries} to {visible(file)}", err=file == "-")


@contextmanager
def written_file(file: str, replace: bool, *, links: bool = True) -> Iterator[BinaryIO]:
    """Standard output, a pipe or a device; or a file that appears when it is complete.

    The file's owner alone can read it: it is conversations, or tells of them. Without *links* a link to a file is
    refused; else what it leads to is written.
    """
    if file == "-":
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    try:
        special = not stat.S_ISREG(os.stat(file).st_mode)
    except FileNotFoundError:
        special = False
    except OSError as error:
        raise Failure(f"{file}: {error.strerror}") from None
    try:
        with _opened(file) if special else _replaced(file, replace, links) as target:
            yield target
    except OSError as error:
        raise Failure(f"{file}: {error.strerror}") from None


def _opened(file: str) -> BinaryIO:
    """A pipe or a device, which is there to be written to: to put a file in its place would destroy it."""
    return os.fdopen(os.open(file, os.O_WRONLY), "wb")


@contextmanager
def _replaced(file: str, replace: bool, links: bool) -> Iterator[BinaryIO]:
    if not links and os.path.islink(file):
        raise Failure(f"{file} is a link; name the file itself")
    # Where a link leads to is replaced, not the link.
    path = Path(os.path.realpath(file) if links else file)
    if path.exists() and not replace:
        raise Failure(f"{file} exists; name another file, or overwrite it with --replace")
    handle, part = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as target:
            yield target
            target.flush()
            os.fsync(target.fileno())
        os.replace(part, path)
    except BaseException:
        os.unlink(part)
        raise


@click.command("statestore", epilog=examples("statestore import statestore backup.jsonl --url sqlite:///copy.db"))
@click.argument("file", type=click.Path(exists=True, dir_okay=False, readable=True, allow_dash=True))
@replace_option
@store_options
@json_option
def statestore_file(database: Database, file: str, replace: bool, as_json: bool) -> None:
    """Import the sessions of a FILE that `statestore export` wrote; `-` is standard input.

    The whole file is checked before anything is written. All of its sessions or none: one that is there already stops
    the import. With --replace they are overwritten, a few at a time, so that nobody waits long; what was recorded as
    used stays so. Run again it completes an import that was cut off.
    """
    from statestore.errors import InvalidValueError
    from statestore.portable import import_sessions

    with _source(file) as source, database.open(create=True) as store, Progress.reading(source, times=2) as bar:
        try:
            totals = import_sessions(store, source, replace=replace, progress=bar.advance)
        except InvalidValueError as error:
            raise Failure(f"{file}: {error}") from None
        except KeyboardInterrupt:
            if replace:
                bar.say("stopped; what was replaced stays so, and the same command completes it")
            raise
    if as_json:
        click.echo(json_text({"file": file, **asdict(totals)}))
    else:
        sessions, entries = counted(totals.sessions, "session"), counted(totals.entries, "entry")
        click.echo(f"imported {sessions} with {entries} from {visible(file)}")


def _source(file: str) -> BinaryIO:
    try:
        return open(0 if file == "-" else file, "rb", closefd=file != "-")
    except OSError as error:
        raise Failure(f"{file}: {error.strerror}") from None


_path = click.argument("path", type=click.Path(exists=True, path_type=Path))


@click.command("promptkit", epilog=examples("statestore import promptkit ./conversations"))
@_path
@replace_option
@store_options
@json_option
def promptkit(database: Database, path: Path, replace: bool, as_json: bool) -> None:
    """Import the conversations of PromptKit's file store from PATH, the folder that holds `conv-ID` folders.

    Messages are kept as they are; tokens, costs, tools and times are read from them. The system prompt becomes the
    session's instructions; its named lists and its token count become keys of its state, `promptkit.list.NAME` and
    `promptkit.token_count`. Messages that were trimmed behind a summary leave their positions free. Nothing is written
    to PATH. A conversation that is there already is reported and left alone,
    unless --replace lets it be overwritten.
    """
    from statestore.importers import promptkit as import_conversations
    from statestore.importers.promptkit_files import conversations

    _import_each(database, import_conversations, conversations(path), path, replace, as_json)


@click.command("conexus", epilog=examples("statestore import conexus ./state"))
@_path
@replace_option
@store_options
@json_option
def conexus(database: Database, path: Path, replace: bool, as_json: bool) -> None:
    """Import sessions that Conexus saved from PATH: a `session-ID.json`, or the folder that holds them.

    Each interaction becomes one history entry, with its agent and its duration. Nothing is written to PATH. A session
    that is there already is reported and left alone, unless --replace lets it be overwritten.
    """
    from statestore.importers import conexus as import_sessions
    from statestore.importers.conexus_files import saved_sessions

    _import_each(database, import_sessions, saved_sessions(path), path, replace, as_json)


def _import_each(
    database: Database,
    bring: "Callable[..., SessionsReport]",
    found: Sequence[Path],
    path: Path,
    replace: bool,
    as_json: bool,
) -> None:
    """Import what was *found* at *path*, and report what was left out."""
    from statestore.errors import ConflictError

    if not found:  # Then no database is made.
        raise Failure(f"{path} holds nothing to import")

    def say(problem: "Problem") -> None:
        hint = "; overwrite it with --replace" if isinstance(problem.error, ConflictError) else ""
        click.echo(visible(f"{Path(problem.source).name}: {problem.reason}{hint}"), err=True)

    with database.open(create=True) as store:
        totals = bring(store, path, replace=replace, on_problem=say)
    sessions, entries, failed = totals.sessions, totals.entries, totals.sessions_failed
    if as_json:
        click.echo(json_text({"path": str(path), "sessions": sessions, "entries": entries, "failed": failed}))
    else:
        click.echo(
            f"imported {counted(sessions, 'session')} with {counted(entries, 'entry')} from {visible(str(path))}"
        )
    if failed:
        raise Failure(f"{counted(failed, 'session')} could not be imported; see above")
