"""`statestore fork`: continue from any point of a session in a new one."""

import click

from statestore.cli import ids
from statestore.cli.options import Database, examples, json_option, store_options
from statestore.cli.output import counted, json_text, session_record, visible


@click.command(
    epilog=examples(
        "statestore fork user-42 user-42-retry --at-seq 6",
        "statestore fork user-42 --json | jq -r .session_id",
    )
)
@click.argument("source", shell_complete=ids.complete)
@click.argument("new", required=False)
@click.option(
    "--at-seq", type=click.IntRange(0), metavar="N", help="The last entry that the fork sees.  [default: all]"
)
@store_options
@json_option
def fork(database: Database, source: str, new: str | None, at_seq: int | None, as_json: bool) -> None:
    """Make session NEW, which begins with the history of SOURCE up to entry N.

    The fork has the history up to there and the current state. No entry is copied, so a fork takes the same time for
    any length of history. Neither session sees later changes to the other. Without NEW, an id is generated.
    """
    with database.open() as store:
        source = ids.resolve(store, source, say=True)
        made = store.sessions.fork(source, new, at_seq=at_seq)
    if as_json:
        click.echo(json_text(session_record(made)))
        return
    click.echo(
        f"session {visible(made.session_id)} forked from {visible(source)} at {made.forked_at_seq}, "
        f"with {counted(made.entry_count, 'entry')}"
    )
