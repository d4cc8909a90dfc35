"""`statestore doctor`: what is wrong with the database, and the command that mends it."""

import sys
from dataclasses import asdict
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import click

from statestore.cli import terminal
from statestore.cli.durations import Duration
from statestore.cli.failures import Failure
from statestore.cli.options import Database, database_options, examples, json_option
from statestore.cli.output import counted, json_text, visible

if TYPE_CHECKING:
    from statestore.doctor import Examination, Finding

_COLORS = {"ok": "green", "warn": "yellow", "fail": "red"}
_LEAST = 30
"""So many columns a message needs to be broken between its words."""
_EXIT_CODES = {"ok": 0, "warn": 1, "fail": 2}


@click.command(
    epilog=examples(
        "statestore doctor",
        "statestore doctor --json --url postgresql://app@db.example.com/app",
        "statestore doctor --check sweep --check grants --role app",
        "statestore doctor --fix indexes",
    )
)
@click.option("--check", "only", multiple=True, metavar="NAME", help="Only this check; can be given several times.")
@click.option("--fix", metavar="NAME", help="Mend what this check finds, as far as SQL can; prints each statement.")
@click.option("--role", metavar="NAME", help="PostgreSQL: the role whose grants count.  [default: who connects]")
@click.option("--thorough", is_flag=True, help="Read large tables and files as a whole, too.")
@click.option(
    "--timeout", type=Duration(), default="5s", show_default=True, metavar="DURATION", help="For each statement."
)
@click.option("--quiet", "-q", is_flag=True, help="Only what is not ok.")
@database_options
@json_option
def doctor(
    database: Database,
    only: tuple[str, ...],
    fix: str | None,
    role: str | None,
    thorough: bool,
    timeout: timedelta,
    quiet: bool,
    as_json: bool,
) -> None:
    """Examine the database: a line for each check, and below it the command that mends what is wrong.

    It only reads, with bounds on time, and works on a database that is unreachable, empty, read-only or huge. The exit
    code is 0 if all is ok, 1 if the worst is a warning, 2 if something fails: what Nagios and its like expect.

    --fix changes the database. Look first; --json shows the statements that it would run.
    """
    from statestore import doctor as api

    for name in (*only, *([fix] if fix else [])):
        if name not in api.names():
            raise click.UsageError(f"There is no check {name!r}; there are: {', '.join(api.names())}.")
    url, options = database.url(), {**database.where, "timeout": timeout, "thorough": thorough, "role": role}
    options |= {"command": database.command, "namespace": database.namespace}
    if fix is not None:
        _mend(url, fix, options, as_json)
        return
    examination = api.examine(url, only=only, **options)
    if as_json:
        facts = {"url": examination.url, "verdict": examination.verdict, "url_left_out": database.hides_url}
        click.echo(json_text(facts | {"findings": [asdict(finding) for finding in examination]}))
    else:
        _print(examination, quiet)
        if any(finding.remedy for finding in examination):
            _say_what_is_left_out(database)
    sys.exit(_EXIT_CODES[examination.verdict])


def _mend(url: Any, name: str, options: dict[str, Any], as_json: bool) -> None:
    from statestore import doctor as api

    mended = api.mend(url, name, **options)
    left = [finding for finding in mended.findings if finding.verdict != "ok"]
    if as_json:
        click.echo(json_text({"check": name, "sql": mended.sql, "findings": [asdict(one) for one in mended.findings]}))
    else:
        for line in mended.sql:
            click.echo(visible(line))
        for finding in mended.findings:
            _print_finding(finding, len(name))
    if left:
        done = "" if mended.sql else "no SQL can fix this: "
        raise Failure(f"{done}{name}: {left[0].message}")


def _print(examination: "Examination", quiet: bool) -> None:
    width = max((len(finding.check) for finding in examination), default=0)
    for finding in examination:
        if not quiet or finding.verdict != "ok":
            _print_finding(finding, width)
    numbers = {verdict: sum(finding.verdict == verdict for finding in examination) for verdict in _EXIT_CODES}
    click.echo(f"{numbers['ok']} ok, {counted(numbers['warn'], 'warning')}, {counted(numbers['fail'], 'failure')}")


def _say_what_is_left_out(database: Database) -> None:
    if database.hides_url:
        what = "The commands take the database from STATESTORE_URL, so that no password is in them: "
        terminal.say(f"{what}set it to the URL of this one first, or name a --profile that has it.", err=True)


def _print_finding(finding: "Finding", width: int) -> None:
    verdict = click.style(f"{finding.verdict:4}", fg=_COLORS[finding.verdict])
    before, columns = " " * (8 + width), terminal.width() - 8 - width
    narrow = terminal.is_terminal() and columns >= _LEAST
    message = visible(finding.message)
    first, *rest = terminal.wrapped(message, columns) if narrow else (message,)
    click.echo("\n".join((f"{verdict}  {finding.check:{width}}  {first}", *(before + line for line in rest))))
    if finding.remedy is not None:
        click.echo(f"      {'':{width}}  $ {visible(finding.remedy)}")
