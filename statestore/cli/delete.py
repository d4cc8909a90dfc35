"""`statestore delete`: remove a session, or all sessions of a user."""

import click

from statestore.cli import ids
from statestore.cli.options import Database, examples, json_option, store_options, yes_option
from statestore.cli.output import counted, json_text, time_text, visible
from statestore.errors import SessionNotFoundError


@click.command(
    epilog=examples(
        "statestore delete user-42",
        "statestore delete --user ada --yes --json > receipt.json",
    )
)
@click.argument("session", required=False, shell_complete=ids.complete)
@click.option("--user", metavar="USER", help="Remove all sessions of this user, expired ones included.")
@yes_option
@store_options
@json_option
def delete(database: Database, session: str | None, user: str | None, yes: bool, as_json: bool) -> None:
    """Remove SESSION, or all sessions of a user, and print a receipt.

    History, state and summaries are deleted with a session. Forks keep what they see of it. This cannot be undone. With
    --yes the id has to be whole, so that the beginning of one does not delete another session than was meant.
    """
    if (session is None) == (user is None):
        raise click.UsageError("name either a SESSION or a --user")
    if session is not None:
        _delete_session(database, session, yes, as_json)
    elif user is not None:
        _delete_user(database, user, yes, as_json)


def _delete_session(database: Database, session: str, yes: bool, as_json: bool) -> None:
    with database.open() as store:
        session = ids.resolve(store, session, whole=yes)
        found = store.sessions.get(session)
        if not yes:
            entries = counted(found.entry_count, "entry")
            click.confirm(f"Delete session {visible(session)} with {entries}?", abort=True, err=True)
        if not store.sessions.delete(session):
            raise SessionNotFoundError(session, database.namespace)
    if as_json:
        receipt = {"session_id": session, "namespace": database.namespace, "history_length": found.entry_count}
        click.echo(json_text(receipt))
    else:
        click.echo(f"deleted session {visible(session)}, which had {counted(found.entry_count, 'entry')}")


def _delete_user(database: Database, user: str, yes: bool, as_json: bool) -> None:
    with database.open() as store:
        if not yes:
            sessions = counted(store.sessions.count(user_id=user), "session")
            question = f"Delete {sessions} of user {visible(user)}, and those that have expired?"
            click.confirm(question, abort=True, err=True)
        receipt = store.sessions.delete_user(user)
    if as_json:
        click.echo(json_text(receipt))
        return
    click.echo(f"deleted all sessions of user {visible(user)} in namespace {visible(receipt.namespace)}")
    click.echo(f"  sessions   {receipt.sessions:,}")
    click.echo(f"  entries    {receipt.entries:,}")
    click.echo(f"  state keys {receipt.state_entries:,}")
    click.echo(f"  summaries  {receipt.summaries:,}")
    click.echo(f"  user state {receipt.user_state_entries:,}")
    click.echo(f"  at         {time_text(receipt.erased_at)}")
