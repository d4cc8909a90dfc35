"""Clones of a template database, handed from one test to the next while nothing but their rows changes.

Making and dropping a database takes 25 ms of CPU, emptying one takes two. It is emptied if that certainly makes it
equal to its template, and dropped otherwise. PostgreSQL counts what is written to each table, its catalogs included,
and a connection's counts are added up before it disappears from `pg_stat_activity`. So once nobody is connected, the
counts tell whether a test changed more than rows: the schema, a privilege, the statistics of the planner.
"""

import re
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import psycopg

from tests.postgres import PostgresServer

# A database that took more rows is dropped: deleted rows stay in its tables, and scans have to pass them over.
MOST_ROWS = 1000

# Seconds that the backends of closed connections have to end.
PATIENCE = 0.1

# A test whose file has any of these gets a database that nobody has used. It looks at plans, statistics, locks or
# connections, which show that others were there before, or it kills processes, and these may still be connecting.
LOOKING = re.compile(r"pg_stat|pg_locks|pg_class|pg_terminate|EXPLAIN|ANALYZE|VACUUM|explain\(|doctor|SIGKILL|\.kill\(")

CONNECTED = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"

# Whether more than rows was changed, and how many rows were written since the database was made.
CHANGES = """
SELECT EXISTS (SELECT FROM pg_db_role_setting WHERE setdatabase = d.oid)
       OR EXISTS (SELECT FROM pg_prepared_xacts WHERE database = d.datname)
       OR EXISTS (SELECT FROM pg_replication_slots WHERE database = d.datname)
       OR d.xmin::text <> %(made_by)s
       OR c.vacuumed > 0
       OR c.kept > 0
     , c.emptied
  FROM pg_database AS d
     , (SELECT sum(pg_stat_get_vacuum_count(oid) + pg_stat_get_autovacuum_count(oid)
                   + pg_stat_get_analyze_count(oid) + pg_stat_get_autoanalyze_count(oid)) AS vacuumed
             , sum(written) FILTER (WHERE is_kept) AS kept
             , sum(written) FILTER (WHERE NOT is_kept) AS emptied
          FROM (SELECT oid
                     , oid < 16384 OR oid = ANY (%(filled)s::oid[]) AS is_kept
                     , pg_stat_get_tuples_inserted(oid) + pg_stat_get_tuples_updated(oid)
                       + pg_stat_get_tuples_deleted(oid) AS written
                  FROM pg_class
                 WHERE relkind IN ('r', 'm', 't') AND NOT relisshared) AS r) AS c
 WHERE d.datname = current_database()"""

TABLES = """
SELECT oid, oid::regclass::text, format('EXISTS (SELECT FROM %s)', oid::regclass)
  FROM pg_class WHERE relkind = 'r' AND oid >= 16384 ORDER BY pg_class.oid"""


@cache
def is_looking(path: Path) -> bool:
    """Whether the tests in a file get databases that nobody has used."""
    return LOOKING.search(path.read_text()) is not None


class Clones:
    """Databases cloned from *template*, which nobody changes any more."""

    def __init__(self, server: PostgresServer, template: str) -> None:
        self._server = server
        self._template = template
        self._ready: list[_Clone] = []
        self._filled: list[int] = []
        self._empty: list[str] = []
        with psycopg.connect(server.url(template)) as connection:
            for oid, name, filled in connection.execute(TABLES).fetchall():
                [(is_filled,)] = connection.execute(f"SELECT {filled}").fetchall()
                if is_filled:
                    self._filled.append(oid)
                else:
                    self._empty.append(name)

    @contextmanager
    def database(self) -> Iterator[str]:
        """The name of a database that is equal to the template, for as long as the block lasts."""
        clone = self._ready.pop() if self._ready else _Clone(self._server, self._template)
        before = set(threading.enumerate())
        try:
            yield clone.name
        finally:
            left = {thread.name for thread in set(threading.enumerate()) - before}
            if "statestore-connecting" not in left and clone.empty(self._empty, self._filled):
                self._ready.append(clone)
            else:
                clone.drop()

    def close(self) -> None:
        while self._ready:
            self._ready.pop().drop()


class _Clone:
    """A database, and a connection to it that stays, but for tests that look at connections."""

    def __init__(self, server: PostgresServer, template: str) -> None:
        self._server = server
        self.name = f"statestore_{secrets.token_hex(6)}"
        server.create_database(self.name, template)
        try:
            self._connection = psycopg.connect(server.url(self.name), autocommit=True, prepare_threshold=0)
            # Neither triggers nor foreign keys have a part in emptying tables.
            self._connection.execute("SET session_replication_role = replica")
            self._made_by = self._rows("SELECT xmin::text FROM pg_database WHERE datname = current_database()")[0][0]
        except BaseException:
            server.drop_database(self.name)
            raise

    def empty(self, empty: list[str], filled: list[int]) -> bool:
        """Delete all rows of the tables that are *empty* in the template; False if that does not make it equal."""
        try:
            until = time.monotonic() + PATIENCE
            while self._rows(CONNECTED):
                if time.monotonic() > until:
                    return False
                time.sleep(0.002)
            [(is_changed, written)] = self._rows(CHANGES, made_by=self._made_by, filled=filled)
            if is_changed or written > MOST_ROWS:
                return False
            holding = self._rows("SELECT " + ", ".join(f"EXISTS (SELECT FROM {table})" for table in empty))[0]
            if any(holding):
                deletes = (f"DELETE FROM {table}" for table, holds in zip(empty, holding, strict=True) if holds)
                self._connection.execute("; ".join(deletes), prepare=False)  # type: ignore[arg-type]
        except psycopg.Error:
            return False
        return True

    def drop(self) -> None:
        self._connection.close()
        self._server.drop_database(self.name)

    def _rows(self, statement: str, **params: Any) -> list[tuple[Any, ...]]:
        return self._connection.execute(statement, params or None).fetchall()  # type: ignore[arg-type]
