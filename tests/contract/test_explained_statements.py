"""Each statement of docs/sql is one that the database takes, as it is shown there, and its plan where it matters."""

import re
import sqlite3
from collections.abc import Iterator
from typing import Any

import psycopg
from sqlalchemy import make_url

from statestore import StateStore
from statestore.engine.sql import Dialect, DialectName
from statestore.repositories.history import appending, entry_edits
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


def test_ids_are_looked_up_by_their_index_in_a_table_that_was_never_analyzed(postgres_url: str) -> None:
    """Any other index that looks as good there leads through the whole session, or through all of the namespace."""
    sql = appending._postgresql(2, (), at=False, new=True, same=False, leased=False, priced=False, part=False).render(
        Dialect("postgresql")
    )
    assert sql is not None
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute("ALTER TABLE statestore.history_entries SET (autovacuum_enabled = false)")
        with StateStore.open(postgres_url) as store:
            store.sessions.create("long")
            for _ in range(4):
                store.history.append("long", [{"role": "user", "content": "x" * 80}] * 50)
        connection.execute("SET plan_cache_mode = force_generic_plan")
        connection.execute(f"PREPARE append AS {numbered(sql)}".encode())
        nulls = ", ".join(["NULL"] * len(set(_PARAMETER.findall(sql))))
        plan = "\n".join(line for (line,) in connection.execute(f"EXPLAIN EXECUTE append ({nulls})".encode()))
    used = re.findall(r"using (\w+) on history_entries", plan)
    assert used == ["uq_history_entries_entry_id"], plan


def test_sqlite_finds_a_family_by_its_index_in_a_database_that_was_never_analyzed(sqlite_url: str) -> None:
    """Whoever says what an entry used asks for the family: not all sessions of the namespace are looked at for it."""
    sql = entry_edits._OTHER_ROWS.render(Dialect("sqlite"))
    assert sql is not None
    connection = sqlite3.connect(str(make_url(sqlite_url).database))
    try:
        plan = [step for *_, step in connection.execute(f"EXPLAIN QUERY PLAN {readable(sql)}", Unset())]
    finally:
        connection.close()
    assert [step for step in plan if re.match("(SEARCH|SCAN) s ", step)] == [
        "SEARCH s USING INDEX ix_sessions_root_session_id_namespace (root_session_id=? AND namespace=?)"
    ]
