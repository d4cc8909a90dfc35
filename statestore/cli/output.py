"""What the commands print: text without terminal control sequences for people, JSON for programs."""

import unicodedata
from dataclasses import fields
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from statestore.checking import exactjson
from statestore.reports.figures import counted
from statestore.reports.text import UNSAFE, visible, visible_text
from statestore.values.sessions import Session

__all__ = ["counted", "display_width", "json_text", "pad", "session_record", "size_text", "time_text"]
__all__ += ["visible", "visible_text"]


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


def size_text(size: int) -> str:
    """`120 bytes`, `1.2 MB`."""
    value, units = float(size), ["bytes", "kB", "MB", "GB", "TB"]
    while value >= 1000 and len(units) > 1:
        value /= 1000
        units.pop(0)
    return f"{size:,} bytes" if units[0] == "bytes" else f"{value:.1f} {units[0]}"


def pad(cell: str, width: int, *, right: bool = False) -> str:
    """The text, filled up to *width* columns."""
    space = " " * (width - display_width(cell))
    return space + cell if right else cell + space


def display_width(cell: str) -> int:
    """How many columns of a terminal the text takes."""
    if cell.isascii():
        return len(cell)
    wide = sum(unicodedata.east_asian_width(char) in "WF" for char in cell)
    without = sum(unicodedata.combining(char) > 0 or char in "\u200b\u200d\ufe0f" for char in cell)
    return len(cell) + wide - without
