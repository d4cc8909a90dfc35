"""Checks of what PostgreSQL does by itself, as long as nobody keeps it from it; and of its disk."""

import os
import shlex
import shutil
from collections.abc import Iterator

from statestore import schema
from statestore.doctor.checks import check, found, mendable, size, some
from statestore.doctor.findings import Finding
from statestore.doctor.patient import Patient
from statestore.schema.naming import quoted

DEAD_ROWS = 10_000
"""From how many on dead rows are bloat, if they are also two fifths of the living: twice what autovacuum waits for."""
UNKNOWN_ROWS = 1_000
"""From how many on a table has to be analyzed once."""
OLD_TRANSACTIONS = 1_000_000_000
"""Of two billion, after which the server does not accept writes."""
FREE_DISK = 0.05
LEAST_FREE = 200_000_000


@check("autovacuum", on="postgresql", needs=(schema.VERSION_TABLE,))
def autovacuum(patient: Patient) -> Iterator[Finding]:
    """Whether it is on, for the server and for each table."""
    off = [name for (name,) in patient.rows(
        "SELECT name FROM pg_settings WHERE name IN ('autovacuum', 'track_counts') AND setting = 'off'")]  # fmt: skip
    if off:
        sql = [*(f"ALTER SYSTEM SET {name} = on" for name in off), "SELECT pg_reload_conf()"]
        what = f"{' and '.join(off)} off: space of deleted rows is not used again, and plans grow wrong"
        yield mendable(patient, "autovacuum", "fail", what, sql)
    excepted = [name for (name,) in patient.rows(
        "SELECT c.relname FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace,"
        " unnest(c.reloptions) AS o"
        " WHERE n.nspname = :schema AND o ~* '^autovacuum_enabled=(false|off|no|0)' ORDER BY 1")]  # fmt: skip
    if excepted:
        sql = [f"ALTER TABLE {patient.prefix}{quoted(name)} RESET (autovacuum_enabled)" for name in excepted]
        yield mendable(patient, "autovacuum", "warn", f"switched off for {some(excepted)}", sql)
    if not off and not excepted:
        yield found("autovacuum", "ok", "is on for all tables")


@check("bloat", on="postgresql", needs=(schema.VERSION_TABLE,))
def bloat(patient: Patient) -> Iterator[Finding]:
    """Rows that were deleted or changed, and whose space is not free yet."""
    rows = patient.rows(
        "SELECT relname, n_dead_tup, n_live_tup FROM pg_stat_user_tables WHERE schemaname = :schema"
        " AND n_dead_tup >= :least AND n_dead_tup > 0.4 * n_live_tup ORDER BY n_dead_tup DESC",
        least=DEAD_ROWS,
    )
    if rows:
        sql = [f"VACUUM (ANALYZE) {patient.prefix}{quoted(row.relname)}" for row in rows]
        what = some([f"{row.n_dead_tup:,} dead rows in {row.relname}, {row.n_live_tup:,} living" for row in rows])
        yield mendable(patient, "bloat", "warn", what, sql)
    else:
        yield found("bloat", "ok", "few dead rows")


@check("statistics", on="postgresql", needs=(schema.VERSION_TABLE,))
def statistics(patient: Patient) -> Iterator[Finding]:
    """Without them the planner guesses."""
    rows = [name for (name,) in patient.rows(
        "SELECT u.relname FROM pg_stat_user_tables AS u JOIN pg_class AS c ON c.oid = u.relid"
        " WHERE u.schemaname = :schema AND c.reltuples < 0 AND u.n_live_tup >= :least ORDER BY 1",
        least=UNKNOWN_ROWS)]  # fmt: skip
    if rows:
        sql = [f"ANALYZE {patient.prefix}{quoted(name)}" for name in rows]
        yield mendable(patient, "statistics", "warn", f"never analyzed: {some(rows)}; plans are guesses", sql)
    else:
        yield found("statistics", "ok", "the planner knows the tables")


@check("wraparound", on="postgresql", needs=(schema.VERSION_TABLE,))
def wraparound(patient: Patient) -> Iterator[Finding]:
    """How long until the server has no new numbers for transactions."""
    rows = patient.rows(
        "SELECT c.relname, age(c.relfrozenxid) AS age FROM pg_class AS c"
        " JOIN pg_namespace AS n ON n.oid = c.relnamespace"
        " WHERE n.nspname = :schema AND c.relkind = 'r' AND age(c.relfrozenxid) > :least ORDER BY 2 DESC",
        least=OLD_TRANSACTIONS,
    )
    if rows:
        sql = [f"VACUUM (FREEZE) {patient.prefix}{quoted(row.relname)}" for row in rows]
        what = f"{rows[0].relname} has rows {rows[0].age:,} transactions old; at 2,000,000,000 no writes are taken"
        yield mendable(patient, "wraparound", "fail", what, sql)
    else:
        yield found("wraparound", "ok", "far away")


@check("disk", on="postgresql")
def disk(patient: Patient) -> Iterator[Finding]:
    """How large the database is, and how much the server's disk has left, if that is the one of this machine."""
    total, folder, local = patient.one(
        "SELECT pg_database_size(current_database()),"
        " CASE WHEN pg_has_role('pg_read_all_settings', 'USAGE') THEN current_setting('data_directory') END,"
        " coalesce(inet_server_addr() = inet_client_addr(), true)"
    )
    what = f"the database takes {size(total)}"
    if not (local and folder and os.path.isdir(folder)):
        yield found("disk", "ok", f"{what}; what is free on the server cannot be seen from here")
        return
    yield free_space("disk", folder, what)


def free_space(name: str, folder: str | os.PathLike[str], what: str) -> Finding:
    """How much a disk of this machine has left."""
    usage = shutil.disk_usage(folder)
    left = f"{what}, and {size(usage.free)} are free"
    look = f"make room, or use a larger disk; what is there: du -xh {shlex.quote(os.fspath(folder))} | sort -h"
    if usage.free < LEAST_FREE:
        return found(name, "fail", f"{left}: writes will soon be refused; {look}")
    if usage.free < FREE_DISK * usage.total:
        return found(name, "warn", f"{left}, {usage.free / usage.total:.1%} of the disk; {look}")
    return found(name, "ok", left)
