"""Our tables in a database against those that the code works with, by Alembic's comparison; and against a host's."""

import re
import warnings
from collections.abc import Iterator
from typing import Any

import sqlalchemy
from sqlalchemy import CheckConstraint, Connection, Dialect, MetaData, Table, inspect
from sqlalchemy.exc import SAWarning
from sqlalchemy.sql import quoted_name
from sqlalchemy.types import TypeEngine

from statestore.errors import InvalidValueError
from statestore.schema import VERSION_TABLE, metadata, partitions, prefixes


def differences(connection: Connection, schema: str, table_prefix: str = "") -> list[str]:
    """In what the tables in the database differ from the model, a line each."""
    if not table_prefix:
        return _differences(connection, schema)
    with prefixes.without_prefix(connection, table_prefix) as copy:
        # A line is "table sessions: …", "index sessions.ix_…: …" and so on.
        return [line.replace(" ", f" {table_prefix}", 1) for line in _differences(copy, schema)]


def _differences(connection: Connection, schema: str) -> list[str]:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    if '"' in schema and connection.dialect.name == "postgresql" and sqlalchemy.__version__.startswith("2.0."):
        problem = "SQLAlchemy before 2.1 cannot read foreign keys in a schema with a quotation mark in its name"
        raise InvalidValueError("schema", f"{problem}; compare with a later version")
    options = alembic_options(connection.dialect, schema)
    context = MigrationContext.configure(connection, opts=options)
    with warnings.catch_warnings():
        # SQLAlchemy warns when it reads a constraint that is not validated.
        warnings.simplefilter("ignore", SAWarning)
        found = [
            line
            for change in compare_metadata(context, options["target_metadata"])
            for line in _lines(change, connection.dialect)
        ]
    beside_ours = {f"fk {name}: not expected" for name in partitions.keys_of_partitions(connection, schema)}
    found = [line for line in found if line not in beside_ours]
    return [*found, *_check_differences(connection, schema), *partitions.differences(connection, schema)]


def is_ours(item: Any) -> bool:
    """Whether a table that Alembic found in a database is one of ours: by its name and its key."""
    if not isinstance(item, Table):
        return False
    model = metadata.tables.get(item.name)
    if model is None:
        return item.name.endswith(VERSION_TABLE) or any(_is_prefixed(item, one) for one in metadata.tables.values())
    return _key_of(item) == _key_of(model)


def _is_prefixed(item: Table, model: Table) -> bool:
    """Whether it is a table of ours under a name with a prefix, of this revision, an older or a newer one."""
    found, expected = set(item.columns.keys()), set(model.columns.keys())
    return (
        item.name.endswith(model.name) and _key_of(item) == _key_of(model) and (found <= expected or expected <= found)
    )


def _key_of(table: Table) -> list[str]:
    return [column.name for column in table.primary_key]


def alembic_options(dialect: Dialect, schema: str) -> dict[str, Any]:
    """How Alembic is to look at the database: at our tables only, in their schema, and with our eyes for defaults."""
    on_postgresql = dialect.name == "postgresql"
    # Alembic calls the connection's default schema None, also when it is asked for by name.
    default = getattr(dialect, "default_schema_name", None)
    reflected = schema if on_postgresql and schema != default else None
    tables = metadata
    if reflected is not None:
        tables = MetaData(naming_convention=metadata.naming_convention)
        for model in metadata.sorted_tables:
            model.to_metadata(tables, schema=reflected)

    def is_looked_at(name: str | None, kind: str, parents: Any) -> bool:
        if kind == "schema":
            return name == reflected
        return kind != "table" or name in metadata.tables

    return {
        "target_metadata": tables,
        "version_table": VERSION_TABLE,
        # Alembic splits at its dots what is not a `quoted_name`.
        "version_table_schema": quoted_name(schema, None) if on_postgresql else None,
        "include_schemas": on_postgresql,
        "include_name": is_looked_at,
        "compare_type": True,
        "compare_server_default": _defaults_differ,
        # Comments are for those who read the tables in the database; the migrations hold them, the code does not.
        "autogenerate_plugins": ["alembic.autogenerate.*", "~alembic.autogenerate.comments"],
        "render_as_batch": not on_postgresql,
    }


def _lines(change: Any, dialect: Dialect) -> Iterator[str]:
    """A change that Alembic would make to the database, as what is wrong with the database."""
    if isinstance(change, list):  # all changes of one column
        for single in change:
            yield from _lines(single, dialect)
        return
    kind, *details = change
    action, _, what = kind.partition("_")
    if action == "modify":
        _, owner, name, _, found, expected = details
        yield f"column {owner}.{name}: {what} is {_brief(found, dialect)}, not {_brief(expected, dialect)}"
        return
    item = details[-1]
    owner = details[-2] if what == "column" else getattr(getattr(item, "table", None), "name", None)
    name = item.name if owner is None or what == "table" else f"{owner}.{item.name}"
    yield f"{what} {name}: {'missing' if action == 'add' else 'not expected'}"


def _brief(value: Any, dialect: Dialect) -> str:
    if isinstance(value, TypeEngine):
        return value.compile(dialect)
    default = getattr(value, "arg", value)
    return str(getattr(default, "text", default))


def _check_differences(connection: Connection, schema: str) -> Iterator[str]:
    """The checks, which Alembic does not look at: by name, since databases rewrite the conditions."""
    inspector = inspect(connection)
    where = schema if connection.dialect.name == "postgresql" else None
    for name, model in metadata.tables.items():
        if not inspector.has_table(name, schema=where):
            continue
        found = {check["name"] for check in inspector.get_check_constraints(name, schema=where)}
        expected = {check.name for check in model.constraints if isinstance(check, CheckConstraint)}
        yield from (f"check {name}.{check}: missing" for check in sorted(map(str, expected - found)))
        yield from (f"check {name}.{check}: not expected" for check in sorted(map(str, found - expected)))


_CAST = re.compile(r"::[a-z ]+$")


def _defaults_differ(
    context: Any, found_column: Any, expected_column: Any, found: str | None, _: Any, expected: str | None
) -> bool:
    """As text and without PostgreSQL's casts: Alembic would compare on the server, where `json` has no equality."""
    return _plain(found) != _plain(expected)


def _plain(default: str | None) -> str | None:
    return None if default is None else _CAST.sub("", default).strip("()'")
