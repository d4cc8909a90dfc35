"""`statestore namespaces`: list the namespaces of a database, and delete one whole."""

import click

from statestore.cli import terminal
from statestore.cli.groups import Group
from statestore.cli.options import Database, examples, json_option, store_options, yes_option
from statestore.cli.output import counted, json_text, size_text, time_text, visible
from statestore.values.namespaces import NamespaceInfo


@click.group(
    cls=Group,
    invoke_without_command=True,
    epilog=examples("statestore namespaces", "statestore namespaces drop tenant-1"),
)
@terminal.wide_option
@store_options
@json_option
@click.pass_context
def namespaces(context: click.Context, database: Database, wide: bool, as_json: bool) -> None:
    """List the namespaces of the database, or delete one.

    The list has all of them, whatever --namespace says. Sessions that have expired count until they are swept.
    """
    if context.invoked_subcommand is not None:
        return
    with database.open() as store:
        found = store.namespaces()
    if as_json:
        for one in found:
            click.echo(json_text(one))
        return
    if terminal.is_terminal() and found:
        terminal.print_table(
            ("NAMESPACE", "SESSIONS", "ENTRIES", "SIZE", "LAST ACTIVITY"),
            [_row(one) for one in found],
            drop=("ENTRIES", "SIZE", "LAST ACTIVITY", "SESSIONS"),
            texts=("NAMESPACE",),
            numbers=("SESSIONS", "ENTRIES", "SIZE"),
            wide=wide,
        )
        return
    for one in found:
        used = "never used" if one.last_activity_at is None else time_text(one.last_activity_at)
        sessions, entries = counted(one.sessions, "session"), counted(one.entries, "entry")
        click.echo(f"{visible(one.name)}  {sessions}  {entries}  {one.bytes:,} bytes  {used}")


def _row(one: NamespaceInfo) -> tuple[str, ...]:
    used = "never" if one.last_activity_at is None else terminal.ago(one.last_activity_at)
    return one.name, f"{one.sessions:,}", f"{one.entries:,}", size_text(one.bytes), used


@namespaces.command(epilog=examples("statestore namespaces drop tenant-1", "statestore namespaces drop tenant-1 --yes"))
@click.argument("name")
@yes_option
@store_options
@json_option
def drop(database: Database, name: str, yes: bool, as_json: bool) -> None:
    """Delete everything in the namespace NAME, and print a receipt.

    Sessions, state, cache, usage, prices and settings are deleted. This cannot be undone. Stop the processes that use
    the namespace first. If it is interrupted, run it again.
    """
    with database.open() as store:
        if not yes:
            found = next((one for one in store.namespaces() if one.name == name), None)
            what = "no sessions" if found is None else counted(found.sessions, "session")
            click.confirm(
                f"Delete namespace {visible(name)} with {what} and everything else in it?", abort=True, err=True
            )
        receipt = store.drop_namespace(name)
    if as_json:
        click.echo(json_text({"name": name, "dropped_at": receipt.dropped_at, "rows": dict(receipt.rows)}))
        return
    click.echo(f"deleted all of namespace {visible(name)}")
    for table, rows in receipt.rows.items():
        click.echo(f"  {table:<18} {rows:,}")
    click.echo(f"  at {time_text(receipt.dropped_at)}")
