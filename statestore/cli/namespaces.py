"""`statestore namespaces`: list the namespaces of a database, and delete one whole."""

from collections.abc import Sequence

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
    if not found:
        click.echo("no namespaces yet; a namespace appears with its first write", err=True)
        return
    if terminal.is_terminal():
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


@namespaces.command(
    epilog=examples(
        "statestore namespaces drop tenant-1",
        "statestore namespaces drop tenant-1 --yes",
        "statestore namespaces drop --namespaces 'acme/*'",
    )
)
@click.argument("name", required=False)
@click.option(
    "--namespaces",
    multiple=True,
    metavar="NAMES",
    help="Instead of NAME: another name, or a prefix such as 'acme/*'. May be repeated.",
)
@yes_option
@store_options
@json_option
def drop(database: Database, name: str | None, namespaces: tuple[str, ...], yes: bool, as_json: bool) -> None:
    """Delete everything in the namespace NAME, or in several, and print a receipt.

    Sessions, state, cache, usage, prices and settings are deleted. This cannot be undone. Stop the processes that use
    the namespace first. If it is interrupted, run it again.
    """
    from statestore.checking.namespaces import Chosen, chosen

    if (name is None) == (not namespaces):
        raise click.UsageError("Give either NAME or --namespaces.")
    several = chosen(namespaces) if name is None else Chosen((name,))
    assert several is not None
    with database.open() as store:
        if not yes:
            found = [one for one in store.namespaces() if several.has(one.name)]
            sessions = sum(one.sessions for one in found)
            what = counted(sessions, "session") if sessions else "no sessions"
            which = f"namespace {visible(name)}" if name is not None else _listed([one.name for one in found])
            click.confirm(f"Delete {which} with {what} and everything else in it?", abort=True, err=True)
        receipt = store.drop_namespace(name, namespaces=namespaces or None)
    if as_json:
        facts = {"name": receipt.name, "names": receipt.names, "dropped_at": receipt.dropped_at}
        click.echo(json_text({**facts, "rows": dict(receipt.rows)}))
        return
    which = f"namespace {visible(name)}" if name is not None else _listed(receipt.names)
    click.echo(f"deleted all of {which}")
    for table, rows in receipt.rows.items():
        click.echo(f"  {table:<18} {rows:,}")
    click.echo(f"  at {time_text(receipt.dropped_at)}")


def _listed(names: Sequence[str]) -> str:
    """How many namespaces, and the first of them."""
    shown = ", ".join(visible(name) for name in names[:10])
    more = ", …" if len(names) > 10 else ""
    return f"{counted(len(names), 'namespace')}" + (f" ({shown}{more})" if names else "")
