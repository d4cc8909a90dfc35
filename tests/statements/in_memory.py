"""What the migrations come to on SQLite, as SQL: migrations/in_memory.sql, which `./run sql` writes."""

import sqlite3
from contextlib import closing
from pathlib import Path

from sqlalchemy import Connection, Engine, StaticPool, create_engine

from statestore import migrate

PATH = Path(__file__).parents[2] / "migrations" / "in_memory.sql"
HEADER = """\
-- Written by ./run sql: what all migrations come to on SQLite. A database in memory is made from it, since they take
-- ten times as long; a test compares the two.
"""


def text() -> str:
    with closing(migrated()) as database:
        return HEADER + "\n".join(database.iterdump()) + "\n"


def migrated() -> sqlite3.Connection:
    """A database in memory that the migrations have made."""
    with engine().connect() as connection:
        migrate.upgrade(connection)
        return driver_of(connection)


def engine() -> Engine:
    """One of a new database in memory, whose connection stays until somebody closes it."""
    return create_engine("sqlite://", poolclass=StaticPool, connect_args={"isolation_level": None})


def driver_of(connection: Connection) -> sqlite3.Connection:
    driver = connection.connection.driver_connection
    assert isinstance(driver, sqlite3.Connection)
    return driver
