"""Our tables under other names: a prefix, for a SQLite file that has tables of something else.

PostgreSQL has schemas for that. Statements name tables by tokens, which get the prefix when they are rendered. What is
written without tokens, migrations above all, goes through `prefixed`: the same SQL, for tables with a prefix.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, NullPool, create_engine, event

from statestore.errors import InvalidValueError
from statestore.schema.naming import metadata
from statestore.schema.tables import VERSION_TABLE, VIEWS

MAX_LENGTH = 64

# Every table and view that some revision has: one that a migration drops stays in this list.
RELATIONS = frozenset({*metadata.tables, *VIEWS, VERSION_TABLE})

# Names of indexes and triggers, which are one namespace in a SQLite file, too. Those of constraints are the table's.
_PARTS = re.compile(r"(?:ix|uq)_\w+|usage_rollup_(?:insert|update|delete)_\w+")

_WORD = re.compile(r"""'(?:[^']|'')*'|--[^\n]*|/\*.*?\*/|"(?:[^"]|"")*"|\w+|\S""", re.DOTALL)
# What comes before the name of a table or a view. A column may be called as a table is.
_BEFORE = frozenset({"ANALYZE", "FROM", "JOIN", "INTO", "UPDATE", "REFERENCES", "ON", "TO"})
_MADE = frozenset({"TABLE", "VIEW", "INDEX", "TRIGGER", "EXISTS"})
# Of these beginnings SQLite, or `prefixed`, takes a name for another one.
_TAKEN = ("sqlite_", "ix_", "uq_", "usage_rollup_", "_alembic_tmp_")
# A prefix that ends so makes of one name another: cache_usage_by_day is a view of those without it.
_ENDINGS = tuple(
    longer.removesuffix(name) for name in RELATIONS for longer in RELATIONS - {name} if longer.endswith(name)
)


def check(value: Any, argument: str = "table_prefix") -> str:
    """A prefix, or none, which is empty.

    Raises:
        InvalidValueError: It cannot be one.
    """
    if not isinstance(value, str):
        raise InvalidValueError(argument, f"must be text such as 'statestore_', not {type(value).__name__}")
    if not value:
        return value
    if not re.fullmatch(r"[a-z_][a-z0-9_]*", value) or len(value) > MAX_LENGTH:
        raise InvalidValueError(
            argument,
            f"must have at most {MAX_LENGTH} characters, of a to z, 0 to 9 and _, and must not begin with a "
            "digit; for example 'statestore_'",
        )
    if value.startswith(_TAKEN) or value.endswith(_ENDINGS):
        raise InvalidValueError(argument, f"{value!r} would make names that mean something else; choose another")
    return value


def check_for(backend: str, value: Any, argument: str = "table_prefix") -> str:
    """The same for a kind of database.

    Raises:
        InvalidValueError: It cannot be one, or the database is PostgreSQL.
    """
    if check(value, argument) and backend != "sqlite":
        raise InvalidValueError(
            argument, f"is for SQLite; on PostgreSQL give the tables a schema of their own: schema={value.strip('_')!r}"
        )
    return str(value)


def prefixed(sql: str, prefix: str) -> str:
    """SQL of ours for SQLite, written for tables without a prefix, for those that have one."""
    if not prefix:
        return sql
    before = ""
    is_pragma = sql.lstrip().upper().startswith("PRAGMA")

    def rename(found: re.Match[str]) -> str:
        nonlocal before
        word = found[0]
        follows, before = before, word.upper()
        name = word.strip('"')
        if word.startswith(("--", "/*")):
            before = follows
            return word
        if follows in _MADE:
            is_ours = name in RELATIONS or _PARTS.fullmatch(name) is not None
        else:
            is_named = follows in _BEFORE or sql[found.end() : found.end() + 1] == "." or (is_pragma and follows == "(")
            is_ours = is_named and name in RELATIONS
        return word.replace(name, prefix + name) if is_ours else word

    return _WORD.sub(rename, sql)


def base_name(name: str, prefix: str) -> str | None:
    """What a table or a view with the prefix is called without it; None for one that is not ours."""
    rest = name.removeprefix(prefix)
    return rest if name.startswith(prefix) and rest in RELATIONS else None


@contextmanager
def without_prefix(connection: Connection, prefix: str) -> Iterator[Connection]:
    """A database in memory whose tables are made as those with a prefix are, under their names without it."""
    if not prefix:
        yield connection
        return
    made = connection.exec_driver_sql(
        "SELECT sql, tbl_name FROM sqlite_master WHERE type IN ('table', 'index') AND sql IS NOT NULL ORDER BY rowid"
    )
    ours = [sql for sql, table in made if base_name(table, prefix) is not None]

    def rename(found: re.Match[str]) -> str:
        return found[1] if found[1] in RELATIONS or _PARTS.fullmatch(found[1]) else found[0]

    with create_engine("sqlite://", poolclass=NullPool).connect() as copy:
        for sql in ours:
            copy.exec_driver_sql(re.sub(rf"\b{prefix}(\w+)", rename, sql))
        yield copy


@contextmanager
def naming(connection: Connection, prefix: str) -> Iterator[None]:
    """Whatever is executed on *connection* in the block is written for tables without a prefix."""
    if not prefix:
        yield
        return

    def rename(_: Any, __: Any, statement: str, parameters: Any, *rest: Any) -> tuple[str, Any]:
        if "sqlite_master" in statement and isinstance(parameters, tuple):  # What SQLAlchemy asks about a table.
            parameters = tuple(prefix + one if one in RELATIONS else one for one in parameters)
        return prefixed(statement, prefix), parameters

    event.listen(connection, "before_cursor_execute", rename, retval=True)
    try:
        yield
    finally:
        event.remove(connection, "before_cursor_execute", rename)
