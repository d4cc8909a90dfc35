"""`statestore migrate`: the schema of the database."""

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import click

from statestore.cli import terminal
from statestore.cli.durations import Duration
from statestore.cli.failures import Failure
from statestore.cli.groups import Group, no_such
from statestore.cli.options import Database, database_options, examples, json_option, yes_option
from statestore.cli.output import json_text, visible

if TYPE_CHECKING:
    from statestore.partitioning import TablePartitions


@click.group(
    cls=Group,
    name="migrate",
    epilog=examples(
        "statestore migrate up --url postgresql://app@db.example.com/app",
        "statestore migrate status",
        "statestore migrate check && deploy",
    ),
)
def migrate() -> None:
    """Make, check and change the tables in the database."""


@migrate.command(
    epilog=examples(
        "statestore migrate up --url sqlite:///agents.db",
        "statestore migrate up --url postgresql://app@db.example.com/app --schema agents",
    )
)
@click.option("--revision", default="head", metavar="REVISION", help="Where to stop.  [default: the newest]")
@database_options
@json_option
def up(database: Database, revision: str, as_json: bool) -> None:
    """Bring the schema up to date, or make it.

    Any number of processes may run this at once: they run one after the other, and the later ones find nothing left to
    do. A SQLite file that does not exist is created.
    """
    from statestore import migrate

    url = database.url()
    migrate.upgrade(url, revision, **database.where, progress=lambda text: terminal.say(text, err=as_json))
    _tell_revision(migrate.current(url, **database.where), as_json)


@migrate.command(
    epilog=examples(
        "statestore migrate down 0001",
        "statestore migrate down base --yes --url sqlite:///scratch.db",
    )
)
@click.argument("revision")
@yes_option
@database_options
@json_option
def down(database: Database, revision: str, yes: bool, as_json: bool) -> None:
    """Take the schema back to REVISION and drop what newer tables and columns hold.

    `base` removes every table, and so every session. A schema that is there already, or is older, stays as it is.
    """
    from statestore import migrate
    from statestore.errors import SchemaMissingError

    url = database.existing_url()
    known = {"base": "", **{one.revision: one.message for one in migrate.history()}}
    if revision not in known:
        raise Failure(no_such("revision", revision, known))
    current = migrate.current(url, **database.where)
    where = repr(url.database) + (f" on {url.host}" if url.host else "")
    if current is None:
        raise SchemaMissingError(f"database {where} has no statestore tables", current=None, expected=revision)
    # A schema that is newer than all that is known here is refused by the downgrade itself.
    names = list(known)
    undone = names[names.index(revision) + 1 : names.index(current) + 1] if current in known else []
    if current in known and not undone:
        _tell_revision(current, as_json)
        return
    if not yes:
        for one in reversed(undone):
            terminal.say(f"takes back {one}: {known[one]}", err=True)
        question = f"Go back to {revision} in database {where}? Data in newer tables and columns is lost for good."
        click.confirm(visible(question), abort=True, err=True)
    migrate.downgrade(url, revision, **database.where, progress=lambda text: terminal.say(text, err=as_json))
    _tell_revision(migrate.current(url, **database.where), as_json)


@migrate.command(
    epilog=examples(
        "statestore migrate status",
        "statestore migrate status --json --url postgresql://app@db.example.com/app",
    )
)
@database_options
@json_option
def status(database: Database, as_json: bool) -> None:
    """Show which revision the schema has, and what is pending."""
    from statestore import migrate
    from statestore.schema import HEAD_REVISION

    found = migrate.read(database.existing_url(), **database.where)
    current = None if found is None else found.revision
    known = migrate.history()
    revisions = [revision.revision for revision in known]
    ahead = current is not None and current not in revisions
    usable = found is not None and found.is_usable
    pending = [] if ahead else known[revisions.index(current) + 1 if current in revisions else 0 :]
    if as_json:
        facts = {"current": current, "head": HEAD_REVISION, "ahead": ahead, "usable": usable, "pending": pending}
        click.echo(json_text(facts))
        return
    note = f"  (newer than this version of statestore, which may {'' if usable else 'not '}use it)" if ahead else ""
    click.echo(f"current  {visible(current or 'none')}{note}")
    click.echo(f"head     {HEAD_REVISION}")
    for index, revision in enumerate(pending):
        terminal.say(f"{'' if index else 'pending':9}{revision.revision}  {revision.message}")
    if not pending:
        click.echo("pending  none")


@migrate.command(
    epilog=examples(
        "statestore migrate check",
        "statestore migrate check --json --url postgresql://app@db.example.com/app",
    )
)
@database_options
@json_option
def check(database: Database, as_json: bool) -> None:
    """Compare the tables with the ones that this version works with; exit with 1 if they differ.

    Compares tables, columns, indexes, foreign keys and checks, and ignores other tables in the database. Additions of a
    newer schema that this version may use are not differences.
    """
    from statestore import migrate
    from statestore.schema import HEAD_REVISION

    url = database.existing_url()
    migrate.check(url, **database.where)
    revision = migrate.current(url, **database.where)
    differences = migrate.differences(url, **database.where)
    divided = migrate.partitions(url, schema=database.schema)
    if as_json:
        click.echo(json_text({"revision": revision, "differences": differences, "partitions": divided}))
    for difference in [] if as_json else differences:
        click.echo(visible(difference))
    if differences:
        raise Failure(
            f"the tables differ from revision {revision}, which they claim to be; undo the changes that were made by "
            "hand, or restore the tables from a backup"
        )
    if not as_json:
        newer = "" if revision == HEAD_REVISION else f", which this version may use; it works with {HEAD_REVISION}"
        terminal.say(f"the tables match revision {revision}{newer}")
        for table, count in divided.items():
            terminal.say(f"{table} has {count} partitions")


@migrate.command(
    epilog=examples(
        "statestore migrate partition --check",
        "statestore migrate partition --by hash --partitions 32",
        "statestore migrate partition --table history_entries --url postgresql://owner@db.example.com/app",
    )
)
@click.option("--by", type=click.Choice(["hash"]), default="hash", show_default=True, help="How rows are divided.")
@click.option(
    "--partitions", type=click.IntRange(2, 1024), default=32, show_default=True, help="How many; fixed from then on."
)
@click.option(
    "--table",
    "tables",
    multiple=True,
    type=click.Choice(["history_entries", "cache_entries"]),
    help="Only this table.  [default: both]",
)
@click.option(
    "--lock-timeout",
    type=Duration(),
    default="5s",
    show_default=True,
    metavar="DURATION",
    help="Give a lock up after this time, since everybody else waits behind it; then try again.",
)
@click.option("--check", "only_check", is_flag=True, help="Only say what would be done; exit with 1 if it cannot be.")
@click.option("--cancel", is_flag=True, help="Give up what was interrupted before its swap: drop the copies.")
@database_options
@json_option
def partition(
    database: Database,
    by: str,
    partitions: int,
    tables: tuple[str, ...],
    lock_timeout: timedelta,
    only_check: bool,
    cancel: bool,
    as_json: bool,
) -> None:
    """Divide the histories and the cache of a PostgreSQL database into partitions, while stores use them.

    Rows are copied in batches; what is written meanwhile follows; then the copy takes the table's place in one short
    transaction. It may be killed at any point: run it again, and it goes on. It needs as much free space as the tables
    take now. There is no way back but an export and an import.
    """
    from statestore import partitioning
    from statestore.schema import partitions as existing

    if only_check and cancel:
        raise click.UsageError("--check and --cancel cannot be combined.")
    url, schema = database.existing_url(), database.schema
    wanted = tables or tuple(existing.KEYS)
    if cancel:
        dropped = partitioning.cancel(url, tables=wanted, schema=schema, lock_timeout=lock_timeout)
        click.echo(json_text({"cancelled": dropped}) if as_json else f"given up: {', '.join(dropped) or 'nothing'}")
        return
    options: dict[str, Any] = {"by": by, "partitions": partitions, "tables": wanted, "schema": schema}
    if only_check:
        found = partitioning.look(url, **options)
    else:
        found = partitioning.partition(
            url, **options, lock_timeout=lock_timeout, progress=lambda text: click.echo(visible(text), err=True)
        )
    for one in found:
        click.echo(json_text(one) if as_json else _described(one))
    if any(one.problems for one in found):
        raise Failure("not all of the tables can be partitioned")


def _described(found: "TablePartitions") -> str:
    """What is said of a table that can be partitioned."""
    size = f"about {found.rows:,} rows, {found.bytes:,} bytes"
    where = f"{found.partitions} partitions by hash of {found.by}"
    said = {
        "plain": f"would get {where}, and needs as much free space",
        "copying": f"is on its way to {where}; go on with --partitions {found.partitions}, or --cancel",
        "finishing": f"has {where}, whose foreign keys are not validated yet; run the command to finish",
        "partitioned": f"has {where}",
    }[found.state]
    problems = "".join(f"\n  it cannot: {visible(problem)}" for problem in found.problems)
    return f"{found.table} ({size}) {said}{problems}"


@migrate.command(
    epilog=examples(
        "statestore migrate distribute --check --url postgresql://app@coordinator.example.com/app",
        "statestore migrate distribute --url postgresql://app@coordinator.example.com/app",
    )
)
@click.option("--check", "dry_run", is_flag=True, help="Change nothing: show what would be done; exit with 1 if any.")
@database_options
@json_option
def distribute(database: Database, dry_run: bool, as_json: bool) -> None:
    """Distribute the tables over the servers of a Citus cluster, by namespace.

    Each namespace is on one server, with all of its rows; prices and settings are copied to every server. What is done
    already stays as it is. All is done in one transaction or nothing, and whoever writes waits meanwhile.
    """
    from statestore import migrate

    steps = migrate.distribute(database.existing_url(), schema=database.schema, dry_run=dry_run)
    if as_json:
        click.echo(json_text({"missing" if dry_run else "done": steps}))
    for step in [] if as_json else steps:
        click.echo(visible(step))
    if dry_run and steps:
        raise Failure("the tables are not distributed; do it with: statestore migrate distribute")
    if not steps and not as_json:
        click.echo("the tables are distributed")


def _tell_revision(revision: str | None, as_json: bool) -> None:
    if as_json:
        click.echo(json_text({"revision": revision}))
    else:
        click.echo(f"the schema is at revision {revision}" if revision else "there is no schema left")
