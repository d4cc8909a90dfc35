"""Columns of a statement: how they are selected, and what a row of them means in Python.

Both follow from the tables in `schema`, once, when a module is imported: a statement and what reads its rows name the
same columns in the same order, and no reader counts places.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from datetime import UTC, date, datetime, timedelta
from operator import methodcaller
from typing import Any

from sqlalchemy import BigInteger, Float, Integer, String, Table, Text

from statestore.checking import exactjson
from statestore.engine.sql import Dialect, Row
from statestore.schema.column_types import Day, Duration, ExactJson, Money, MoneySum, UtcTime

Convert = Callable[[Any], Any]


# What a driver gives for a column of a type that is not its value yet; for all other types it is.
_POSTGRESQL: dict[type, Convert] = {ExactJson: exactjson.loads, UtcTime: methodcaller("astimezone", UTC)}
_SQLITE: dict[type, Convert] = {
    ExactJson: exactjson.loads,
    UtcTime: datetime.fromisoformat,
    Day: date.fromisoformat,
    Duration: timedelta(microseconds=1).__mul__,
    Money: Dialect.money,
    MoneySum: Dialect.money,
}


# As PostgreSQL takes them in a CAST.
_KINDS: dict[type, str] = {
    BigInteger: "bigint",
    Integer: "integer",
    Float: "double precision",
    String: "varchar",
    Text: "text",
    ExactJson: "json",
    UtcTime: "timestamptz",
    Duration: "interval",
    Day: "date",
    Money: "numeric",
    MoneySum: "numeric",
}


def kinds(table: Table) -> dict[str, str]:
    """The type of each column of a table, as PostgreSQL's CAST takes it."""
    return {str(column.name): _KINDS[type(column.type)] for column in table.columns}


def fields_of(kind: type[Any], *besides: str) -> tuple[str, ...]:
    """The names of a dataclass's fields, in order, without some of them."""
    return tuple(field.name for field in fields(kind) if field.name not in besides)


class Columns:
    """Columns of a row, in order: their SQL, and their values.

    Args:
        table: The table that has them; None for those of a view.
        names: The columns. One that the table does not have is computed by the statement.
        types: The column types of those that the table does not have; they are taken as they come without one.
    """

    __slots__ = ("_converted", "_json", "_table", "names", "size")

    def __init__(self, table: Table | None, *names: str, types: Mapping[str, type[Any]] | None = None) -> None:
        found = {} if table is None else {str(column.name): type(column.type) for column in table.columns}
        found |= types or {}
        self.names = names
        self.size = len(names)
        self._table = table
        self._json = {name for name in names if found.get(name) is ExactJson}
        self._converted = {
            dialect: tuple((place, by[found[name]]) for place, name in enumerate(names) if found.get(name) in by)
            for dialect, by in (("postgresql", _POSTGRESQL), ("sqlite", _SQLITE))
        }

    def select(self, alias: str = "", /, **computed: str) -> str:
        """The list for SELECT or RETURNING. JSON comes as text: each driver would read it in its own way.

        Args:
            alias: What the statement calls the table, if it names others too.
            computed: The SQL of columns that the table does not have, or that are not taken from it as they are.
        """
        return ", ".join(computed.get(name) or self._of_table(name, alias) for name in self.names)

    def _of_table(self, name: str, alias: str) -> str:
        if self._table is not None and name not in self._table.columns:
            raise ValueError(f"{self._table.name} has no column {name}, and its SQL is not given")
        column = f"{alias}.{name}" if alias else name
        return f"CAST({column} AS text)" if name in self._json else column

    def values(self, dialect: Dialect, row: Sequence[Any]) -> list[Any]:
        """The values of a row that begins with these columns."""
        values = list(row)
        del values[self.size :]
        for place, convert in self._converted[dialect.name]:
            value = values[place]
            if value is not None:
                values[place] = convert(value)
        return values

    def named(self, dialect: Dialect, row: Sequence[Any]) -> dict[str, Any]:
        """The same by their names."""
        return dict(zip(self.names, self.values(dialect, row), strict=True))

    def behind(self, row: Row) -> Row:
        """What comes behind these columns in a row."""
        return row[self.size :]
