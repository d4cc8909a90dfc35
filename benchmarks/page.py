"""Writes the figures into docs/performance.md. The text outside its marks is written by hand and left alone."""

import re
from pathlib import Path

from benchmarks import chart, report
from benchmarks.results import Results
from benchmarks.workers import ROOT

PAGE = ROOT / "docs" / "performance.md"
CHART = ROOT / "docs" / "performance.svg"
BLOCKS = ("about", "goals", "postgresql", "sqlite", "network", "concurrent", "growth", "memory", "costs")
"""The parts between marks, which are written."""


def write(results_file: Path) -> None:
    """Fill the page and draw the chart; without results of a run, which are not in the repository, only the costs."""
    written = {"costs": costs()}
    if results_file.exists():
        results = Results.load(results_file)
        CHART.write_text(chart.draw(results))
        print(f"written: {CHART.name}")
        written |= blocks(results)
    else:
        print(f"there is no {results_file.name}, so only the costs were written; `./run bench` measures the rest")
    text = PAGE.read_text()
    for name, content in written.items():
        text = filled(text, name, content)
    PAGE.write_text(text)
    print(f"written: {PAGE.name}")


def filled(text: str, name: str, content: str) -> str:
    """*text* with *content* between the marks of that name."""
    marks = re.compile(rf"(<!-- begin: {name} -->\n).*?(<!-- end: {name} -->)", re.DOTALL)
    done, count = marks.subn(lambda match: f"{match[1]}{content}\n{match[2]}", text)
    if count != 1:
        raise ValueError(f"{PAGE.name} has {count} places for {name!r}")
    return done


def blocks(results: Results) -> dict[str, str]:
    return {
        "about": _about(results),
        "goals": f"{report.tally(results)}.\n\n{report.markdown(report.goals(results))}",
        "postgresql": report.markdown(report.times(results, "single", "postgresql")),
        "sqlite": report.markdown(report.times(results, "single", "sqlite")),
        "network": report.markdown(report.times(results, "network", "postgresql")),
        "concurrent": "\n\n".join(
            f"{title}:\n\n{report.markdown(report.rates(results, database))}"
            for database, title in (("postgresql", "PostgreSQL"), ("sqlite", "SQLite"))
        ),
        "growth": "\n\n".join(
            f"{title}:\n\n{report.markdown(report.growth(results, database))}"
            for database, title in (("postgresql", "PostgreSQL"), ("sqlite", "SQLite"))
        ),
        "memory": report.markdown(report.memory(results)),
    }


def costs() -> str:
    """Statements and round trips of every operation: exactly the table that a test asserts."""
    from tests.contract.test_round_trips import COSTS

    rows = [
        ["Operation", "PostgreSQL: round trips", "Statements", "Transactions", "SQLite: statements", "Transactions"]
    ]
    for name, (_, _, postgresql, sqlite) in COSTS.items():
        rows.append(
            [
                f"`{name}`" if "," not in name else f"`{name.split(',')[0]}`,{name.split(',', 1)[1]}",
                str(postgresql.round_trips),
                str(postgresql.statements),
                str(postgresql.transactions),
                str(sqlite.statements),
                str(sqlite.transactions),
            ]
        )
    return report.markdown(rows)


def _about(results: Results) -> str:
    about = results.about
    lines = [
        f"- Measured on {about['date']}, {about['machine']}; {about['rounds']} rounds, {about.get('took', '?')} s.",
        f"- Python {about['python']}, PostgreSQL {about['postgresql']}, SQLite {about['sqlite']}"
        + (f", Redis {about['redis']}" if about.get("redis") else "")
        + ".",
        "- " + ", ".join(f"{name} {version}" for name, version in about["packages"].items()) + ".",
    ]
    if about.get("peers"):
        lines.append("- Peers: " + ", ".join(f"{name} {version}" for name, version in about["peers"].items()) + ".")
    lines.append(f"- The same subject measured twice gave ratios of {report.noise(results)}.")
    hot = results.facts.get("hot_updates")
    if hot and hot["updates"]:
        lines.append(
            f"- Of {hot['updates']:,} updates of `sessions` on PostgreSQL {hot['heap_only'] / hot['updates']:.0%} were "
            "heap-only (`n_tup_hot_upd`)."
        )
    lines += [f"- Not measured: {name}: {why}" for name, why in results.facts.get("absent", {}).items()]
    return "\n".join(lines)
