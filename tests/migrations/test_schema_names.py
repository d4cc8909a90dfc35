"""The name of PostgreSQL's schema: any name serves, and one that cannot be is refused before anything is asked."""

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import NullPool, create_engine

from statestore import InvalidValueError, NewEntry, StateStore, Usage, migrate
from tests.migrations.databases import driver_url, rows, tables

ODD = [
    "a :word b",
    ":namespace",
    "in$now to $sessions",
    "it's",
    "it's :word $sessions 5%s \1",
    "50%s %(namespace)s %",
    'a "b" c',
    "back\\slash",
    "a;b -- c /* d",
    "x" * 63,
    "ü" * 31,
]
REFUSED = ["x" * 64, "ü" * 32, "", "pg_agents", "a\0b", "a\ud800b", "a $statestore$ b", 5, None]


@pytest.mark.parametrize("schema", ODD)
def test_a_schema_of_an_odd_name_serves_all_operations(empty_postgres_url: str, schema: str) -> None:
    url = empty_postgres_url
    migrate.upgrade(url, schema=schema)
    migrate.check(url, schema=schema)
    assert rows(url, "SELECT 1 FROM pg_namespace WHERE nspname = :schema", schema=schema) == [(1,)]
    with StateStore.open(url, schema=schema) as store:
        store.history.append("s", [NewEntry({"role": "user", "content": "Hi"}) for _ in range(3)], create=True)
        store.history.append("s", [NewEntry("x", entry_id="own", usage=Usage(input_tokens=1, output_tokens=1))])
        store.sessions.fork("s", "f", at_seq=2)
        store.history.append("f", [NewEntry("y")])
        store.sessions.update("f", ttl=timedelta(hours=1))
        assert [entry.content for entry in store.history.read("f")][2:] == ["y"]
        store.state.set("s", "k", 1)
        store.cache.set("c", 1, tags=["t"], ttl=timedelta(minutes=1))
        assert store.cache.get("c") == 1
        assert store.cache.invalidate_tag("t") == 1
        store.prices.set("m", input_price=1, output_price=1)
        assert store.usage.totals().entries == 5
        assert [row.depth for row in store.usage.lineage()] == [0, 1]
        with store.transaction() as tx:
            tx.sessions.delete("s")
        assert store.sweep().complete
    migrate.downgrade(url, "base", schema=schema)
    assert tables(url, schema) == set()


def test_the_comparison_takes_odd_names_too(empty_postgres_url: str) -> None:
    for schema in ODD[:5]:
        migrate.upgrade(empty_postgres_url, schema=schema)
        assert migrate.differences(empty_postgres_url, schema=schema) == []


@pytest.mark.parametrize("schema", REFUSED)
def test_a_schema_that_cannot_be_is_refused_before_any_sql(schema: Any) -> None:
    # Nothing answers there: whoever asked the database would be told so instead.
    url = "postgresql://nobody@127.0.0.1:1/none"
    engine = create_engine(driver_url(url), poolclass=NullPool)
    for refused in (
        lambda: migrate.upgrade(url, schema=schema),
        lambda: migrate.downgrade(url, "base", schema=schema),
        lambda: migrate.current(url, schema=schema),
        lambda: migrate.check(engine, schema=schema),
        lambda: migrate.differences(url, schema=schema),
        lambda: StateStore.open(url, schema=schema),
        lambda: StateStore(engine, schema=schema),
    ):
        with pytest.raises(InvalidValueError) as raised:
            refused()
        assert raised.value.argument == "schema"
