"""What is in a database, asked behind statestore's back."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import sqlalchemy
from sqlalchemy import Connection, NullPool, create_engine, make_url, text

from statestore.schema import metadata

TABLES = set(metadata.tables)

# SQLAlchemy 2.0 cannot read the foreign keys of a schema with a quote in its name, and so not compare it.
reads_quotes = pytest.mark.skipif(sqlalchemy.__version__ < "2.1", reason="SQLAlchemy 2.0 does not read such names")


def driver_url(url: str) -> Any:
    parsed = make_url(url)
    return parsed.set(drivername="postgresql+psycopg") if parsed.get_backend_name() == "postgresql" else parsed


@contextmanager
def connected(url: str) -> Iterator[Connection]:
    """A plain connection of somebody else's, committed at the end."""
    with create_engine(driver_url(url), poolclass=NullPool).begin() as connection:
        yield connection


def rows(url: str, statement: str, **parameters: Any) -> list[tuple[Any, ...]]:
    with connected(url) as connection:
        return [tuple(row) for row in connection.execute(text(statement), parameters)]


def structure(url: str, schema: str = "statestore") -> dict[str, Any]:
    """Everything that makes up the schema, in comparable form: names, types, conditions, options."""
    if url.startswith("sqlite"):
        return {name: _parts(sql) for name, sql in rows(url, "SELECT name, sql FROM sqlite_master WHERE sql > ''")}
    with connected(url) as connection:
        return {
            kind: sorted(
                tuple(re.sub(rf"\b{schema}\.", "SCHEMA.", str(value)) for value in row)
                for row in connection.execute(text(statement), {"schema": schema})
            )
            for kind, statement in CATALOG.items()
        }


def _parts(sql: str) -> list[str]:
    """A statement of SQLite's schema, by its parts: columns in their order, and constraints, whose order means nothing.

    Compared as text it would differ by how it came about: by ALTER TABLE, or in a table that was rebuilt.
    """
    sql = " ".join(sql.replace('"', "").split())
    if not sql.startswith("CREATE TABLE"):
        return [sql]
    name, _, body = sql.partition("(")
    parts = [""]
    depth = 0
    for character in body.rpartition(")")[0]:
        depth += {"(": 1, ")": -1}.get(character, 0)
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    parts = [part.strip() for part in parts]
    columns = [part for part in parts if not part.startswith("CONSTRAINT")]
    return [name.strip(), *columns, *sorted(part for part in parts if part.startswith("CONSTRAINT"))]


IN_SCHEMA = "relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = :schema)"

CATALOG = {
    "columns": f"""
        SELECT relname, attnum, attname, format_type(atttypid, atttypmod), attnotnull, attcollation::regcollation,
               pg_get_expr(adbin, adrelid), attcompression
        FROM pg_class JOIN pg_attribute ON attrelid = pg_class.oid AND attnum > 0 AND NOT attisdropped
        LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
        WHERE {IN_SCHEMA} AND relkind = 'r'""",
    "constraints": f"""
        SELECT relname, conname, pg_get_constraintdef(pg_constraint.oid)
        FROM pg_class JOIN pg_constraint ON conrelid = pg_class.oid
        WHERE {IN_SCHEMA} AND contype <> 'n'""",
    "indexes": f"""
        SELECT relname, pg_get_indexdef(indexrelid), indisvalid
        FROM pg_class JOIN pg_index ON indexrelid = pg_class.oid WHERE {IN_SCHEMA}""",
    "views": f"SELECT relname, pg_get_viewdef(oid) FROM pg_class WHERE {IN_SCHEMA} AND relkind = 'v'",
    "options": f"SELECT relname, reloptions FROM pg_class WHERE {IN_SCHEMA} AND relkind = 'r'",
}


def tables(url: str, schema: str = "statestore") -> set[str]:
    if url.startswith("sqlite"):
        found = rows(url, "SELECT name FROM sqlite_master WHERE type = 'table'")
    else:
        found = rows(url, "SELECT tablename FROM pg_tables WHERE schemaname = :schema", schema=schema)
    return {name for (name,) in found}


def prefix(url: str) -> str:
    return "" if url.startswith("sqlite") else "statestore."


def insert_conversation(url: str) -> None:
    """A session with a fork, and a row of each table that refers to them."""
    t, now = prefix(url), "'2026-01-31T12:00:00.000000Z'"
    with connected(url) as connection:
        for statement in (
            f"INSERT INTO {t}sessions (namespace, session_id, root_session_id, created_at, last_activity_at,"
            f" active_hour) VALUES ('n', 's', 's', {now}, {now}, {now})",
            f"INSERT INTO {t}sessions (namespace, session_id, root_session_id, parent_session_id, forked_at_seq,"
            f" created_at, last_activity_at, active_hour) VALUES ('n', 'f', 's', 's', 1, {now}, {now}, {now})",
            f"INSERT INTO {t}history_entries (namespace, session_id, seq, entry_id, turn, content, content_bytes,"
            f" created_at) VALUES ('n', 's', 1, 'e', 1, '\"Hi\"', 4, {now})",
            f"INSERT INTO {t}session_segments VALUES ('n', 'f', 1, 1, 's')",
            f"INSERT INTO {t}summaries VALUES ('n', 's', 1, 1, 'Greeting', 1, {now})",
            f"INSERT INTO {t}state_entries (namespace, session_id, key, value, updated_at)"
            f" VALUES ('n', 's', 'k', '1', {now})",
        ):
            connection.exec_driver_sql(statement)


def row_counts(url: str) -> dict[str, int]:
    return {table: rows(url, f"SELECT count(*) FROM {prefix(url)}{table}")[0][0] for table in CONVERSATION}


CONVERSATION = {"sessions": 2, "history_entries": 1, "session_segments": 1, "summaries": 1, "state_entries": 1}
