"""`statestore report`: what was used, as a table, as JSON, as CSV, or as a page."""

import csv
import os
import sys
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import click

from statestore.cli import ids, terminal
from statestore.cli.durations import Moment, moment
from statestore.cli.exporting import written_file
from statestore.cli.failures import Failure
from statestore.cli.groups import Name
from statestore.cli.importing import Progress
from statestore.cli.options import Database, examples, json_option, namespaces_option, reporting_option, store_options
from statestore.cli.output import counted, json_text, time_text, visible
from statestore.reports.catalog import REPORTS, Report, records

_NAMES = "\n".join(f"  {report.name:<20}{report.summary}" for report in REPORTS.values())


@click.command(
    epilog=f"\b\nReports:\n{_NAMES}\n\n"
    + examples(
        "statestore report usage-by-day --since 7d",
        "statestore report usage-by-user --since 2026-01-01 --until 2026-02-01 --tz Europe/Berlin --csv",
        "statestore report usage-by-model --daily --json | jq '.[] | select(.cost_usd == null)'",
        "statestore report usage-by-session --namespaces 'acme/*' --limit 20",
        "statestore report --html report.html --since 30d",
        "statestore report --html ./report --tz Europe/Berlin",
    ),
)
@click.argument("name", type=Name(REPORTS, "report"), required=False, metavar="[NAME]")
@click.option(
    "--html",
    type=click.Path(allow_dash=True),
    metavar="PATH",
    help="Write pages instead: one to FILE.html or - (standard output), or a folder to browse.",
)
@click.option("--since", type=Moment(), metavar="WHEN", help="The start: 7d, 12h, 2026-01-31.  [default: no limit]")
@click.option("--until", type=Moment(), metavar="WHEN", help="The end, not included.  [default: now]")
@click.option("--tz", default="UTC", show_default=True, metavar="ZONE", help="The time zone of days: Europe/Berlin.")
@click.option("--user", "user_id", metavar="USER", help="Only this user.")
@click.option("--agent", "agent_name", metavar="AGENT", help="Only this agent.")
@click.option("--provider", "provider_name", metavar="NAME", help="Only this provider.")
@click.option("--model", metavar="MODEL", help="Only this model.")
@click.option("--tool", "tool_name", metavar="TOOL", help="Only this tool.")
@click.option("--session", "session_id", metavar="ID", shell_complete=ids.complete, help="Only this session.")
@click.option("--daily", is_flag=True, help="A row for each day instead of one for the whole period.")
@click.option("--limit", type=click.IntRange(1), metavar="N", help="Only N rows, the most expensive first.")
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV, for spreadsheets.")
@click.option("--replace", is_flag=True, help="With --html: overwrite what exists: a file, or a report.")
@terminal.wide_option
@namespaces_option
@store_options
@reporting_option
@json_option
def report(
    database: Database,
    name: str | None,
    html: str | None,
    replace: bool,
    since: Any,
    until: Any,
    tz: str,
    daily: bool,
    limit: int | None,
    as_csv: bool,
    wide: bool,
    namespaces: tuple[str, ...],
    as_json: bool,
    **narrow: str | None,
) -> None:
    """Report what was used and what it cost, deleted conversations included.

    NAME is a report, and the name of a view in the database. --csv and --json have all columns of the view under their
    own names; the table has the usual ones. On a terminal too narrow for these, columns are left out, the percentiles
    first and the calls last; stderr names them, and --wide shows all. Days and weeks ago begin at midnight.

    With --namespaces a report is of all these namespaces together; that of sessions begins with their namespace.

    --html writes one page with all reports if PATH ends in .html, and else a folder: its index.html leads to lists of
    the sessions and to a page for each conversation. Open it in a browser; nothing is fetched, and no script runs. An
    existing folder is refused, unless it is empty or, with --replace, such a report. The period is the one that has
    usage, unless --since and --until say otherwise; with --user the pages are of this user alone.
    """
    from statestore.checking import checks
    from statestore.repositories.usage.periods import zone

    if name is None and html is None:
        raise click.UsageError(f"Name a report, or with --html a file or a folder.\n\nReports:\n{_NAMES}")
    if name is not None and html is not None:
        raise click.UsageError("Name either a report or, with --html, a file or a folder.")
    if replace and html is None:
        raise click.UsageError("--replace needs --html.")
    if as_csv and as_json:
        raise click.UsageError("--csv and --json cannot be combined.")
    for argument, value in narrow.items():
        # Unchecked, an empty value, as from an unset shell variable, would match no entry, or every one.
        checks.optional_key(value, _option(argument))
    found = zone(tz)
    period = {"since": moment(since, found), "until": moment(until, found), "tz": tz}
    if name is None:
        assert html is not None
        period["user_id"] = narrow.pop("user_id")
        others = {"limit": limit, "daily": daily or None, "namespaces": namespaces or None, **narrow}
        _write_page(database, html, replace, period, others, as_csv or as_json)
        return
    chosen = REPORTS[name]
    asked = {**period, **narrow, "daily": daily or None, "limit": limit, "namespaces": namespaces or None}
    given = {key: value for key, value in asked.items() if value is not None}
    if tz == "UTC":
        del given["tz"]
    for argument in given:
        if argument not in chosen.arguments:
            raise click.UsageError(f"{name} does not take {_option(argument)}.")
    with database.open() as store:
        read = getattr(store.usage, chosen.method)
        rows = read(**given)
        if not rows and "session_id" in given and not namespaces and not store.sessions.exists(given["session_id"]):
            # Only then: a deleted session is in the reports by its whole id, which may begin another one's.
            rows = read(**{**given, "session_id": ids.resolve(store, given["session_id"])})
    if namespaces:
        chosen = chosen.over_namespaces()
    found_records = records(chosen, rows, daily=daily)
    if as_json:
        click.echo(json_text(found_records))
    elif as_csv:
        _print_csv(chosen, found_records, daily=daily)
    elif found_records:
        _print_table(chosen, found_records, wide)
    else:
        where = f"the namespaces {', '.join(namespaces)}" if namespaces else f"namespace {database.namespace!r}"
        click.echo(f"nothing to report in {visible(where)}", err=True)


def _option(argument: str) -> str:
    return "--" + {"user_id": "user", "agent_name": "agent", "provider_name": "provider", "tool_name": "tool"}.get(
        argument, argument.removesuffix("_id")
    )


def _write_page(
    database: Database, file: str, replace: bool, period: dict[str, Any], others: dict[str, Any], formats: bool
) -> None:
    if formats or any(value is not None for value in others.values()):
        raise click.UsageError("--html takes --since, --until, --tz and --user only.")
    if _is_page(file):
        _write_file(database, file, replace, period)
    else:
        _write_folder(database, file, replace, period)


def _is_page(file: str) -> bool:
    """Whether one page is wanted: a file, standard output, or a pipe, and not a folder."""
    return file == "-" or file.lower().endswith((".html", ".htm")) or (os.path.exists(file) and not os.path.isdir(file))


def _write_file(database: Database, file: str, replace: bool, period: dict[str, Any]) -> None:
    from statestore.reports.page import collect, render

    if os.path.isdir(file):
        raise Failure(f"{file} is a folder; name one whose name does not end in .html, or a file")
    # The file is opened first, so that an unwritable one fails before the reports, which may take long.
    with written_file(file, replace, links=False) as target, database.open() as store:
        target.write(render(collect(store, **period)).encode())
    if file != "-":
        click.echo(f"wrote {visible(file)}", err=True)


def _write_folder(database: Database, folder: str, replace: bool, period: dict[str, Any]) -> None:
    from statestore.errors import InvalidValueError
    from statestore.reports import staging
    from statestore.reports.browse import write_folder

    # Looked at first, so that a wrong folder is refused before the database is opened.
    problem = staging.problem(Path(folder))
    if staging.is_report(Path(folder)) and not replace:
        problem = f"{folder} has a report already; name another folder, or overwrite it with --replace"
    if problem is not None:
        raise Failure(problem)
    try:
        with database.open() as store, Progress("writing") as bar:
            written = write_folder(store, folder, **period, replace=replace, expect=bar.expect, progress=bar.advance)
    except InvalidValueError as error:
        raise Failure(str(error).removeprefix("path: ")) from None
    except OSError as error:
        raise Failure(f"{error.filename or folder}: {error.strerror}") from None
    sessions = counted(written.sessions, "session")
    click.echo(
        f"wrote {visible(os.path.join(folder, 'index.html'))}: {sessions}, {counted(written.pages, 'page')}", err=True
    )


def _print_csv(chosen: Report, rows: list[dict[str, Any]], *, daily: bool) -> None:
    # The header is written even if there are no rows.
    keys = [name for name in chosen.keys if name != "day" or daily or chosen.view.endswith("_by_day")]
    writer = csv.DictWriter(sys.stdout, fieldnames=[*keys, *chosen.columns], lineterminator="\n")
    writer.writeheader()
    # A file gets the data as they are; for a terminal, control characters are escaped.
    shown = visible if sys.stdout.isatty() else str
    for row in rows:
        plain = {name: _plain(value) for name, value in row.items()}
        writer.writerow({name: shown(value) if isinstance(value, str) else value for name, value in plain.items()})


def _plain(value: Any) -> Any:
    if isinstance(value, Decimal):
        return format(value, "f")
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r"):
        # A spreadsheet would treat a name that begins like this as a formula.
        return "'" + value
    return value


def _print_table(chosen: Report, rows: list[dict[str, Any]], wide: bool) -> None:
    names = [name for name in rows[0] if name in chosen.keys or name in chosen.shown]
    cells = [[_cell(name, row[name]) for name in names] for row in rows]
    if "cost_usd" in names and len(rows) > 1:
        cells.append(_sums(names, rows))
    terminal.print_table(
        [_head(name) for name in names],
        cells,
        drop=[_head(name) for name in _DROPPED],
        ids=[_head(name) for name in chosen.keys if name.endswith("session_id")],
        texts=[_head(name) for name in chosen.keys if not name.endswith("session_id")],
        numbers=[_head(name) for name in names if name not in chosen.keys],
        wide=wide,
    )


# The first to be left out on a narrow terminal. The keys of a report stay, and its cost.
_DROPPED = (
    *("latency_p95_ms", "latency_p50_ms", "entries", "unpriced_calls", "cache_read_input_tokens", "turns"),
    *("last_day", "first_day", "tool_calls", "errors", "sessions", "output_tokens", "input_tokens", "model_calls"),
    *("invalidations", "expirations", "evictions", "sets", "overdue_seconds", "created_at", "own_entries", "depth"),
    *("root_session_id", "forks", "user_id"),
)


def _sums(names: list[str], rows: list[dict[str, Any]]) -> list[str]:
    """The last line. Counts of sessions cannot be added up, nor can latencies."""
    sums = []
    for name in names:
        values = [row[name] for row in rows if row[name] is not None]
        summable = values and name != "sessions" and not name.startswith("latency")
        numbers = summable and all(isinstance(value, int | Decimal) for value in values)
        sums.append(_cell(name, sum(values)) if numbers else "")
    return ["total", *sums[1:]]


_HEADS = {
    "cache_read_input_tokens": "CACHED",
    "input_tokens": "INPUT",
    "output_tokens": "OUTPUT",
    "cost_usd": "COST USD",
    "unpriced_calls": "UNPRICED",
    "latency_p50_ms": "P50 MS",
    "latency_p95_ms": "P95 MS",
    "model_calls": "CALLS",
    "tool_calls": "TOOLS",
    "overdue_seconds": "OVERDUE S",
}


def _head(name: str) -> str:
    return _HEADS.get(name, name.removesuffix("_id").removesuffix("_name").replace("_", " ").upper())


def _cell(name: str, value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, datetime):
        return time_text(value)
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, Decimal):
        return f"{value:,.4f}"
    if isinstance(value, float):
        return f"{value:,.3f}" if name == "hit_rate" else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else value
