"""What the commands print: for people without anything that could steer their terminal, for programs as JSON."""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import fields
from datetime import datetime, timedelta
from decimal import Decimal
from typing import IO, Any

import click
import orjson

from statestore.values import Session

# Control characters, those that turn the direction of writing around, and what no encoding can write.
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_UNSAFE_IN_TEXT = re.compile(_UNSAFE.pattern.replace("\x00-\x1f", "\x00-\x08\x0b-\x1f"))


class Failure(click.ClickException):
    """The command failed, and its message says why and what to do."""

    exit_code = 1

    def show(self, file: IO[Any] | None = None) -> None:
        click.echo(f"error: {visible(self.message)}", file=file, err=file is None)


def visible(value: str) -> str:
    """One line of text, its control characters escaped."""
    return _UNSAFE.sub(_escape, value)


def visible_text(value: str) -> str:
    """As `visible`, but lines and tabs stay."""
    return _UNSAFE_IN_TEXT.sub(_escape, value)


def _escape(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode()


def json_text(value: Any) -> str:
    """*value* as JSON on one line, safe for a terminal: what could steer it is written as an escape of JSON's own."""
    text = orjson.dumps(value, default=_json_value, option=orjson.OPT_UTC_Z).decode()
    return _UNSAFE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


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
