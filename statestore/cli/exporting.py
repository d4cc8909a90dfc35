"""`statestore export`, and the imports of whole sessions: from its file, and from files of other systems."""

import os
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import click

from statestore.cli import ids
from statestore.cli.failures import Failure, interrupted
from statestore.cli.importing import Progress
from statestore.cli.options import (
    Database,
    examples,
    json_option,
    namespaces_option,
    reporting_option,
    store_options,
)
from statestore.cli.output import counted, json_text, visible

if TYPE_CHECKING:
    from statestore.importers import Problem, SessionsReport

_COMPRESSED = ".zst"

_jobs_option = click.option(
    "--jobs", metavar="N", type=click.IntRange(1, 64), default=1, help="How many processes work at once.  [default: 1]"
)
replace_option = click.option("--replace", is_flag=True, help="Overwrite what already exists.")


@click.command(
    "export",
    epilog=examples(
        "statestore export backup.jsonl",
        "statestore export backup.jsonl all --replace",
        "statestore export ada.jsonl --user ada",
        "statestore export - --session user-42 | gzip > user-42.jsonl.gz",
        "statestore export backup.jsonl.zst --jobs 4",
        "statestore export acme.jsonl.zst --namespaces 'acme/*'",
    ),
)
@click.argument("file", type=click.Path(dir_okay=False, allow_dash=True))
@click.argument("which", type=click.Choice(["all"]), required=False, metavar="[all]")
@click.option(
    "--session",
    "session_ids",
    metavar="SESSION",
    multiple=True,
    shell_complete=ids.complete,
    help="Only this session; may be repeated.",
)
@click.option("--user", metavar="USER", help="Only this user's sessions.")
@namespaces_option
@_jobs_option
@replace_option
@store_options
@reporting_option
@json_option
def export(
    database: Database,
    file: str,
    which: str | None,
    session_ids: tuple[str, ...],
    user: str | None,
    namespaces: tuple[str, ...],
    jobs: int,
    replace: bool,
    as_json: bool,
) -> None:
    """Write sessions to FILE, by default all of the namespace; `-` is standard output.

    The file contains everything that belongs to them as of one moment: history, state, summaries, lineage and usage.
    `statestore import statestore FILE` brings them back, into either kind of database; another export then writes the
    same file. An existing FILE is not overwritten without --replace. FILE appears only when it is complete, but a pipe
    or a device is written to directly. It is compressed by zstd if its name ends with `.zst`.

    With --namespaces one file has the sessions of all of them, and its import brings each back to its own.
    """
    if sum((bool(session_ids), user is not None, which is not None)) > 1:
        raise click.UsageError("give only one of --session, --user and all")
    from statestore.portable import export_sessions

    with (
        database.open() as store,
        written_file(file, replace) as target,
        _packed(target, file) as packed,
        Progress("exporting") as bar,
    ):
        chosen = session_ids if namespaces else [ids.resolve(store, session_id) for session_id in session_ids]
        which_ones: dict[str, Any] = {"session_ids": chosen or None, "user_id": user, "namespaces": namespaces or None}
        totals = export_sessions(store, packed, **which_ones, jobs=jobs, expect=bar.expect, progress=bar.advance)
    if as_json:
        click.echo(json_text({"file": file, **asdict(totals)}), err=file == "-")
        return
    sessions, entries = counted(totals.sessions, "session"), counted(totals.entries, "entry")
    click.echo(f"exported {sessions} with {entries} to {visible(file)}", err=file == "-")


@contextmanager
def _packed(target: BinaryIO, name: str) -> Iterator[BinaryIO]:
    """What is written to *target*, compressed if the file's name says so."""
    if not name.endswith(_COMPRESSED):
        yield target
        return
    from statestore.checking.codec import zstd

    with zstd.ZstdFile(target, "wb", options={zstd.CompressionParameter.checksum_flag: 1}) as packed:
        yield cast(BinaryIO, packed)


def _renaming(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> dict[str, str] | None:
    if wrong := [value for value in values if not all(value.partition("="))]:
        raise click.BadParameter(f"{wrong[0]!r} is not OLD=NEW, as in 'acme/*=copy/*'")
    return dict(value.split("=", 1) for value in values) or None


@contextmanager
def written_file(file: str, replace: bool, *, links: bool = True) -> Iterator[BinaryIO]:
    """Standard output, a pipe or a device; or a file that appears when it is complete.

    Only the owner can read the file, since it contains conversations or says something about them. Without *links* a
    link to a file is refused; otherwise the link's target is written.
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
    """A pipe or a device, opened for writing; replacing it with a file would destroy it."""
    return os.fdopen(os.open(file, os.O_WRONLY), "wb")


@contextmanager
def _replaced(file: str, replace: bool, links: bool) -> Iterator[BinaryIO]:
    if not links and os.path.islink(file):
        raise Failure(f"{file} is a link; name the file itself")
    # The target of a link is replaced, not the link.
    path = Path(os.path.realpath(file) if links else file)
    if path.exists() and not replace:
        raise Failure(f"{file} already exists; name another file, or overwrite it with --replace")
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


@click.command(
    "statestore",
    epilog=examples(
        "statestore import statestore backup.jsonl --url sqlite:///copy.db",
        "statestore import statestore backup.jsonl.zst --jobs 4 --resume",
        "statestore import statestore acme.jsonl.zst --rename 'acme/*=copy/*'",
    ),
)
@click.argument("file", type=click.Path(exists=True, dir_okay=False, readable=True, allow_dash=True))
@_jobs_option
@replace_option
@click.option("--resume", is_flag=True, help="Go on with an import of the same file that was cut off.")
@click.option(
    "--rename",
    "renamed",
    multiple=True,
    metavar="OLD=NEW",
    callback=_renaming,
    help="Of a file of several namespaces: another name, or prefix such as 'acme/*=copy/*'. May be repeated.",
)
@store_options
@json_option
def statestore_file(
    database: Database,
    file: str,
    jobs: int,
    replace: bool,
    resume: bool,
    renamed: dict[str, str] | None,
    as_json: bool,
) -> None:
    """Import the sessions of a FILE that `statestore export` wrote; `-` is standard input.

    The whole file is checked before anything is written. Either all sessions are imported or none: the import fails if
    one of them already exists. With --replace existing sessions are overwritten, a few at a time, so nobody waits long;
    their recorded usage is kept. To complete an import that was cut off, run it again.

    With --resume, and with --jobs, sessions are imported a few at a time as well, so one that is cut off has imported
    some of them: --resume goes on from there. FILE may be compressed by zstd, whatever its name is.

    The sessions of a file that was made with --namespaces come into the namespaces that they were in, or where --rename
    puts them; `--rename '*=NAME'` puts all into one. Those of any other file come into --namespace.
    """
    from statestore.errors import InvalidValueError
    from statestore.portable import import_sessions

    # The size of what is compressed says nothing of how much there is to read.
    expected = Progress("importing") if file.endswith(_COMPRESSED) else None
    with (
        read_file(file) as source,
        database.open(create=True) as store,
        expected or Progress.reading(source, times=2) as bar,
    ):
        try:
            how: dict[str, Any] = {"replace": replace, "resume": resume, "jobs": jobs, "rename": renamed}
            totals = import_sessions(store, source, **how, progress=bar.advance)
        except InvalidValueError as error:
            if error.argument.startswith("rename"):
                raise Failure(f"--{error}") from None
            raise Failure(f"{file}: {error}") from None
        except KeyboardInterrupt:
            if replace:
                what = "stopped; some sessions may already be replaced; run the same command again to finish"
            elif resume or jobs > 1:
                what = "stopped; some sessions may be imported already; go on with --resume"
            else:
                what = "stopped; nothing was imported"
            raise interrupted(what, bar.say) from None
    if as_json:
        click.echo(json_text({"file": file, **asdict(totals)}))
    elif resume and not totals.lines:
        click.echo(f"{visible(file)} has already been imported completely")
    else:
        sessions, entries = counted(totals.sessions, "session"), counted(totals.entries, "entry")
        click.echo(f"imported {sessions} with {entries} from {visible(file)}")


def read_file(file: str) -> BinaryIO:
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
    """Import the conversations of PromptKit's file store from PATH, the folder that contains the `conv-ID` folders.

    Messages are kept as they are; tokens, costs, tools and times are read from them. The system prompt becomes the
    session's instructions, its named lists become the session's lists, and its token count becomes the key
    `promptkit.token_count` of its state. If messages were trimmed after a summary, their positions stay free. Nothing
    is written to PATH. A conversation that already exists is reported and left alone; --replace overwrites it.
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
    """Import sessions that Conexus saved from PATH: a `session-ID.json`, or a folder that contains such files.

    Each interaction becomes one history entry, with its agent and its duration. Nothing is written to PATH. A session
    that already exists is reported and left alone; --replace overwrites it.
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

    if not found:  # Checked first, so that no empty database is left.
        raise Failure(f"{path} has nothing to import")

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
