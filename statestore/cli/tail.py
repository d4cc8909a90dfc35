"""`statestore tail`: follow a session while it is written."""

from datetime import timedelta

import click

from statestore.cli import conversation, ids, terminal
from statestore.cli.durations import Duration
from statestore.cli.failures import Failure
from statestore.cli.options import Database, examples, json_option, store_options
from statestore.cli.output import json_text
from statestore.errors import SessionNotFoundError
from statestore.values.history import Entry


@click.command(
    epilog=examples(
        "statestore tail user-42",
        "statestore tail user-42 --last 0 --json | jq --unbuffered .content",
    )
)
@ids.session_argument
@click.option(
    "--last", "-n", type=click.IntRange(0), default=10, show_default=True, help="Begin with the newest N entries."
)
@click.option(
    "--timeout", type=Duration(), metavar="DURATION", help="Stop when nothing has come for this long: 30s, 5m."
)
@click.option("--full/--fold", default=None, help="As for `show`.  [default: --fold on a terminal]")
@store_options
@json_option
def tail(
    database: Database, session: str, last: int, timeout: timedelta | None, full: bool | None, as_json: bool
) -> None:
    """Print the newest entries of SESSION, and each further one as it is appended, until Ctrl-C.

    Every entry comes once and in order, even if the connection is lost meanwhile. With --json each is a line. It ends
    with exit code 1 when the session is deleted or expires; waiting does not count as a use.
    """
    fold = terminal.is_terminal() if full is None else not full

    def say(entry: Entry) -> None:
        if as_json:
            click.echo(json_text(entry))
            return
        width = terminal.width() if terminal.is_terminal() else None
        click.echo("\n".join((*conversation.render(entry, width=width, fold=fold), "")))

    with database.open() as store:
        found = store.sessions.get(ids.resolve(store, session))
        after = max(found.first_seq, found.next_seq - last) - 1
        try:
            for entry in store.history.follow(found.session_id, after=after, timeout=timeout):
                say(entry)
        except SessionNotFoundError:
            raise Failure(f"session {found.session_id!r} has been deleted, or has expired") from None
