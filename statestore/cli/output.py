"""What the commands print: text without terminal control sequences for people, JSON for programs."""

import unicodedata
from collections.abc import Sequence
from dataclasses import fields
from datetime import datetime, timedelta
from decimal import Decimal
from typing import IO, Any

import click

from statestore.checking import exactjson
from statestore.reports.text import UNSAFE, visible, visible_text
from statestore.values.sessions import Session

__all__ = ["Failure", "counted", "json_text", "session_record", "shortened", "table", "time_text"]
__all__ += ["visible", "visible_text"]


class Failure(click.ClickException):
    """The command failed, and its message says why and what to do."""

    exit_code = 1

    def show(self, file: IO[Any] | None = None) -> None:
        click.echo(f"error: {visible(self.message)}", file=file, err=file is None)


def json_text(value: Any) -> str:
    """*value* as JSON on one line, safe for a terminal: control characters are written as JSON escapes."""
    text = exactjson.record(value, default=_json_value)
    return UNSAFE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def _json_value(value: Any) -> Any:
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, Decimal):
        return format(value, "f")
    raise TypeError(f"no JSON for {type(value).__name__}")


def session_record(session: Session) -> dict[str, Any]:
    """A session as --json shows it: its attributes, and how many entries it has."""
    record = {field.name: getattr(session, field.name) for field in fields(session) if field.name != "resumed"}
    return record | {"entry_count": session.entry_count}


def time_text(value: datetime) -> str:
    return f"{value:%Y-%m-%d %H:%M:%S}Z"


def counted(number: int, noun: str) -> str:
    """`1 session`, `1,200 sessions`."""
    plural = f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"
    return f"{number:,} {noun if number == 1 else plural}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines with aligned columns."""
    shown = [[visible(cell) for cell in row] for row in (head, *rows)]
    widths = [max(_width(row[column]) for row in shown) for column in range(len(head))]
    return ["  ".join(_pad(cell, width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in shown]


def shortened(value: str, width: int) -> str:
    return value if len(value) <= width else value[: width - 1] + "…"


def _pad(cell: str, width: int) -> str:
    return cell + " " * (width - _width(cell))


def _width(cell: str) -> int:
    """How many columns of a terminal the text takes."""
    if cell.isascii():
        return len(cell)
    wide = sum(unicodedata.east_asian_width(char) in "WF" for char in cell)
    without = sum(unicodedata.combining(char) > 0 or char in "\u200b\u200d\ufe0f" for char in cell)
    return len(cell) + wide - without
