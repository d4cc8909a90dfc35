"""The raw drivers with one thing changed each: what `benchmarks.choices` compares."""

import sqlite3
from typing import Any

from benchmarks import data
from benchmarks.subjects import raw_sql
from benchmarks.subjects.base import Message
from benchmarks.subjects.raw_postgresql import RawPsycopg, append_sql
from benchmarks.subjects.raw_sql import NAMESPACE
from benchmarks.subjects.raw_sqlite import RawSqlite, path_of


class _Pragma(RawSqlite):
    pragma = ""

    def open(self, url: str) -> None:
        super().open(url)
        self.connection.execute(self.pragma).fetchall()


class PageCache64(_Pragma):
    pragma = "PRAGMA cache_size = -65536"


class Mmap256(_Pragma):
    pragma = "PRAGMA mmap_size = 268435456"


class RareCheckpoints(_Pragma):
    pragma = "PRAGMA wal_autocheckpoint = 10000"


class FrequentCheckpoints(_Pragma):
    pragma = "PRAGMA wal_autocheckpoint = 100"


class NoSecureDelete(_Pragma):
    pragma = "PRAGMA secure_delete = OFF"


class SynchronousNormal(_Pragma):
    pragma = "PRAGMA synchronous = NORMAL"


class NoStatementCache(RawSqlite):
    def open(self, url: str) -> None:
        super().open(url)
        self.connection.close()
        self.connection = sqlite3.connect(path_of(url), isolation_level=None, cached_statements=0)
        for pragma in raw_sql.PRAGMAS:
            self.connection.execute(pragma)


class PlansByStatistics(RawPsycopg):
    connect_options = ""


class BinaryResults(RawPsycopg):
    def read(self, session_id: str, last: int | None = None) -> Any:
        cursor = self.connection.cursor(binary=True)
        if last is None:
            cursor.execute(raw_sql.READ_ALL, (NAMESPACE, session_id), prepare=True)
        else:
            cursor.execute(raw_sql.READ_LAST, (last, NAMESPACE, session_id), prepare=True)
        return raw_sql.decoded(cursor.fetchall())

    def get(self, session_id: str, key: str) -> Any:
        cursor = self.connection.cursor(binary=True)
        cursor.execute(raw_sql.GET, (key, NAMESPACE, session_id), prepare=True)
        return raw_sql.value_of(cursor.fetchone())


class Unprepared(RawPsycopg):
    def append(self, session_id: str, messages: list[Message]) -> Any:
        parameters = raw_sql.append_parameters(session_id, messages)
        return self.connection.execute(append_sql(len(messages)), parameters, prepare=False).fetchall()

    def read(self, session_id: str, last: int | None = None) -> Any:
        cursor = self.connection.execute(raw_sql.READ_LAST, (last, NAMESPACE, session_id), prepare=False)
        return raw_sql.decoded(cursor.fetchall())

    def get(self, session_id: str, key: str) -> Any:
        cursor = self.connection.execute(raw_sql.GET, (key, NAMESPACE, session_id), prepare=False)
        return raw_sql.value_of(cursor.fetchone())


class InTransaction(RawPsycopg):
    """BEGIN and COMMIT around the one statement."""

    def append(self, session_id: str, messages: list[Message]) -> Any:
        with self.connection.transaction():
            return super().append(session_id, messages)

    def get(self, session_id: str, key: str) -> Any:
        with self.connection.transaction():
            return super().get(session_id, key)


class _Altered(RawPsycopg):
    """With other tables."""

    alterations: tuple[str, ...] = ()

    def open(self, url: str) -> None:
        super().open(url)
        for alteration in self.alterations:
            self.connection.execute(alteration)


class FullPages(_Altered):
    alterations = (
        "ALTER TABLE statestore.sessions SET (fillfactor = 100)",
        "VACUUM FULL statestore.sessions",
        "ANALYZE statestore.sessions",
    )


class ActivityIndexed(_Altered):
    alterations = ("CREATE INDEX ON statestore.sessions (namespace, last_activity_at)",)


class OneMoreIndexOnEntries(_Altered):
    alterations = ("CREATE INDEX ON statestore.history_entries (namespace, created_at)",)


class _Large(RawPsycopg):
    """Appends messages of 90 KB: a page of words, over and over with a number between, which compresses somewhat."""

    def append(self, session_id: str, messages: list[Message]) -> Any:
        pages = [f"{number} {data.message(number)['content']}" for number in range(90)]
        return super().append(session_id, [{**message, "content": "\n".join(pages)} for message in messages])


class LargeLz4(_Large):
    """Fails to open on a server that was built without lz4."""

    def open(self, url: str) -> None:
        super().open(url)
        self.connection.execute("ALTER TABLE statestore.history_entries ALTER COLUMN content SET COMPRESSION lz4")


class LargePglz(_Large):
    def open(self, url: str) -> None:
        super().open(url)
        self.connection.execute("ALTER TABLE statestore.history_entries ALTER COLUMN content SET COMPRESSION pglz")
