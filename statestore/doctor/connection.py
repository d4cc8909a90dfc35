"""Checks of the way to the database: who answers, which versions, what is in between, and whose clock is right."""

import platform
import sqlite3
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy

from statestore import __version__
from statestore.doctor.checks import check, found, mendable, size
from statestore.doctor.findings import Finding
from statestore.doctor.patient import Patient, literal
from statestore.engine import sql_tokens
from statestore.engine.engines import APPLICATION, OLDEST_SQLITE
from statestore.schema import revisions
from statestore.schema.naming import quoted

OLDEST_POSTGRESQL = 15
_SKEW = timedelta(seconds=2)
_FUTURE = timedelta(hours=1)


@check("connection")
def connection(patient: Patient) -> Iterator[Finding]:
    """That somebody answers, who, and by which way."""
    if not patient.on_postgresql:
        yield found("connection", "ok", f"{patient.path}, {size(patient.path.stat().st_size)}")
        return
    driver: Any = patient.connection.connection.driver_connection
    way = "TLS" if driver.pgconn.ssl_in_use else "no TLS"
    database, user = patient.one("SELECT current_database(), current_user")
    host = f"{driver.info.host}, port {driver.info.port}"
    yield found("connection", "ok", f"{host}, database {database}, as {user}, {way}")


@check("driver")
def driver(patient: Patient) -> Iterator[Finding]:
    """What this process talks with."""
    ours = f"statestore {__version__}, Python {platform.python_version()}, SQLAlchemy {sqlalchemy.__version__}"
    if not patient.on_postgresql:
        yield found("driver", "ok", f"{ours}, SQLite {sqlite3.sqlite_version}")
        return
    import psycopg
    from psycopg import pq

    ours = f"{ours}, psycopg {psycopg.__version__} ({pq.__impl__})"
    if pq.__impl__ == "python":
        yield found("driver", "warn", f"{ours}: about 50 % slower than the C version", "pip install 'psycopg[binary]'")
    else:
        yield found("driver", "ok", ours)


@check("version")
def version(patient: Patient) -> Iterator[Finding]:
    """Of the database."""
    if not patient.on_postgresql:
        oldest = ".".join(map(str, OLDEST_SQLITE))
        known = sqlite3.sqlite_version_info >= OLDEST_SQLITE
        yield found("version", "ok" if known else "fail", f"SQLite {sqlite3.sqlite_version}; {oldest} or later works")
        return
    number, shown, encoding = patient.one(
        "SELECT CAST(current_setting('server_version_num') AS integer), current_setting('server_version'),"
        " current_setting('server_encoding')"
    )
    if number < OLDEST_POSTGRESQL * 10_000:
        yield found("version", "fail", f"PostgreSQL {shown}; {OLDEST_POSTGRESQL} or later works")
    elif encoding != "UTF8":
        yield found("version", "fail", f"the database's encoding is {encoding}, which cannot hold all texts; use UTF8")
    else:
        yield found("version", "ok", f"PostgreSQL {shown.partition(' ')[0]}")


@check("pooler", on="postgresql")
def pooler(patient: Patient) -> Iterator[Finding]:
    """Whether there is one in between, by the process id, which it makes up."""
    driver: Any = patient.connection.connection.driver_connection
    if driver.info.backend_pid == patient.one("SELECT pg_backend_pid()")[0]:
        yield found("pooler", "ok", "no pooler")
    else:
        yield found("pooler", "ok", "there is a pooler: statements are not prepared, and followers poll every second")


@check("writes", on="postgresql")
def writes(patient: Patient) -> Iterator[Finding]:
    """Whether the server accepts writes: a standby does not, nor a database or a role that is set to read-only."""
    standby, read_only = patient.one("SELECT pg_is_in_recovery(), current_setting('default_transaction_read_only')")
    if standby:
        yield found("writes", "warn", "this server is a standby: it does not accept writes")
    elif read_only == "on":
        sql = ["SET default_transaction_read_only = off", *resetting(patient, "default_transaction_read_only", "off")]
        yield mendable(patient, "writes", "fail", "default_transaction_read_only is on: all writes are refused", sql)
    else:
        yield found("writes", "ok", "the server accepts writes")


def resetting(patient: Patient, name: str, good: str) -> list[str]:
    """Statements that make a setting *good* in this database. What other roles were given for themselves stays."""
    rows = patient.rows(
        "SELECT r.rolname, d.datname FROM pg_db_role_setting AS s LEFT JOIN pg_roles AS r ON r.oid = s.setrole"
        " LEFT JOIN pg_database AS d ON d.oid = s.setdatabase, unnest(s.setconfig) AS line"
        " WHERE s.setrole <> 0 AND (d.datname IS NULL OR d.datname = current_database())"
        " AND line LIKE :like AND line <> :good AND r.rolname = current_user",
        like=f"{name}=%", good=f"{name}={good}",
    )  # fmt: skip
    inside = [f" IN DATABASE {quoted(row.datname)}" if row.datname else "" for row in rows]
    lines = [f"ALTER ROLE {quoted(row.rolname)}{where} RESET {name}" for row, where in zip(rows, inside, strict=True)]
    [database] = patient.one("SELECT current_database()")
    return [*lines, f"ALTER DATABASE {quoted(database)} SET {name} = {good}"]


@check("clock")
def clock(patient: Patient) -> Iterator[Finding]:
    """Ours against the server's, which decides what has expired; and whether rows come from the future."""
    now = patient.now()
    if patient.on_postgresql:
        before = patient.now()
        [at] = patient.one("SELECT clock_timestamp()")
        after = patient.now()
        skew = at - (before + (after - before) / 2)
        if abs(skew) > _SKEW + (after - before) / 2:
            ahead = "ahead of" if skew > timedelta(0) else "behind"
            what = f"the server's clock is {abs(skew).total_seconds():.1f} s {ahead} this machine's"
            what = f"{what}; the server's counts: set the wrong one, on its machine"
            yield found("clock", "warn", what, "sudo timedatectl set-ntp true")
            return
        now = at
    if "sessions" in patient.tables:
        [latest] = patient.one("SELECT max(active_hour) FROM {s}sessions")
        if latest is not None and patient.from_time(latest) > now + _FUTURE:
            what = f"sessions were last active at {patient.from_time(latest):%Y-%m-%d %H:%M}Z, which is yet to come"
            what = f"{what}: a clock was wrong, and they expire late; if it is {now:%Y-%m-%d %H:%M}Z now, --fix"
            yield mendable(patient, "clock", "warn", f"{what} makes them active now", [_active_now(patient, now)])
            return
    yield found("clock", "ok", "the clocks agree" if patient.on_postgresql else "no row has a time in the future")


def _active_now(patient: Patient, now: datetime) -> str:
    """Sessions from the future, as if they had been used now."""
    if patient.on_postgresql:
        at, hour = "now()", "date_trunc('hour', now(), 'UTC')"
        until, late = "now() + ttl", "now() + interval '1 hour'"
    else:
        at, hour = literal(patient.time(now)), literal(f"{patient.time(now)[:13]}:00:00.000000Z")
        microseconds = (now - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
        until = sql_tokens.later_sqlite("ttl").replace(":now_us", str(microseconds))
        late = literal(patient.time(now + _FUTURE))
    earlier = f"CASE WHEN created_at > {at} THEN {at} ELSE created_at END"
    return (
        f"UPDATE {patient.prefix}sessions SET last_activity_at = {at}, active_hour = {hour}, created_at = {earlier},"
        f" expires_at = {until} WHERE active_hour > {late}"
    )


@check("durability", on="postgresql")
def durability(patient: Patient) -> Iterator[Finding]:
    """Whether what was acknowledged outlives a crash of the server."""
    off = {name for name, setting in patient.rows(
        "SELECT name, setting FROM pg_settings WHERE name IN ('fsync', 'full_page_writes', 'synchronous_commit')"
        " AND setting = 'off'")}  # fmt: skip
    unsafe = sorted(off & {"fsync", "full_page_writes"})
    if unsafe:
        sql = [*(f"ALTER SYSTEM SET {name} = on" for name in unsafe), "SELECT pg_reload_conf()"]
        what = f"{' and '.join(unsafe)} {'is' if len(unsafe) == 1 else 'are'} off: a crash can destroy the database"
        yield mendable(patient, "durability", "fail", what, sql)
    else:
        yield found("durability", "ok", "fsync and full_page_writes are on")


@check("commits", on="postgresql")
def commits(patient: Patient) -> Iterator[Finding]:
    """Whether a commit waits for the disk."""
    [setting] = patient.one("SELECT current_setting('synchronous_commit')")
    if setting == "off":
        sql = resetting(patient, "synchronous_commit", "on")
        what = "synchronous_commit is off: a crash of the server loses the latest acknowledged commits"
        yield mendable(patient, "commits", "warn", what, sql)
    else:
        yield found("commits", "ok", f"synchronous_commit is {setting}")


@check("connections", on="postgresql")
def connections(patient: Patient) -> Iterator[Finding]:
    """Whether the server has some left."""
    used, most = patient.one(
        "SELECT (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'),"
        " CAST(current_setting('max_connections') AS integer)"
        " - CAST(current_setting('superuser_reserved_connections') AS integer)"
    )
    what = f"{used} of {most} are in use"
    if used >= 0.9 * most:
        what += "; use a smaller pool_size or a pooler, or raise max_connections"
    yield found("connections", "warn" if used >= 0.9 * most else "ok", what)


@check("transactions", on="postgresql")
def transactions(patient: Patient) -> Iterator[Finding]:
    """Those that keep rows locked, or VACUUM from removing what was deleted. Only ours may be ended from here."""
    rows = patient.rows(
        "SELECT pid, usename, coalesce(application_name, '') AS name,"
        " CAST(extract(epoch FROM now() - coalesce(state_change, xact_start)) AS integer) AS idle,"
        " CAST(xact_start AS text) AS begun,"
        # It has a snapshot and has written nothing: an export or a report, which reads as of one moment.
        " backend_xid IS NULL AND backend_xmin IS NOT NULL AS reads"
        " FROM pg_stat_activity AS a WHERE datname = current_database() AND pid <> pg_backend_pid()"
        " AND backend_type = 'client backend'"
        " AND state LIKE 'idle in transaction%' AND now() - state_change > make_interval(secs => :least)"
        # A migration or a partitioning holds its lock so, for as long as it works.
        " AND NOT EXISTS (SELECT FROM pg_locks AS l WHERE l.pid = a.pid AND l.locktype = 'advisory' AND l.objsubid = 1"
        " AND CAST(l.classid AS bigint) << 32 | CAST(l.objid AS bigint) = :migrating)"
        " ORDER BY state_change",
        least=IDLE_IN_TRANSACTION.total_seconds(), migrating=revisions.lock_key(patient.schema),
    )  # fmt: skip
    backups = [row for row in rows if row.name in _BACKUPS]
    ours = [row for row in rows if row.name == APPLICATION and not row.reads]
    exports = [row for row in rows if row.name == APPLICATION and row.reads]
    others = [row for row in rows if row.name != APPLICATION and row not in backups]
    if ours:
        # Whoever has the number by then may be somebody else.
        sql = [
            f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid = {row.pid} AND xact_start ="
            f" {literal(row.begun)} AND starts_with(state, 'idle in transaction')"
            f" AND application_name = {literal(APPLICATION)}"
            for row in ours
        ]
        what = f"{_idle(ours)}: it keeps its locks, and deleted rows"
        yield mendable(patient, "transactions", "warn", f"{what}; --fix ends these connections of statestore", sql)
    if exports:
        what = f"{_idle(exports)}: an export or a report of statestore, which keeps deleted rows until it is complete"
        yield found("transactions", "warn", f"{what}; let it end, or end it: {_ending(exports)}")
    if others:
        what = f"{_idle(others)}: it keeps its locks, and deleted rows; --fix ends only connections of statestore"
        yield found("transactions", "warn", f"{what}; ask whose it is before you end it: {_ending(others)}")
    prepared = patient.rows("SELECT gid FROM pg_prepared_xacts WHERE database = current_database()"
                            " AND now() - prepared > interval '1 hour' ORDER BY prepared")  # fmt: skip
    if prepared:
        what = (
            f"{len(prepared)} prepared for more than an hour, and keep their locks; ask who coordinates them, then end"
        )
        yield found("transactions", "warn", f"{what} each: ROLLBACK PREPARED {literal(prepared[0].gid)}, or COMMIT")
    if len(backups) == len(rows) and not prepared:
        what = f"none is left open; a backup is at work: {_who(backups[0])}" if backups else "none is left open"
        yield found("transactions", "ok", what)


def _idle(rows: Sequence[Any]) -> str:
    return f"{len(rows)} idle in a transaction, the longest for {rows[0].idle:,} s: {_who(rows[0])}"


def _who(row: Any) -> str:
    return f"{row.name or 'an application without a name'}, process {row.pid} of {row.usename}"


def _ending(rows: Sequence[Any]) -> str:
    return f"SELECT pg_terminate_backend({rows[0].pid})"


IDLE_IN_TRANSACTION = timedelta(minutes=5)
_BACKUPS = ("pg_dump", "pg_dumpall", "pg_restore", "pg_basebackup")
"""With several jobs the first connection of pg_dump waits for the others, idle in its transaction."""


@check("followers", on="postgresql")
def followers(patient: Patient) -> Iterator[Finding]:
    """Whether those who listen keep up: the queue of notifications is one for the whole server."""
    used, listeners = patient.one(
        "SELECT pg_notification_queue_usage(), (SELECT count(*) FROM pg_stat_activity"
        " WHERE datname = current_database() AND query ILIKE 'LISTEN%statestore\\_%')"
    )
    if used > 0.5:
        what = f"the queue of notifications is {used:.0%} full: a listener is stuck in a transaction"
        yield found("followers", "fail", f"{what}, and appends to followed sessions soon fail")
    else:
        yield found("followers", "ok", f"listening: {listeners}; the queue of notifications is {used:.0%} full")


@check("replication", on="postgresql")
def replication(patient: Patient) -> Iterator[Finding]:
    """Slots that nobody reads from, for which the server keeps its log until the disk is full; and the archive."""
    slots = patient.rows(
        "SELECT slot_name, pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn) AS kept FROM pg_replication_slots"
        " WHERE NOT active AND NOT pg_is_in_recovery() ORDER BY 2 DESC NULLS LAST"
    )
    kept = [slot for slot in slots if (slot.kept or 0) > KEPT_LOG]
    for slot in kept:
        drop = f"SELECT pg_drop_replication_slot({literal(slot.slot_name)})"
        what = f"nobody reads from slot {slot.slot_name}, for which {size(slot.kept)} of log are kept"
        yield found("replication", "warn", f"{what}; if it is not needed: {drop}")
    failing = patient.one(
        "SELECT failed_count, last_failed_time > coalesce(last_archived_time, '-infinity') FROM pg_stat_archiver"
    )
    if failing[1]:
        yield found(
            "replication", "warn", f"archiving fails ({failing[0]} times): the log piles up; see archive_command"
        )
    if not kept and not failing[1]:
        yield found("replication", "ok", "no slot holds the log back")


KEPT_LOG = 1_000_000_000
