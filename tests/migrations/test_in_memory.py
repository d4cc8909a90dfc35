"""A database in memory is made from SQL that was rendered once, and is what the migrations make."""

import sqlite3
import subprocess
import sys
from contextlib import closing
from functools import partial
from typing import Any

import pytest

from statestore import StateStore, migrate
from tests.statements import in_memory


def contents(database: sqlite3.Connection) -> dict[str, Any]:
    """All of a database: its objects as they were declared, its rows, and what it says about itself."""
    objects = database.execute("SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY type, name").fetchall()
    tables = [name for kind, name, *_ in objects if kind == "table"]
    return {
        "objects": objects,
        "columns": {name: database.execute(f'PRAGMA table_xinfo("{name}")').fetchall() for name in tables},
        "rows": {name: database.execute(f'SELECT * FROM "{name}"').fetchall() for name in tables},
        "settings": {
            pragma: database.execute(f"PRAGMA {pragma}").fetchone()
            for pragma in ("user_version", "application_id", "encoding", "foreign_key_check", "integrity_check")
        },
    }


def rendered() -> sqlite3.Connection:
    with in_memory.engine().connect() as connection:
        migrate.create_in_memory(connection)
        return in_memory.driver_of(connection)


def test_it_is_what_the_migrations_make() -> None:
    with closing(rendered()) as made, closing(in_memory.migrated()) as migrated:
        assert contents(made) == contents(migrated), (
            "migrations have changed: ./run sql writes migrations/in_memory.sql"
        )
        assert len(contents(made)["objects"]) > 50


def test_its_schema_is_the_one_that_the_code_works_with() -> None:
    with in_memory.engine().connect() as connection, closing(in_memory.driver_of(connection)):
        migrate.create_in_memory(connection)
        migrate.check(connection)
        assert migrate.differences(connection) == []
    with StateStore.open("sqlite://") as store:
        store.sessions.create("chat")
        assert store.sessions.exists("chat")


def test_it_needs_no_alembic() -> None:
    code = """
import sys
from statestore import StateStore
StateStore.open("sqlite://").close()
assert "alembic" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_one_that_others_may_reach_is_migrated(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two that open it at once would both make the tables; migrations of a process run one after the other."""
    monkeypatch.setattr(migrate, "create_in_memory", partial(pytest.fail, "made from SQL"))
    with StateStore.open("sqlite:///file:shared_with_others?mode=memory&cache=shared&uri=true") as store:
        store.sessions.create("chat")
