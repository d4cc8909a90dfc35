"""`statestore demo`: what statestore does, in half a minute."""

import shlex
import tempfile
from pathlib import Path

import click

from statestore.cli.failures import Failure
from statestore.cli.options import examples
from statestore.cli.output import visible


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

    Without FILE, four processes write into one conversation at once; one that runs an agent is killed, and another goes
    on; a conversation is forked; and what all that cost is shown, at last as a page. With FILE, which holds
    conversations as `statestore import openai-jsonl` reads them, it uses these, and compares every message with what
    the store returns. Everything it says about the store is read from the store. The database stays, and you can look
    around.
    """
    made = path is None
    if path is None:
        path = Path(tempfile.mkdtemp(prefix="statestore-demo-")) / "demo.db"
    for taken in (path, path.with_suffix(".html")):
        if taken.exists():
            raise Failure(f"{str(taken)!r} already exists; the demonstration needs a new file, so name another one")
    path = path.absolute()
    if file is None:
        from statestore.cli.demo_story import tell

        session_id = tell(path)
    else:
        from statestore.cli.demo_file import replay

        session_id = replay(path, file)
    _say_goodbye(path, session_id, made)


def _say_goodbye(path: Path, session_id: str, made: bool) -> None:
    folder = shlex.quote(str(path.parent))
    names = " ".join((f"{shlex.quote(path.name)}*", shlex.quote(path.with_suffix(".html").name)))
    lines = [
        f"export STATESTORE_URL={shlex.quote(f'sqlite:///{path}')}",
        "statestore sessions                   # in a checkout: ./run cli sessions",
        f"statestore show {shlex.quote(session_id)} --last 4",
        f"statestore tree {shlex.quote(session_id)}",
        f"rm -r {folder}" if made else f"cd {folder} && rm -f {names}",
    ]
    click.echo()
    click.secho("Look around:", bold=True)
    click.echo("\n".join(f"     {visible(line)}" for line in lines))
