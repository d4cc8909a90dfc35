"""Faults to plant into a database that is well, with the check that finds each."""

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg

from statestore import NewEntry, StateStore, Usage, migrate
from statestore.engine import engines, sqlite_files
from tests.support.clock import MovableClock

Plant = Callable[[str], Any]


@dataclass(frozen=True)
class Fault:
    """What is planted, and what is to be found.

    Attributes:
        plant: Plants it; a generator function keeps it alive until the end of the test.
        check: The check that finds it.
        verdict: How bad it is.
        word: In the message.
        remedy: The beginning of the command.
        empty: Planted into a database without the tables.
    """

    plant: Plant
    check: str
    verdict: str
    word: str
    remedy: str
    empty: bool = False


def on_postgresql(*statements: str) -> Plant:
    def plant(url: str) -> None:
        with psycopg.connect(url, autocommit=True, options="-c search_path=statestore") as connection:
            for statement in statements:
                connection.execute(statement)

    return plant


def on_sqlite(*statements: str) -> Plant:
    def plant(url: str) -> None:
        with closing(sqlite3.connect(path_of(url), isolation_level=None)) as connection:
            for statement in statements:
                connection.execute(statement)

    return plant


def path_of(url: str) -> Path:
    path = sqlite_files.path_of(engines.parse(url))
    assert path is not None
    return path


def nothing(url: str) -> None:
    pass


def outdated(url: str) -> None:
    migrate.upgrade(url, "0003")


def unswept(url: str) -> None:
    with StateStore.open(url, clock=MovableClock(datetime.now(UTC) - timedelta(days=2))) as store:
        store.sessions.create("gone", ttl=timedelta(minutes=1))


def kept_for_years(url: str) -> None:
    with StateStore.open(url, clock=MovableClock(datetime.now(UTC) - timedelta(days=500))) as store:
        store.sessions.create("old")


def unpriced(url: str) -> None:
    with StateStore.open(url) as store:
        store.sessions.create("s")
        usage = Usage(input_tokens=100, output_tokens=10)
        store.history.append("s", [NewEntry("hi", usage=usage, provider_name="openai", response_model="gpt-4o")])


def priced_too_late(url: str) -> None:
    with StateStore.open(url, namespace="a b") as store:
        store.sessions.create("s")
        usage = Usage(input_tokens=100, output_tokens=10)
        store.history.append("s", [NewEntry("hi", usage=usage, response_model="ours")])
        store.prices.set("ours", input_price=1, output_price=1)


def conversation(url: str) -> None:
    with StateStore.open(url) as store:
        store.sessions.create("s")
        store.history.append("s", [{"role": "user", "content": f"word {n}"} for n in range(10)])
        store.state.set("s", "key", 1)


def orphaned_on_postgresql(url: str) -> None:
    conversation(url)
    on_postgresql("SET session_replication_role = replica", "DELETE FROM sessions")(url)


def orphaned_on_sqlite(url: str) -> None:
    conversation(url)
    on_sqlite("PRAGMA foreign_keys = OFF", "DELETE FROM sessions")(url)


UNSEEN = "UPDATE sessions SET next_seq = 9"


def unseen_on_postgresql(url: str) -> None:
    conversation(url)
    on_postgresql(UNSEEN)(url)


def unseen_on_sqlite(url: str) -> None:
    conversation(url)
    on_sqlite(UNSEEN)(url)


def invalid_index(url: str) -> None:
    """As a CREATE INDEX CONCURRENTLY leaves it that found a duplicate."""
    name = "ix_sessions_namespace_created_at"
    on_postgresql(
        f"UPDATE pg_index SET indisvalid = false WHERE indexrelid = '{name}'::regclass",
    )(url)


@contextmanager
def idle_in_transaction(url: str, name: str = "statestore") -> Iterator[psycopg.Connection[Any]]:
    """Of statestore, if nothing else is said; the connection may have been ended at the end."""
    with closing(psycopg.connect(url, application_name=name)) as connection:
        connection.execute("SELECT 1")
        yield connection


def from_the_future(url: str) -> None:
    with StateStore.open(url, clock=MovableClock(datetime.now(UTC) + timedelta(days=3))) as store:
        store.sessions.create("late", ttl=timedelta(hours=6))
        store.sessions.create("kept")


ROWS = (
    "INSERT INTO sessions (namespace, session_id, root_session_id, created_at, last_activity_at, active_hour)"
    " SELECT 'default', 's' || n, 's' || n, now(), now(), date_trunc('hour', now()) FROM generate_series(1, {}) AS n"
)
FLUSH = "SELECT pg_stat_force_next_flush()"


def unable(url: str) -> None:
    role = f"app_{os.getpid()}"
    on_postgresql(f"DROP OWNED BY {role}; DROP ROLE {role}" if has_role(url, role) else "SELECT 1",
                  f"CREATE ROLE {role} LOGIN PASSWORD 'secret of app'", f"GRANT USAGE ON SCHEMA statestore TO {role}",
                  f"GRANT SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA statestore TO {role}",
                  f"REVOKE INSERT ON history_entries FROM {role}")(url)  # fmt: skip


def has_role(url: str, role: str) -> bool:
    with psycopg.connect(url) as connection:
        return connection.execute("SELECT FROM pg_roles WHERE rolname = %s", [role]).fetchone() is not None


FIX = "statestore doctor --fix "

POSTGRESQL = {
    "no tables": Fault(nothing, "schema", "fail", "no tables", "statestore migrate up", empty=True),
    "an old schema": Fault(outdated, "schema", "fail", "0003", "statestore migrate up", empty=True),
    "a missing index": Fault(
        on_postgresql("DROP INDEX ix_sessions_namespace_created_at"), "indexes", "fail", "created_at", FIX + "indexes"
    ),
    "a missing unique index": Fault(
        on_postgresql("DROP INDEX uq_history_entries_entry_id"), "indexes", "fail", "entry_id", FIX + "indexes"
    ),
    "an index left invalid": Fault(invalid_index, "indexes", "fail", "unfinished", FIX + "indexes"),
    "an index of the name that is not unique": Fault(
        on_postgresql("DROP INDEX uq_history_entries_entry_id",
                      "CREATE INDEX uq_history_entries_entry_id ON history_entries (entry_id)"),
        "indexes", "fail", "not what it should be: uq_history_entries_entry_id", FIX + "indexes",
    ),
    "an index nobody reads": Fault(
        on_postgresql("CREATE INDEX mine ON sessions (title)", *["SELECT 1"]),
        "unused-indexes", "warn", "mine", FIX + "unused-indexes",
    ),
    "a constraint not validated": Fault(
        on_postgresql("ALTER TABLE history_entries DROP CONSTRAINT ck_history_entries_seq",
                      "ALTER TABLE history_entries ADD CONSTRAINT ck_history_entries_seq CHECK (seq >= 1) NOT VALID"),
        "constraints", "fail", "not validated", FIX + "constraints",
    ),
    "a missing foreign key": Fault(
        on_postgresql("ALTER TABLE summaries DROP CONSTRAINT fk_summaries_namespace_session_id"),
        "constraints", "fail", "fk_summaries", FIX + "constraints",
    ),
    "foreign keys switched off": Fault(
        on_postgresql("ALTER TABLE state_entries DISABLE TRIGGER ALL"),
        "constraints", "fail", "switched off on state_entries", FIX + "constraints",
    ),
    "autovacuum off for a table": Fault(
        on_postgresql("ALTER TABLE sessions SET (autovacuum_enabled = off)"),
        "autovacuum", "warn", "sessions", FIX + "autovacuum",
    ),
    "dead rows": Fault(
        on_postgresql("ALTER TABLE sessions SET (autovacuum_enabled = off)", ROWS.format(12_000),
                      "DELETE FROM sessions", FLUSH, "SELECT 1"),
        "bloat", "warn", "dead rows in sessions", FIX + "bloat",
    ),
    "a table never analyzed": Fault(
        on_postgresql("ALTER TABLE sessions SET (autovacuum_enabled = off)", ROWS.format(2_000), FLUSH, "SELECT 1"),
        "statistics", "warn", "sessions", FIX + "statistics",
    ),
    "a transaction left open": Fault(
        idle_in_transaction, "transactions", "warn", "idle in a transaction", FIX + "transactions"
    ),
    "rows from the future": Fault(from_the_future, "clock", "warn", "yet to come", FIX + "clock"),
    "a read-only database": Fault(
        on_postgresql("DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET default_transaction_read_only = on',"
                      " current_database()); END $$"),
        "writes", "fail", "refused", FIX + "writes",
    ),
    "commits that do not wait": Fault(nothing, "commits", "warn", "synchronous_commit", FIX + "commits"),
    "a role without rights": Fault(unable, "grants", "fail", "INSERT", FIX + "grants --role"),
    "expired rows": Fault(unswept, "sweep", "warn", "for 47 hours", "statestore sweep --all-namespaces"),
    "no retention": Fault(kept_for_years, "retention", "warn", "a year", "statestore retention --max-idle 365d"),
    "a model without a price": Fault(unpriced, "prices", "warn", "gpt-4o (1 call)", "statestore prices sync --apply"),
    "a price that came late": Fault(
        priced_too_late, "prices", "warn", "ours", "statestore prices apply --namespace 'a b'"
    ),
    "rows of no session": Fault(
        orphaned_on_postgresql, "orphans", "fail", "history_entries, state_entries", FIX + "orphans"
    ),
    "entries nobody sees": Fault(
        unseen_on_postgresql, "positions", "warn", "behind their end", "statestore sweep --all-namespaces"
    ),
}  # fmt: skip


def delete_journal(url: str) -> None:
    on_sqlite("PRAGMA journal_mode = DELETE")(url)


def never_shrinking(url: str) -> None:
    on_sqlite("PRAGMA auto_vacuum = NONE", "VACUUM")(url)


def free_pages(url: str) -> None:
    on_sqlite("CREATE TABLE filler (content BLOB)",
              "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20)"
              " INSERT INTO filler SELECT zeroblob(1000000) FROM n", "DROP TABLE filler")(url)  # fmt: skip


@contextmanager
def long_log(url: str) -> Iterator[None]:
    """A reader who does not end lets it grow."""
    with closing(sqlite3.connect(path_of(url), isolation_level=None)) as reader:
        reader.execute("PRAGMA wal_autocheckpoint = 0")
        reader.execute("CREATE TABLE filler (content BLOB)")
        for _ in range(40):
            reader.execute("INSERT INTO filler VALUES (zeroblob(1000000))")
        reader.execute("DROP TABLE filler")
        yield


def torn_index(url: str) -> None:
    """An index without the rows that came while it was hidden."""
    conversation(url)
    name = "ix_history_entries_namespace_created_at"
    with closing(sqlite3.connect(path_of(url), isolation_level=None)) as connection:
        sql = connection.execute("SELECT * FROM sqlite_master WHERE name = ?", [name]).fetchone()
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute("DELETE FROM sqlite_master WHERE name = ?", [name])
    with closing(sqlite3.connect(path_of(url), isolation_level=None)) as connection:
        connection.execute("UPDATE history_entries SET created_at = '2020' || substr(created_at, 5)")
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute("INSERT INTO sqlite_master VALUES (?, ?, ?, ?, ?)", sql)


def rights(mode: int) -> Plant:
    return lambda url: path_of(url).chmod(mode)


def read_only_folder(url: str) -> None:
    path_of(url).parent.chmod(0o500)


SQLITE = {
    "no file": Fault(nothing, "connection", "fail", "no SQLite file", "statestore migrate up", empty=True),
    "no tables": Fault(on_sqlite("PRAGMA user_version = 7"), "schema", "fail", "no tables", "statestore migrate up",
                       empty=True),
    "an old schema": Fault(outdated, "schema", "fail", "0003", "statestore migrate up", empty=True),
    "a missing index": Fault(
        on_sqlite("DROP INDEX uq_history_entries_entry_id"), "indexes", "fail", "entry_id", FIX + "indexes"
    ),
    "another journal": Fault(delete_journal, "pragmas", "warn", "journal_mode is delete", FIX + "pragmas"),
    "a file that never shrinks": Fault(
        never_shrinking, "pragmas", "warn", "auto_vacuum", "statestore vacuum --full"
    ),
    "free pages": Fault(free_pages, "space", "warn", "free pages", "statestore vacuum"),
    "a long log": Fault(long_log, "log", "warn", "has grown to", "statestore vacuum"),
    "an index of the name that is not unique": Fault(
        on_sqlite("DROP INDEX uq_history_entries_entry_id",
                  "CREATE INDEX uq_history_entries_entry_id ON history_entries (entry_id)"),
        "indexes", "fail", "not what it should be: uq_history_entries_entry_id", FIX + "indexes",
    ),
    "an index that lacks rows": Fault(torn_index, "integrity", "fail", "index", FIX + "integrity"),
    "a file that others read": Fault(rights(0o644), "file", "warn", "others can read", "chmod 600"),
    "a file that is read-only": Fault(rights(0o400), "file", "fail", "read-only (400)", "chmod u+w"),
    "a folder that is read-only": Fault(read_only_folder, "file", "fail", "folder is read-only", "chmod u+w"),
    "what a migration left": Fault(
        on_sqlite("CREATE TABLE _alembic_tmp_sessions (a)"), "leftovers", "warn", "_alembic_tmp_sessions",
        FIX + "leftovers",
    ),
    "rows from the future": POSTGRESQL["rows from the future"],
    "expired rows": POSTGRESQL["expired rows"],
    "no retention": POSTGRESQL["no retention"],
    "a model without a price": POSTGRESQL["a model without a price"],
    "a price that came late": POSTGRESQL["a price that came late"],
    "rows of no session": Fault(
        orphaned_on_sqlite, "orphans", "fail", "history_entries, state_entries", FIX + "orphans"
    ),
    "entries nobody sees": Fault(
        unseen_on_sqlite, "positions", "warn", "behind their end", "statestore sweep --all-namespaces"
    ),
}  # fmt: skip
