"""Which revision the schema in a database has, and whether this version of the package may use it.

The version table says both in one row: `version_num`, which is Alembic's, and `oldest_code`, the oldest revision whose
code may use the schema as it is now. Migrations that only add something leave it where it is, so processes of the
release before go on, and can be restarted, while a deployment rolls out. Schemas up to revision 0003 have no such
column, and the code of that time refuses every schema but its own.
"""

import hashlib
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, inspect, text

from statestore import schema
from statestore.errors import SchemaAheadError, SchemaError
from statestore.schema import VERSION_TABLE

CITUS = "pg_catalog.pg_dist_partition"
"""Where Citus says which tables are distributed, and by what; there is none without it."""


def head() -> str:
    """The revision that this version works with."""
    return schema.HEAD_REVISION


@dataclass(frozen=True, slots=True)
class SchemaRevision:
    """The revision of a schema, and of the oldest code that may use it; None if it does not say.

    Attributes:
        revision: The revision.
        oldest_code: The revision of the oldest code.
        distributed: Whether its tables are distributed over several servers, by Citus.
    """

    revision: str
    oldest_code: str | None
    distributed: bool = False

    @property
    def is_newer(self) -> bool:
        """Whether a later version of statestore made it."""
        return self.revision.isdecimal() and int(self.revision) > int(head())

    @property
    def is_usable(self) -> bool:
        """Whether this version may work with it: it is its own, or a newer one that says so."""
        if self.revision == head():
            return True
        oldest = self.oldest_code or ""
        return self.is_newer and oldest.isdecimal() and int(oldest) <= int(head())


def read(connection: Connection, schema_name: str, table_prefix: str = "") -> SchemaRevision | None:
    """What the database says; None if it has no schema."""
    where = schema_name if connection.dialect.name == "postgresql" else None
    if not inspect(connection).has_table(table_prefix + VERSION_TABLE, schema=where):
        return None
    # All columns, since older schemas have one less: no round trip more to find out which. As text, since each store
    # that is opened would have to compile it.
    of_schema = "" if where is None else f"{connection.dialect.identifier_preparer.quote_schema(where)}."
    also = "" if where is None else f", to_regclass('{CITUS}') IS NOT NULL AS has_citus"
    rows = connection.exec_driver_sql(f"SELECT *{also} FROM {of_schema}{table_prefix}{VERSION_TABLE}").mappings()
    found: list[dict[str, Any]] = [dict(row) for row in rows]
    if len(found) > 1:
        several = ", ".join(row["version_num"] for row in found)
        raise SchemaError(f"{VERSION_TABLE} has several revisions, {several}; delete all but the right one")
    if not found:
        return None
    distributed = bool(found[0].get("has_citus")) and _has_distributed(connection, schema_name)
    return SchemaRevision(found[0]["version_num"], found[0].get("oldest_code"), distributed)


def is_distributed(connection: Connection, schema_name: str) -> bool:
    """Whether the tables of a schema are distributed, on PostgreSQL."""
    has_citus = connection.exec_driver_sql(f"SELECT to_regclass('{CITUS}') IS NOT NULL").scalar()
    return bool(has_citus) and _has_distributed(connection, schema_name)


def _has_distributed(connection: Connection, schema_name: str) -> bool:
    sessions = (
        "SELECT c.oid FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace"
        " WHERE n.nspname = :schema AND c.relname = 'sessions'"
    )
    found = connection.scalar(
        text(f"SELECT 1 FROM {CITUS} WHERE CAST(logicalrelid AS oid) = ({sessions})"), {"schema": schema_name}
    )
    return found is not None


def lock_key(schema_name: str) -> int:
    """The key of the advisory lock that admits one migrator of a schema at a time."""
    digest = hashlib.sha256(f"statestore:{schema_name}".encode()).digest()
    return int.from_bytes(digest[:8], "big", signed=True)


def ahead(where: str, found: SchemaRevision) -> SchemaAheadError:
    """That the schema is too new, and what to deploy before it can be used from here."""
    needed = found.oldest_code or found.revision
    return SchemaAheadError(
        f"the schema in {where} is at revision {found.revision}, which needs a statestore that knows revision "
        f"{needed} or a later one; this version knows {head()}. First install a newer statestore here: "
        "pip install --upgrade statestore",
        current=found.revision,
        expected=head(),
        oldest_code=found.oldest_code,
    )
