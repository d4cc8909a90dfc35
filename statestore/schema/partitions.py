"""Which of our tables are partitioned in a PostgreSQL database, and what is missing there."""

from collections.abc import Iterator
from dataclasses import dataclass

from sqlalchemy import Connection, text

KEYS = {"history_entries": "session_id", "cache_entries": "key"}
"""The tables that can be partitioned, each with the column whose hash says in which partition a row is.

It is in each key and unique index of the table, as PostgreSQL demands, so they hold what they held; and it is known to
each statement on one session or one cached value, which therefore looks into one partition.
"""

PROGRESS_TABLE = "statestore_partitioning"
"""Made while a table is being partitioned: how far it has come."""


@dataclass(frozen=True, slots=True)
class Partition:
    """A partition: the rows whose hash has this remainder."""

    name: str
    modulus: int
    remainder: int


@dataclass(frozen=True, slots=True)
class Partitioned:
    """A table that is partitioned.

    Attributes:
        by: How, as PostgreSQL says it, such as `HASH (session_id)`.
        partitions: By their remainders.
    """

    by: str
    partitions: tuple[Partition, ...]


_FOUND = text(r"""
    SELECT t.relname, pg_get_partkeydef(t.oid), p.relname,
        CAST(substring(pg_get_expr(p.relpartbound, p.oid) FROM 'modulus (\d+)') AS integer),
        CAST(substring(pg_get_expr(p.relpartbound, p.oid) FROM 'remainder (\d+)') AS integer)
    FROM pg_class AS t JOIN pg_namespace AS n ON n.oid = t.relnamespace
    LEFT JOIN pg_inherits AS i ON i.inhparent = t.oid LEFT JOIN pg_class AS p ON p.oid = i.inhrelid
    WHERE n.nspname = :schema AND t.relkind = 'p' AND t.relname = ANY (:tables)
    ORDER BY t.relname, 5, p.relname""")
_KEYS_OF_PARTITIONS = text("""
    SELECT t.relname, k.conname FROM pg_constraint AS k
    JOIN pg_class AS t ON t.oid = k.conrelid JOIN pg_namespace AS n ON n.oid = t.relnamespace
    WHERE n.nspname = :schema AND k.contype = 'f' AND k.conparentid <> 0""")
_STARTED = text("""
    SELECT 1 FROM pg_class AS t JOIN pg_namespace AS n ON n.oid = t.relnamespace
    WHERE n.nspname = :schema AND t.relname = :name""")


def read(connection: Connection, schema: str) -> dict[str, Partitioned]:
    """The partitioned ones among our tables, by name."""
    if connection.dialect.name != "postgresql":
        return {}
    found: dict[str, tuple[str, list[Partition]]] = {}
    for table, by, *partition in connection.execute(_FOUND, {"schema": schema, "tables": list(KEYS)}):
        found.setdefault(table, (by, []))
        if partition[0] is not None:
            found[table][1].append(Partition(*partition))
    return {table: Partitioned(by, tuple(partitions)) for table, (by, partitions) in found.items()}


def keys_of_partitions(connection: Connection, schema: str) -> set[str]:
    """The foreign keys that PostgreSQL keeps beside ours, one to each partition, as `table.name`."""
    if connection.dialect.name != "postgresql":
        return set()
    return {f"{table}.{name}" for table, name in connection.execute(_KEYS_OF_PARTITIONS, {"schema": schema})}


def is_unfinished(connection: Connection, schema: str) -> bool:
    """Whether a partitioning has begun that has not ended."""
    if connection.dialect.name != "postgresql":
        return False
    return connection.scalar(_STARTED, {"schema": schema, "name": PROGRESS_TABLE}) is not None


def differences(connection: Connection, schema: str) -> Iterator[str]:
    """What is wrong with the partitions, a line each."""
    for table, found in read(connection, schema).items():
        if found.by != f"HASH ({KEYS[table]})":
            yield f"table {table}: partitioned by {found.by}, not by HASH ({KEYS[table]})"
            continue
        if not found.partitions:
            yield f"table {table}: has no partitions"
            continue
        most = max(partition.modulus or 1 for partition in found.partitions)
        held = {n for p in found.partitions if p.modulus for n in range(p.remainder, most, p.modulus)}
        yield from (f"table {table}: no partition for remainder {n} of {most}" for n in range(most) if n not in held)
