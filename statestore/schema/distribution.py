"""Tables distributed by namespace over several PostgreSQL servers, by Citus: what is done to each, and doing it.

A namespace is on one server, with all of its rows: so keys, foreign keys and unique indexes hold as before, and a
statement about one namespace runs on that server alone. Prices and settings are few and also hold for all namespaces,
so every server has a copy of them, and of the version table, which every store reads when it is opened.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from sqlalchemy import Connection, text

from statestore.errors import ReadOnlyError, SchemaError
from statestore.schema.naming import metadata
from statestore.schema.revisions import CITUS, SchemaRevision
from statestore.schema.tables import VERSION_TABLE

KEY = "namespace"
COPIED = ("model_prices", "store_settings", VERSION_TABLE)
"""The tables of which every server has a copy."""
FIRST = "sessions"
"""The table that the others are distributed with: the rows of a namespace stay together."""
NOTING = "0007"
"""The revision that adds triggers to the tables, which Citus does not allow on those that are distributed."""

_HAS_CITUS = text("SELECT EXISTS (SELECT 1 FROM pg_extension WHERE extname = 'citus')")
# For a table that is distributed by nothing, partmethod is n; every server has a copy of it if repmodel is t.
_FOUND = text(f"""
    SELECT c.relname, pg_has_role(c.relowner, 'USAGE'), p.partmethod, p.repmodel,
        CASE WHEN p.partmethod = 'h' THEN column_to_column_name(p.logicalrelid, p.partkey) END, p.colocationid
    FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
    LEFT JOIN {CITUS} AS p ON p.logicalrelid = c.oid
    WHERE n.nspname = :schema AND c.relkind IN ('r', 'p')""")
_TRIGGERS = text("""
    SELECT c.relname, g.tgname FROM pg_trigger AS g JOIN pg_class AS c ON c.oid = g.tgrelid
    JOIN pg_namespace AS n ON n.oid = c.relnamespace
    WHERE n.nspname = :schema AND starts_with(g.tgname, 'usage_rollup_')""")


@dataclass(frozen=True, slots=True)
class Step:
    """A table that is not yet where it belongs."""

    table: str

    @property
    def copied(self) -> bool:
        return self.table in COPIED

    def __str__(self) -> str:
        return f"table {self.table}: {'copied to every server' if self.copied else f'distributed by {KEY}'}"


def tables() -> Iterator[str]:
    """All of them, in the order in which they are distributed: what is referred to comes first."""
    yield from COPIED
    yield FIRST
    yield from (table.name for table in metadata.sorted_tables if table.name not in (*COPIED, FIRST))


def missing(connection: Connection, schema: str) -> list[Step]:
    """What is to be done to a schema of the current revision.

    Raises:
        SchemaError: The database has no Citus, or a table is distributed in another way.
    """
    if not connection.scalar(_HAS_CITUS):
        raise SchemaError(
            "the database does not have the extension citus; install Citus on every server, add it to "
            "shared_preload_libraries, and run CREATE EXTENSION citus in this database on each of them, as a superuser"
        )
    found = {name: facts for name, *facts in connection.execute(_FOUND, {"schema": schema})}
    steps, together = [], found.get(FIRST, [None] * 5)[4]
    for name in tables():
        if name not in found:
            continue
        _, method, model, key, group = found[name]
        step = Step(name)
        if method is None or (method == "n" and model != "t"):
            steps.append(step)
        elif step.copied != (method == "n"):
            raise _otherwise(schema, step, "copied to every server" if method == "n" else f"distributed by {key}")
        elif not step.copied and (key, group) != (KEY, together):
            raise _otherwise(schema, step, f"distributed by {key}, apart from {FIRST}")
    if steps and not all(found[step.table][0] for step in steps):
        raise ReadOnlyError(
            f"only the owner of the tables in schema {schema!r} can distribute them; run this as their owner",
            code="42501",
        )
    return steps


def check_upgrade(found: SchemaRevision | None, target: str, schema: str) -> None:
    """Raises `SchemaError` if the migrations up to revision *target* cannot be run on tables that are distributed."""
    if found is None or not found.distributed or not found.revision < NOTING:
        return
    if target == "head" or target >= NOTING:
        raise SchemaError(
            f"the tables in schema {schema!r} are distributed, and were at revision {found.revision}; migration "
            f"{NOTING} cannot be run on them; nothing was changed. First undistribute them with the statement in "
            "docs/citus.md; then upgrade, and run statestore migrate distribute again"
        )


def _otherwise(schema: str, step: Step, how: str) -> SchemaError:
    return SchemaError(
        f"{step}: expected, but it is {how}; undo that with SELECT undistribute_table('{schema}.{step.table}'), "
        "and run this again"
    )


def apply(connection: Connection, schema: str, steps: list[Step]) -> None:
    """Do it, in the connection's transaction. Whoever writes to the tables waits until its end."""
    quoted = connection.dialect.identifier_preparer.quote_schema(schema)
    if not steps:
        return
    # There are none on distributed tables. Without them the sweep keeps no sums, and reports read the entries.
    for table, trigger in connection.execute(_TRIGGERS, {"schema": schema}).all():
        connection.exec_driver_sql(f'DROP TRIGGER "{trigger}" ON {quoted}.{table}')
    if any(step.table == "usage_rollup_state" for step in steps):
        connection.exec_driver_sql(f"DELETE FROM {quoted}.usage_rollup_state")
    # One shard after the other: connections to many at once would not see each other's tables.
    connection.execute(text("SET LOCAL citus.multi_shard_modify_mode TO 'sequential'"))
    for step in steps:
        table = f"{quoted}.{step.table}"
        if step.copied:
            sql = text("SELECT create_reference_table(CAST(:table AS text))")
            connection.execute(sql, {"table": table})
            continue
        sql = text("SELECT create_distributed_table(CAST(:table AS text), :key, colocate_with => :with)")
        together = "default" if step.table == FIRST else f"{quoted}.{FIRST}"
        connection.execute(sql, {"table": table, "key": KEY, "with": together})
    # What was there is on the servers now, and still in this one's table, where nothing reads it.
    for step in steps:
        if not step.copied:
            sql = text("SELECT truncate_local_data_after_distributing_table(CAST(:table AS text))")
            connection.execute(sql, {"table": f"{quoted}.{step.table}"})
