"""Each statement of docs/sql is one that the database takes, as it is shown there."""

import re
import sqlite3
from collections.abc import Iterator
from typing import Any

import psycopg
from sqlalchemy import make_url

from statestore.engine.sql import Dialect, DialectName
from tests.statements.collecting import collect
from tests.statements.pages import readable

_PARAMETER = re.compile(r"%\((\w+)\)[sb]")


def shown(dialect: DialectName) -> Iterator[str]:
    for one in collect():
        sql = one.statement.render(Dialect(dialect))
        if sql:
            yield readable(sql)


class Unset(dict[str, Any]):
    def __missing__(self, key: str) -> None:
        return None


def test_sqlite_explains_each_of_them(sqlite_url: str) -> None:
    connection = sqlite3.connect(str(make_url(sqlite_url).database))
    try:
        plans = [connection.execute(f"EXPLAIN QUERY PLAN {sql}", Unset()).fetchall() for sql in shown("sqlite")]
    finally:
        connection.close()
    assert sum(map(bool, plans)) > 150  # Inserts of values have an empty one.


def test_postgresql_prepares_each_of_them(postgres_url: str) -> None:
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        for number, sql in enumerate(shown("postgresql")):
            connection.execute(f"PREPARE statement_{number} AS {numbered(sql)}".encode())
        (prepared,) = connection.execute("SELECT count(*) FROM pg_prepared_statements").fetchone() or (0,)
    assert prepared > 200


def numbered(sql: str) -> str:
    """The statement with its parameters numbered."""
    names = list(dict.fromkeys(_PARAMETER.findall(sql)))
    return _PARAMETER.sub(lambda found: f"${names.index(found[1]) + 1}", sql).replace("%%", "%")
