"""Columns of a statement follow from the tables, and so does what a row of them means."""

from dataclasses import fields, replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import pytest

from statestore import schema
from statestore.engine.columns import Columns, fields_of, kinds
from statestore.engine.sql import Dialect
from statestore.repositories.history import entry_rows
from statestore.schema.column_types import Day, UtcTime
from statestore.values.history import Entry, Usage

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)
IN_BERLIN = NOON.astimezone(datetime.fromisoformat("2026-01-01T00:00:00+01:00").tzinfo)


def test_columns_are_selected_as_the_table_has_them() -> None:
    columns = Columns(schema.sessions, "session_id", "metadata", "expires_at")
    assert columns.select() == "session_id, CAST(metadata AS text), expires_at"
    assert columns.select("s") == "s.session_id, CAST(s.metadata AS text), s.expires_at"
    assert columns.select("s", metadata="NULL") == "s.session_id, NULL, s.expires_at"


def test_what_the_table_does_not_have_is_computed_or_refused() -> None:
    columns = Columns(schema.sessions, "session_id", "number", types={"number": UtcTime})
    assert columns.select(number="count(*)") == "session_id, count(*)"
    with pytest.raises(ValueError, match="no column number"):
        columns.select()


@pytest.mark.parametrize(
    ("dialect", "row"),
    [
        ("sqlite", ('{"a": [1]}', "2026-01-31T12:00:00.000000Z", 1_500_000, 0.1, "2026-01-31", "more")),
        ("postgresql", ('{"a": [1]}', IN_BERLIN, timedelta(seconds=1.5), Decimal("0.1"), date(2026, 1, 31), "more")),
    ],
)
def test_values_are_converted_by_the_type_of_their_column(dialect: Any, row: tuple[Any, ...]) -> None:
    types = {"cost_usd": type(schema.history_entries.c.cost_usd.type), "day": Day}
    columns = Columns(schema.sessions, "metadata", "expires_at", "ttl", "cost_usd", "day", types=types)
    found = columns.values(Dialect(dialect), row)
    assert found == [{"a": [1]}, NOON, timedelta(seconds=1.5), Decimal("0.1"), date(2026, 1, 31)]
    assert found[1].tzinfo is UTC
    assert columns.named(Dialect(dialect), row) == dict(zip(columns.names, found, strict=True))
    assert columns.behind(row) == ("more",)
    assert columns.values(Dialect(dialect), (None,) * 5) == [None] * 5


def test_kinds_are_those_that_postgresql_casts_to() -> None:
    found = kinds(schema.history_entries)
    assert (found["entry_id"], found["content"], found["seq"]) == ("varchar", "json", "bigint")
    assert (found["cost_usd"], found["duration_ms"], found["created_at"]) == (
        "numeric",
        "double precision",
        "timestamptz",
    )


def test_entries_are_read_in_the_order_in_which_they_are_selected() -> None:
    """Their loop names the columns once more, so that nothing is looked up for each row."""
    special = {"content": '"text"', "metadata": '{"a": 1}', "duration_ms": 2.0, "created_at": NOON}
    row = tuple(special.get(name, f"<{name}>") for name in entry_rows.ENTRY.names)
    link: Any = SimpleNamespace(dialect=Dialect("postgresql"))
    (entry,) = entry_rows.from_rows(link, "s", [(None, *row)])
    usage = Usage(**{name: f"<{name}>" for name in fields_of(Usage)})  # type: ignore[arg-type]
    named = {field.name: f"<{field.name}>" for field in fields(Entry)}
    assert entry == replace(
        Entry(**named),  # type: ignore[arg-type]
        session_id="s",
        content="text",
        metadata={"a": 1},
        usage=usage,
        duration=timedelta(milliseconds=2),
        created_at=NOON,
    )
    assert row[entry_rows.SEQ - 1] == "<seq>"
