"""`statestore demo`: what statestore does, in a minute."""

import shlex
import tempfile
from pathlib import Path

import click

from statestore.cli.options import examples
from statestore.cli.output import Failure, visible


@click.command(
    epilog=examples(
        "statestore demo",
        "statestore demo --path demo.db",
        "statestore demo conversations.jsonl",
    )
)
@click.argument("file", required=False, type=click.Path(exists=True, dir_okay=False, readable=True))
@click.option("--path", type=click.Path(path_type=Path), help="The SQLite file to make.  [default: a temporary one]")
def demo(file: str | None, path: Path | None) -> None:
    """Show what statestore does, step by step, on a new SQLite file.

    Without FILE it tells the story of a short conversation. With FILE, which holds conversations as `statestore import
    openai-jsonl` reads them, it uses these instead, and compares every message with what the store returns. Everything
    it says about the store is read from the store. The database stays, and you can look around.
    """
    made = path is None
    if path is None:
        path = Path(tempfile.mkdtemp(prefix="statestore-demo-")) / "demo.db"
    elif path.exists():
        raise Failure(f"{str(path)!r} already exists; the demonstration needs a new file, so name another one")
    path = path.absolute()
    if file is None:
        from statestore.cli.demo_story import tell

        session_id = tell(path)
    else:
        from statestore.cli.demo_file import replay

        session_id = replay(path, file)
    _say_goodbye(path, session_id, made)


def _say_goodbye(path: Path, session_id: str, made: bool) -> None:
    url = shlex.quote(f"sqlite:///{path}")
    sql = "SELECT role, count(*), sum(content_bytes) FROM history_entries GROUP BY role"
    remove = shlex.quote(str(path.parent if made else path))
    lines = [
        f"export STATESTORE_URL={url}",
        "statestore sessions                                  # in a checkout: ./run cli sessions",
        f"statestore show {shlex.quote(session_id)} --last 4",
        f'sqlite3 {shlex.quote(str(path))} "{sql}"',
        f"rm -r {remove}" if made else f"rm {remove}*",
    ]
    click.echo()
    click.secho("Look around:", bold=True)
    click.echo(_indented(lines))


def _indented(lines: list[str]) -> str:
    return "\n".join(f"     {visible(line)}" for line in lines)
