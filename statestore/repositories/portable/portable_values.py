"""A row's values as they are in the file of an export, and back: the same for both databases."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any

import orjson
from sqlalchemy import Column, String, Table, Text

from statestore import schema
from statestore.checking import checks, exactjson
from statestore.engine.columns import Columns
from statestore.engine.sql import Dialect, Params, Row
from statestore.engine.sqlite_values import sqlite_time
from statestore.errors import InvalidValueError
from statestore.repositories.portable.portable_checks import MAX_SUM
from statestore.repositories.usage.ledger import COUNTS
from statestore.schema import column_types
from statestore.schema.column_types import ExactJson
from statestore.values.reported_usage import MAX_TOKENS
from statestore.values.sessions import STATUSES

# A record's name in the file, and its table. Sessions come first: all other rows refer to them.
TABLES: dict[str, Table] = {
    "session": schema.sessions,
    "segment": schema.session_segments,
    "entry": schema.history_entries,
    "state": schema.state_entries,
    "summary": schema.summaries,
    "usage": schema.usage_ledger,
    "list": schema.session_lists,
    "list_item": schema.session_list_items,
}
# The namespace is that of the store; a lease does not survive the journey; the hour follows from the time.
_NOT_CARRIED = ("namespace", "lease_owner", "lease_token", "lease_until", "active_hour")
_MICROSECOND = timedelta(microseconds=1)


def carried(table: Table) -> list[Column[Any]]:
    return [column for column in table.columns if column.name not in _NOT_CARRIED]


ROWS: dict[str, Columns] = {
    kind: Columns(table, *(str(column.name) for column in carried(table))) for kind, table in TABLES.items()
}
"""How the rows of each record are selected."""


@dataclass(frozen=True, slots=True)
class Record:
    """A row on its way into the store: values as `decode` gives them, and where it comes from, for messages."""

    kind: str
    values: Params
    where: str
    size: int = 0
    """How many bytes it takes in the file."""


KEYS: dict[str, tuple[str, ...]] = {
    kind: tuple(str(column.name) for column in table.primary_key if column.name != "namespace")
    for kind, table in TABLES.items()
}
"""By which columns the rows of each record are ordered."""

LARGE: dict[str, tuple[str, ...]] = {
    kind: tuple(str(column.name) for column in carried(table) if isinstance(column.type, ExactJson | Text))
    for kind, table in TABLES.items()
}
"""The columns that may be large."""


def encode(dialect: Dialect, kind: str, row: Row) -> dict[str, Any]:
    """What the file has for a row, but for the record's name."""
    values = list(row)
    for place, encoder in _ENCODERS_OF[kind]:
        if values[place] is not None:
            values[place] = encoder(dialect, values[place])
    return {name: value for name, value in zip(ROWS[kind].names, values, strict=True) if value is not None}


def _time(dialect: Dialect, value: Any) -> str:
    # SQLite has it as it is in the file.
    return value if isinstance(value, str) else sqlite_time(value)


def _money(dialect: Dialect, value: Any) -> str:
    text = format(Decimal(dialect.money(value) or 0), "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


_ENCODERS: dict[type[Any], Callable[[Dialect, Any], Any]] = {
    column_types.ExactJson: lambda dialect, value: orjson.Fragment(value),
    column_types.UtcTime: _time,
    column_types.Duration: lambda dialect, value: (dialect.duration(value) or timedelta()) // _MICROSECOND,
    column_types.Money: _money,
    column_types.MoneySum: _money,
}
# The places of a row whose values are others in the file, each with what makes them so.
_ENCODERS_OF = {
    kind: [
        (place, _ENCODERS[type(column.type)])
        for place, column in enumerate(carried(table))
        if type(column.type) in _ENCODERS
    ]
    for kind, table in TABLES.items()
}


def decode(kind: Any, values: Mapping[str, Any], where: str, size: int = 0) -> Record:
    """Decode one record of the file, of *size* bytes.

    Raises:
        InvalidValueError: It is not a valid record.
    """
    known = _DECODERS.get(kind) if isinstance(kind, str) else None
    if known is None:
        raise InvalidValueError(where, f"is of an unknown type {kind!r}; was it written by a newer version?")
    decoded: Params = {}
    for name, value in values.items():
        decode_value = known.get(name)
        if decode_value is None:
            raise InvalidValueError(where, f"has an unknown field {name!r}; was it written by a newer version?")
        try:
            decoded[name] = decode_value(value)
        except InvalidValueError as error:
            problem = str(error).removeprefix(f"{error.argument}: ")
            raise InvalidValueError(where, f"has an invalid value in {name!r}: {problem}") from None
        except (ValueError, TypeError, OverflowError, InvalidOperation):
            raise InvalidValueError(where, f"has an invalid value in {name!r}") from None
    for name in _NEEDED[kind]:
        if decoded.get(name) is None:
            raise InvalidValueError(where, f"is missing {name!r}")
    if kind in _FITTING and not _FITTING[kind](decoded):
        raise InvalidValueError(where, "has values that contradict each other; the file is damaged")
    return Record(kind, decoded, where, size)


# What an append, and the other operations that write such rows, would refuse; and what would take a sum, or the next
# number, out of 64 bits.
_POSITION = {"least": 1, "most": checks.MAX_POSITION}
_NUMBER = {"most": 2**53}
_RANGES: dict[tuple[str, str], dict[str, int]] = {
    **{("history_entries", column): {"most": MAX_TOKENS} for column in schema.TOKEN_COLUMNS},
    # Less than nothing where a session corrects what was counted for another: see `ledger.unfold`.
    **{("usage_ledger", column): {"least": -MAX_SUM, "most": MAX_SUM} for column in COUNTS},
    **{("sessions", column): _POSITION for column in ("first_seq", "next_seq")},
    **{("sessions", column): {"most": checks.MAX_POSITION} for column in ("forked_at_seq", "last_turn")},
    **{("session_segments", column): _POSITION for column in ("from_seq", "to_seq")},
    **{("summaries", column): _POSITION for column in ("start_seq", "end_seq")},
    ("session_lists", "item_count"): {"most": checks.MAX_POSITION},
    ("session_list_items", "position"): _POSITION,
    ("sessions", "revision"): _NUMBER,
    ("state_entries", "version"): _NUMBER,
    ("history_entries", "seq"): _POSITION,
    ("history_entries", "turn"): {"most": checks.MAX_POSITION},
    ("history_entries", "content_bytes"): {"most": exactjson.MAX_BYTES},
    ("history_entries", "usage_folded"): {"most": 2},
    # Negative ones, and zero, belong to a fold that is under way.
    ("usage_ledger", "line"): {"least": 1, "most": 10**9},
}
_FITTING: dict[str, Callable[[Params], bool]] = {
    "session": lambda row: (
        row.get("first_seq", 1) <= row.get("next_seq", 1)
        and (row.get("parent_session_id") is None) == (row.get("forked_at_seq") is None)
        and (row.get("ttl") is None) == (row.get("expires_at") is None)
    ),
    "segment": lambda row: row["from_seq"] <= row["to_seq"] and row["owner_session_id"] != row["session_id"],
    "summary": lambda row: row["start_seq"] <= row["end_seq"],
}


def _decoder(column: Column[Any]) -> Callable[[Any], Any]:
    """What makes a column's value of that in the file; it raises what `decode` expects."""
    kind, name = column.type, str(column.name)
    if isinstance(kind, column_types.ExactJson):
        return lambda value: exactjson.dumps(value, name)
    if isinstance(kind, column_types.UtcTime):
        return lambda value: checks.optional_time(datetime.fromisoformat(value), name)
    if isinstance(kind, column_types.Duration):
        return lambda value: checks.ttl(checks.count(value, name) * _MICROSECOND, name)
    if isinstance(kind, column_types.Money):
        return lambda value: checks.optional_cost(Decimal(_of(value, str)), name)
    if isinstance(kind, column_types.MoneySum):
        return lambda value: _within(Decimal(_of(value, str)), MAX_SUM, least=-MAX_SUM)
    if kind.python_type is int:
        bounds = _RANGES.get((column.table.name, name), {})
        return lambda value: checks.count(value, name, **bounds)
    if kind.python_type is float:
        in_ledger = column.table is schema.usage_ledger
        most = MAX_SUM if in_ledger else checks.MAX_TTL / timedelta(milliseconds=1)
        least = -MAX_SUM if in_ledger else 0
        return lambda value: _within(float(_of(value, float, int)), most, least=least)
    if column is schema.sessions.c.status:
        return lambda value: checks.one_of(value, STATUSES, name)
    if isinstance(kind, String) and kind.length is not None:
        return lambda value: checks.key(value, name)
    return lambda value: checks.text(value, name)


def _of(value: Any, *kinds: type) -> Any:
    if type(value) not in kinds:  # True is an int, too.
        raise TypeError
    return value


def _within(value: Any, most: float, *, least: float = 0) -> Any:
    if not least <= value <= most:
        raise ValueError
    return value


# Made once: a file has millions of values.
_DECODERS = {kind: {str(column.name): _decoder(column) for column in carried(table)} for kind, table in TABLES.items()}
_NEEDED = {
    kind: [str(one.name) for one in carried(table) if not one.nullable and one.server_default is None]
    for kind, table in TABLES.items()
}
