"""The results as tables, for the terminal and for the page."""

from collections.abc import Sequence

from benchmarks.goals import COLUMNS, GOALS
from benchmarks.results import Results
from benchmarks.works import ALL, BY_NAME

_MARKS = {"met": "✓", "missed": "✗"}
_NAMES = {"postgresql": "PostgreSQL", "sqlite": "SQLite"}


def goals(results: Results) -> list[list[str]]:
    """The table of the goals: in each cell the figure, what it was to be, and whether it is."""
    rows = [["Work", *(f"{_NAMES[database]} {style}" for database, style in COLUMNS)]]
    for title in dict.fromkeys(goal.work for goal in GOALS):
        row = [title]
        for column in COLUMNS:
            cells = [goal for goal in GOALS if goal.work == title and (goal.database, goal.style) == column]
            if not cells:
                row.append("")
                continue
            figure = cells[0].figure(results)
            verdict = cells[0].verdict(results)
            shown = "not measured" if figure is None else f"{figure:.2f}"
            row.append(f"{shown} ({cells[0].wanted}) {_MARKS.get(verdict, '')}".rstrip())
        rows.append(row)
    return rows


def tally(results: Results) -> str:
    verdicts = [goal.verdict(results) for goal in GOALS]
    counts = {verdict: verdicts.count(verdict) for verdict in ("met", "missed", "not measured")}
    return ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count)


def noise(results: Results) -> str:
    """How far apart two subjects were that are the same."""
    found = [
        figures["ratio"]
        for works in results.figures.get("single", {}).values()
        for subjects in works.values()
        for name, figures in subjects.items()
        if name.endswith(" again") and "ratio" in figures
    ]
    if not found:
        return "not measured"
    return f"{min(found):.2f} to {max(found):.2f} over {len(found)} pieces of work"


def times(results: Results, part: str, database: str) -> list[list[str]]:
    """One row for each work and subject."""
    rows = [["Work", "Subject", "Median", "p99", "Ratio to the raw driver", "Middle half of the rounds"]]
    for work in _in_order(results, part, database):
        for name, figures in results.figures[part][database][work].items():
            spread = f"{figures['ratio_low']:.2f} to {figures['ratio_high']:.2f}" if "ratio" in figures else ""
            rows.append(
                [
                    BY_NAME[work].title,
                    name,
                    _time(figures["median_us"]),
                    _time(figures["p99_us"]),
                    f"{figures['ratio']:.2f}" if "ratio" in figures else "",
                    spread,
                ]
            )
    return rows


def rates(results: Results, database: str) -> list[list[str]]:
    rows = [["Work", "Subject", "Operations a second", "Median", "p99", "Ratio to the raw driver"]]
    for work in _in_order(results, "concurrent", database):
        for name, figures in results.figures["concurrent"][database][work].items():
            rows.append(
                [
                    BY_NAME[work].title,
                    name,
                    f"{figures['per_second']:,.0f}",
                    _time(figures["median_us"]),
                    _time(figures["p99_us"]),
                    f"{figures['ratio']:.2f}" if "ratio" in figures else "",
                ]
            )
    return rows


def growth(results: Results, database: str) -> list[list[str]]:
    rows = [["Work", "Subject", "1,000 rows", "1,000,000 rows", "Ratio"]]
    for work in _in_order(results, "large", database):
        for name, figures in results.figures["large"][database][work].items():
            small = results.value("small", database, work, name)
            ratio = "" if small is None else f"{figures['median_us'] / small:.2f}"
            few = "" if small is None else _time(small)
            rows.append([BY_NAME[work].title, name, few, _time(figures["median_us"]), ratio])
    return rows


def memory(results: Results) -> list[list[str]]:
    rows = [["Database", "Subject", "An idle session", "A cached entry"]]
    found = results.facts.get("memory", {})
    for database, subjects in found.items():
        for name, kinds in subjects.items():
            cells = [f"{kinds[kind]:,.0f} bytes" if kind in kinds else "" for kind in ("session", "entry")]
            rows.append([_NAMES[database], name, *cells])
    return rows


def text(rows: Sequence[Sequence[str]]) -> str:
    """The table for a terminal."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


def markdown(rows: Sequence[Sequence[str]]) -> str:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cells) + " |"

    return "\n".join([line(rows[0]), line(["---"] * len(rows[0])), *(line(row) for row in rows[1:])])


def _in_order(results: Results, part: str, database: str) -> list[str]:
    found = results.figures.get(part, {}).get(database, {})
    return [work.name for work in ALL if work.name in found]


def _time(microseconds: float) -> str:
    if microseconds >= 10_000:
        return f"{microseconds / 1000:,.1f} ms"
    return f"{microseconds:,.0f} µs" if microseconds >= 100 else f"{microseconds:.1f} µs"
