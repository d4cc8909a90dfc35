"""The statements of every connection to SQLite that is made in a block, whoever makes it."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def counted() -> Iterator[list[str]]:
    statements: list[str] = []
    connect = sqlite3.connect

    def count(sql: str) -> None:
        # What triggers and ON DELETE CASCADE do is reported under the name of the statement that set it off.
        by_itself = sql.lstrip().startswith(("INSERT", "UPDATE", "DELETE", "WITH")) and statements[-1:] == [sql]
        if not by_itself and not sql.startswith(("--", "PRAGMA")):
            statements.append(sql)

    def traced(*args: Any, **kwargs: Any) -> sqlite3.Connection:
        connection = connect(*args, **kwargs)
        connection.set_trace_callback(count)
        return connection

    # aiosqlite and SQLAlchemy look the function up in the module at each connection; SQLAlchemy through `dbapi2`.
    sqlite3.connect = sqlite3.dbapi2.connect = traced  # type: ignore[assignment]
    try:
        yield statements
    finally:
        sqlite3.connect = sqlite3.dbapi2.connect = connect
