"""`statestore vacuum`: give the space of what was deleted back."""

from dataclasses import asdict

import click

from statestore.cli.importing import Progress
from statestore.cli.options import Database, database_options, examples, json_option
from statestore.cli.output import Failure, json_text


@click.command(epilog=examples("statestore vacuum", "statestore vacuum --full --url sqlite:///old.db"))
@click.option("--full", is_flag=True, help="Write the whole file anew, in one go.")
@database_options
@json_option
def vacuum(database: Database, full: bool, as_json: bool) -> None:
    """Give the space of what was deleted back, of a SQLite file and its log.

    A little at a time: others read and write meanwhile, and it may be stopped at any time. With --full in one go, which
    takes the space of another copy, and during which nobody writes; a file that an older version made needs that once.
    A PostgreSQL server does this by itself, and is left alone.
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
                "this file was made by a version that could not give space back a little at a time; "
                "write it anew once with --full, while nobody writes to it"
            ) from None
    if as_json:
        click.echo(json_text(asdict(report)))
        return
    click.echo(f"{report.before:,} bytes before, {report.after:,} now")
    if not report.complete:
        click.echo("the log could not be emptied while others use it; run this again later", err=True)
