"""The table as text: for a terminal, for Markdown, for the page about reliability."""

import platform
import sqlite3
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from tests.faults.table import COUNTED, Outcome

HEADINGS = ["fault", "database", "world", *COUNTED, "verdict", "control"]
BEGIN, END = "<!-- faults: begin -->", "<!-- faults: end -->"


def cells(outcome: Outcome) -> list[str]:
    counted = [f"{getattr(outcome.tally, name):,}" if outcome.missing is None else "-" for name in COUNTED]
    control = "-" if outcome.control_lost is None else f"{outcome.control_lost:,}"
    return [outcome.fault, outcome.database, outcome.world, *counted, outcome.verdict, control]


def conditions(server_version: str, *, long: bool, seconds: float) -> str:
    versions = ", ".join(f"{name} {version(name)}" for name in ("statestore", "SQLAlchemy", "psycopg"))
    return (
        f"{datetime.now(UTC):%Y-%m-%d}, the {'long' if long else 'short'} form in {seconds / 60:.0f} minutes: "
        f"{versions}, Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}, "
        f"PostgreSQL {server_version}, {platform.system()} {platform.release()}."
    )


def markdown(facts: str, outcomes: list[Outcome]) -> str:
    rows = [
        [*HEADINGS[:-1], "control loses"],
        [":--"] * 3 + ["--:"] * len(COUNTED) + [":--", ":--"],
        *([*cells(outcome)[:-1], f"{cells(outcome)[-1]} ({outcome.control})"] for outcome in outcomes),
    ]
    return f"{facts}\n\n" + "".join(f"| {' | '.join(row)} |\n" for row in rows)


def write_page(path: Path, table: str) -> None:
    """Replace what stands between the two marks of a page."""
    text = path.read_text()
    before, mark, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (mark and end):
        raise SystemExit(f"{path} has no {BEGIN} … {END} to write between")
    path.write_text(f"{before}{BEGIN}\n{table}{END}{after}")
