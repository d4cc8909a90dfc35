"""Column types that each database spells in its own way. The values are converted where rows are read."""

from typing import Any

from sqlalchemy import BigInteger, Column, Date, DateTime, Dialect, Float, Interval, Numeric, String, Text
from sqlalchemy.dialects.postgresql import JSON
from sqlalchemy.types import TypeDecorator, TypeEngine

KEY_LENGTH = 512


class _PerDatabase(TypeDecorator[Any]):
    """A column type that each database spells in its own way. The values are converted where rows are read."""

    impl = Text
    cache_ok = True
    postgresql: TypeEngine[Any]
    sqlite: TypeEngine[Any]

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        return dialect.type_descriptor(self.sqlite if dialect.name == "sqlite" else self.postgresql)


class ExactJson(_PerDatabase):
    """`json` keeps the text, with key order and escaped NULs; `jsonb` does not, and costs twice as much to insert."""

    postgresql = JSON()
    sqlite = Text()


class UtcTime(_PerDatabase):
    """`timestamptz`, or fixed-width ISO text in UTC (2026-01-31T12:00:00.000000Z), which sorts as time does."""

    postgresql = DateTime(timezone=True)
    sqlite = String(27)


class Duration(_PerDatabase):
    """`interval`, or microseconds."""

    postgresql = Interval()
    sqlite = BigInteger()


class Day(_PerDatabase):
    """`date`, or ISO text (2026-01-31). In UTC."""

    postgresql = Date()
    sqlite = String(10)


class Money(_PerDatabase):
    """US dollars with ten decimals; on SQLite, which has no decimals, a float that reports round to ten."""

    postgresql = Numeric(20, 10)
    sqlite = Float()


class MoneySum(_PerDatabase):
    """Sums of `Money`."""

    postgresql = Numeric(30, 10)
    sqlite = Float()


# Compared byte by byte on both databases: ids are opaque, and a locale would make their order differ and cost time.
Key = String(KEY_LENGTH).with_variant(String(KEY_LENGTH, collation="C"), "postgresql")


def key(name: str) -> Column[Any]:
    return Column(name, Key, nullable=False)
