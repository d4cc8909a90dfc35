"""`statestore vacuum`: give the space of deleted rows back."""

from dataclasses import asdict

import click

from statestore.cli.failures import Failure
from statestore.cli.importing import Progress
from statestore.cli.options import Database, database_options, examples, json_option
from statestore.cli.output import json_text


@click.command(epilog=examples("statestore vacuum", "statestore vacuum --full --url sqlite:///old.db"))
@click.option("--full", is_flag=True, help="Rewrite the whole file in one go.")
@database_options
@json_option
def vacuum(database: Database, full: bool, as_json: bool) -> None:
    """Give the space of deleted rows back, in a SQLite file and its log.

    This works in small steps: others can read and write meanwhile, and you can stop it at any time. --full does it in
    one go, needs disk space for another copy, and blocks writers; a file that an older version made needs this once. A
    PostgreSQL server does this by itself and is left alone.
    """
    from statestore.vacuuming import NeedsFullVacuum
    from statestore.vacuuming import vacuum as run

    if database.url().get_backend_name() == "postgresql":
        done = json_text({"before": None, "after": None, "complete": True})
        click.echo(done if as_json else "nothing to do: PostgreSQL's autovacuum gives space back by itself")
        return
    with database.open() as store, Progress("vacuuming") as bar:
        try:
            report = run(store, full=full, expect=bar.expect, progress=bar.advance)
        except NeedsFullVacuum:
            raise Failure(
                "an older version made this file, and its space cannot be given back in small steps; "
                "rewrite it once with --full, while nobody writes to it"
            ) from None
    if as_json:
        click.echo(json_text(asdict(report)))
        return
    click.echo(f"{report.before:,} bytes before, {report.after:,} now")
    if not report.complete:
        click.echo("the log could not be emptied because others are using it; run this again later", err=True)
