"""What fits a terminal: tables that leave out columns, wrapped text, a pager. In a pipe nothing is left out."""

import os
import re
import shutil
import sys
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Self

import click

from statestore.cli.output import display_width, pad, time_text, visible

wide_option = click.option("--wide", is_flag=True, help="On a terminal: all columns, whole, however wide they are.")

_REDRAW_SECONDS = 0.1
_LEAST = 12
"""How narrow a text may become before a column is left out for it."""
_LEAST_ID = 36
"""And an id: those that are made here are as long, and a longer one is known by its beginning."""


def is_terminal() -> bool:
    """Whether what is printed is read by somebody on a terminal."""
    return sys.stdout.isatty()


def width() -> int:
    """The columns of the terminal."""
    return shutil.get_terminal_size().columns


def print_table(
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    drop: Sequence[str],
    ids: Collection[str] = (),
    texts: Collection[str] = (),
    numbers: Collection[str] = (),
    wide: bool = False,
) -> None:
    """Print a table that fits the terminal; elsewhere, or if it is to be *wide*, all of it.

    Args:
        head: The names of the columns.
        rows: Their cells.
        drop: The columns to leave out, first to last, until the rest fits.
        ids: The columns that may be cut to 36 characters before one is left out, but so that they stay different.
        texts: The columns that may be cut to a dozen characters before one is left out.
        numbers: The columns that are aligned on the right.
        wide: Print all of it.
    """
    columns = width() if is_terminal() and not wide else None
    lines, left_out = fitted(head, rows, width=columns, drop=drop, ids=ids, texts=texts, numbers=numbers)
    click.echo("\n".join(lines))
    if left_out:
        say(f"left out for want of space: {', '.join(left_out)}; --wide shows all", err=True)


def fitted(
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    width: int | None,
    drop: Sequence[str],
    ids: Collection[str] = (),
    texts: Collection[str] = (),
    numbers: Collection[str] = (),
) -> tuple[list[str], list[str]]:
    """The lines of a table, and the names of the columns that it has left out. Arguments as for `print_table`."""
    columns = {name: [visible(row[index]) for row in (head, *rows)] for index, name in enumerate(head)}
    left_out: list[str] = []
    if width is not None:
        remaining = [name for name in drop if name in columns]
        least = {**dict.fromkeys(ids, _LEAST_ID), **dict.fromkeys(texts, _LEAST)}
        while not _narrowed(columns, least, width) and remaining:
            left_out.append(remaining.pop(0))
            del columns[left_out[-1]]
        _cut_first(columns, width)
    widths = _widths(columns)
    lines = [
        "  ".join(pad(cells[index], widths[name], right=name in numbers) for name, cells in columns.items()).rstrip()
        for index in range(len(rows) + 1)
    ]
    return lines, left_out


def _narrowed(columns: dict[str, list[str]], least: Mapping[str, int], width: int) -> bool:
    """Cut texts until the table fits, the widest first; False, with nothing cut, if that is not enough."""
    widths = _widths(columns)
    while (excess := _excess(widths, width)) > 0:
        able = {name: widths[name] for name, limit in least.items() if widths.get(name, 0) > limit}
        if not able:
            return False
        name = max(able, key=lambda one: able[one])
        others = [one for one in able.values() if one < able[name]]
        widths[name] = max(able[name] - excess, least[name], max(others, default=0))
        if widths[name] == able[name]:  # Several are the widest.
            widths[name] -= 1
    for name, limit in widths.items():
        columns[name] = _cut_cells(columns[name], limit)
    return True


def _cut_first(columns: dict[str, list[str]], width: int) -> None:
    """Cut what is left, its widest column first, so that no line is broken."""
    widths = _widths(columns)
    while (excess := _excess(widths, width)) > 0 and max(widths.values()) > 1:
        name = max(widths, key=lambda one: widths[one])
        widths[name] = max(1, widths[name] - excess)
        columns[name] = _cut_cells(columns[name], widths[name])


def _widths(columns: Mapping[str, Sequence[str]]) -> dict[str, int]:
    return {name: max(map(display_width, cells)) for name, cells in columns.items()}


def _excess(widths: Mapping[str, int], width: int) -> int:
    return sum(widths.values()) + 2 * (len(widths) - 1) - width


def _cut_cells(cells: list[str], limit: int) -> list[str]:
    """The cells, cut so that different ones stay different if that can be."""
    shown = [cut(cell, limit) for cell in cells]
    if len(set(shown)) < len(set(cells)):  # Some begin alike.
        return [_without_middle(cell, limit) for cell in cells]
    return shown


def cut(text: str, limit: int) -> str:
    """The beginning of *text* that takes at most *limit* columns, with an ellipsis if that is not all."""
    if display_width(text) <= limit:
        return text
    taken = text[:limit]
    while taken and display_width(taken) >= limit:
        taken = taken[:-1]
    return f"{taken}…"


def _without_middle(text: str, limit: int) -> str:
    if display_width(text) <= limit or limit < 5:
        return cut(text, limit)
    head = cut(text, limit // 2)
    tail = text[-(limit - limit // 2) :]
    while display_width(head) + display_width(tail) > limit:
        tail = tail[1:]
    return head + tail


def wrapped(text: str, width: int) -> Iterator[str]:
    """The lines of one line of *text*, broken between words; a word that is too long is broken itself."""
    if display_width(text) <= width:
        yield text
        return
    indent = re.match(r"[ \t]*", text)
    assert indent is not None
    line = before = indent[0] if len(indent[0]) < width // 2 else ""
    for word in re.findall(r"\S+\s*", text[indent.end() :]):
        if line.strip() and display_width(line + word.rstrip()) > width:
            yield line.rstrip()
            line = before
        line += word
        while display_width(line.rstrip()) > width:
            taken = cut(line, width + 1)[:-1]
            yield taken
            line = before + line[len(taken) :]
    if line.strip():
        yield line.rstrip()


def message(text: str, *, behind: str = "") -> str:
    """One line of text for stderr: broken between words on a terminal, a command at its end on a line of its own.

    *behind* is what is printed in front of it.
    """
    return _broken(text, len(behind)) if sys.stderr.isatty() else text


def say(text: str, *, err: bool = False) -> None:
    """Print one line of text, broken between words on a terminal."""
    stream = sys.stderr if err else sys.stdout
    click.echo(_broken(visible(text)) if stream.isatty() else visible(text), err=err)


def _broken(text: str, taken: int = 0) -> str:
    columns = width() - taken
    if display_width(text) <= columns:
        return text
    # A command stays in one piece, so that it can be copied.
    said, colon, command = text.rpartition(": statestore ")
    if not colon:
        return "\n".join(wrapped(text, columns))
    return "\n".join((*wrapped(f"{said}:", columns), f"  statestore {command}"))


def ago(at: datetime) -> str:
    """How long ago that was, for people: `5 min ago`; the day if it was long ago."""
    passed = datetime.now(UTC) - at
    if passed < timedelta(0):
        return time_text(at)
    for limit, unit, name in _AGES:
        if passed < limit:
            return f"{passed // unit} {name} ago"
    return f"{at:%Y-%m-%d}"


_AGES = (
    (timedelta(minutes=1), timedelta(seconds=1), "s"),
    (timedelta(hours=1), timedelta(minutes=1), "min"),
    (timedelta(days=1), timedelta(hours=1), "h"),
    (timedelta(days=60), timedelta(days=1), "d"),
)


def moment_text(at: datetime) -> str:
    """A time: how long ago it was on a terminal, and the time itself elsewhere."""
    return ago(at) if is_terminal() else time_text(at)


def paged(lines: Iterable[str], *, pager: bool = True) -> None:
    """Print *lines*: on a terminal through $PAGER, or else `less`, which ends by itself if they fit the screen."""
    if pager and is_terminal():
        os.environ.setdefault("LESS", "FRX")
        # The last line end is the pager's.
        click.echo_via_pager(f"\n{line}" if index else line for index, line in enumerate(lines))
        return
    for line in lines:
        click.echo(line)


class StatusLine:
    """A line on a terminal that says how far the work is, drawn ten times a second at most; nothing elsewhere."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._shown = not quiet and sys.stderr.isatty()
        self._drawn = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._clear()

    def show(self, text: str) -> None:
        if self._shown and time.monotonic() - self._drawn >= _REDRAW_SECONDS:
            self._drawn = time.monotonic()
            click.echo(f"\r\x1b[K{text}", nl=False, err=True)

    def say(self, text: str) -> None:
        """Write a line above it."""
        self._clear()
        click.echo(visible(text), err=True)

    def _clear(self) -> None:
        if self._drawn:
            click.echo("\r\x1b[K", nl=False, err=True)
