"""Raw sqlite3 and raw aiosqlite: one connection, BEGIN IMMEDIATE … COMMIT around each write."""

import asyncio
import json
import sqlite3
import threading
from collections.abc import Sequence
from typing import Any

import aiosqlite
import orjson

from benchmarks.subjects import raw_sql
from benchmarks.subjects.base import Message, SeededSubject
from benchmarks.subjects.raw_sql import NAMESPACE


def path_of(url: str) -> str:
    return url.removeprefix("sqlite:///")


class RawSqlite(SeededSubject):
    """Concurrent writers take turns on a lock: better for them than SQLite's busy handler, which polls."""

    def open(self, url: str) -> None:
        self.url = url
        self.writer = threading.Lock()
        self.others: list[RawSqlite] = []
        self.connection = sqlite3.connect(path_of(url), isolation_level=None, check_same_thread=False)
        for pragma in raw_sql.PRAGMAS:
            self.connection.execute(pragma)

    def close(self) -> None:
        self.connection.close()
        for other in self.others:
            other.close()

    def callers(self, count: int) -> Sequence["RawSqlite"]:
        while len(self.others) < count:
            other = type(self)()
            other.open(self.url)
            other.writer = self.writer
            self.others.append(other)
        return self.others[:count]

    def create(self, session_id: str) -> Any:
        now = raw_sql.now_text()
        with self.writer:
            return self.connection.execute(
                raw_sql.SQLITE_CREATE, (NAMESPACE, session_id, session_id, now, now, raw_sql.hour_of(now))
            ).fetchone()

    def append(self, session_id: str, messages: list[Message]) -> Any:
        rows, turns = raw_sql.prepared(messages)
        now = raw_sql.now_text()
        execute = self.connection.execute
        with self.writer:
            execute("BEGIN IMMEDIATE")
            try:
                parameters = raw_sql.advance_parameters(session_id, len(rows), turns, now)
                head = execute(raw_sql.SQLITE_ADVANCE, parameters).fetchone()
                stored = raw_sql.insert_rows(session_id, rows, head, now)
                if len(stored) == 1:
                    execute(raw_sql.SQLITE_INSERT, stored[0])
                else:
                    self.connection.executemany(raw_sql.SQLITE_INSERT, stored)
                execute("COMMIT")
            except BaseException:
                execute("ROLLBACK")
                raise
        return [(row[2], row[4], now) for row in stored]

    def read(self, session_id: str, last: int | None = None) -> Any:
        now = raw_sql.now_text()
        if last is None:
            cursor = self.connection.execute(raw_sql.SQLITE_READ_ALL, (NAMESPACE, session_id, now))
        else:
            cursor = self.connection.execute(raw_sql.SQLITE_READ_LAST, (last, NAMESPACE, session_id, now))
        return raw_sql.decoded(cursor.fetchall())

    def messages(self, session_id: str, last: int) -> Any:
        cursor = self.connection.execute(raw_sql.SQLITE_CONTENTS, (NAMESPACE, session_id, last))
        return raw_sql.contents(cursor.fetchall())

    def select_contents(self, session_id: str, last: int) -> Any:
        cursor = self.connection.execute(raw_sql.SQLITE_CONTENTS, (NAMESPACE, session_id, last))
        return [json.loads(content) for (content,) in reversed(cursor.fetchall())]

    def get(self, session_id: str, key: str) -> Any:
        now = raw_sql.now_text()
        cursor = self.connection.execute(raw_sql.SQLITE_GET, (key, now, NAMESPACE, session_id, now))
        return raw_sql.value_of(cursor.fetchone())

    def set(self, session_id: str, key: str, value: Any) -> Any:
        text = orjson.dumps(value).decode()
        now = raw_sql.now_text()
        execute = self.connection.execute
        with self.writer:
            execute("BEGIN IMMEDIATE")
            try:
                if execute(raw_sql.SQLITE_ACTIVE, raw_sql.active_parameters(session_id, now)).rowcount != 1:
                    raise LookupError("no such session")
                version = execute(raw_sql.SQLITE_SET, (NAMESPACE, session_id, key, text, now)).fetchone()
                execute("COMMIT")
            except BaseException:
                execute("ROLLBACK")
                raise
        return version

    def cache_get(self, key: str) -> Any:
        cursor = self.connection.execute(raw_sql.SQLITE_CACHE_GET, (NAMESPACE, key, raw_sql.now_text()))
        return raw_sql.value_of(cursor.fetchone())

    def cache_set(self, key: str, value: Any) -> Any:
        parameters = raw_sql.sqlite_cache_parameters(key, value)
        with self.writer:
            self.connection.execute(raw_sql.SQLITE_CACHE_SET, parameters)


class RawAiosqlite(SeededSubject):
    """Concurrent tasks take turns on one connection: nobody may read, or write, in another's transaction.

    A connection, and with it a thread, for each task is slower: they poll for SQLite's only writer.
    """

    asynchronous = True
    connection: aiosqlite.Connection

    async def open(self, url: str) -> None:
        self.turn = asyncio.Lock()
        self.connection = await aiosqlite.connect(path_of(url), isolation_level=None)
        for pragma in raw_sql.PRAGMAS:
            await self.connection.execute(pragma)

    async def close(self) -> None:
        await self.connection.close()

    async def create(self, session_id: str) -> Any:
        now = raw_sql.now_text()
        async with self.turn:
            return await self.connection.execute_fetchall(
                raw_sql.SQLITE_CREATE, (NAMESPACE, session_id, session_id, now, now, raw_sql.hour_of(now))
            )

    async def append(self, session_id: str, messages: list[Message]) -> Any:
        rows, turns = raw_sql.prepared(messages)
        now = raw_sql.now_text()
        connection = self.connection
        async with self.turn:
            await connection.execute("BEGIN IMMEDIATE")
            try:
                parameters = raw_sql.advance_parameters(session_id, len(rows), turns, now)
                [head] = await connection.execute_fetchall(raw_sql.SQLITE_ADVANCE, parameters)
                stored = raw_sql.insert_rows(session_id, rows, head, now)
                if len(stored) == 1:
                    await connection.execute(raw_sql.SQLITE_INSERT, stored[0])
                else:
                    await connection.executemany(raw_sql.SQLITE_INSERT, stored)
                await connection.execute("COMMIT")
            except BaseException:
                await connection.execute("ROLLBACK")
                raise
        return [(row[2], row[4], now) for row in stored]

    async def read(self, session_id: str, last: int | None = None) -> Any:
        now = raw_sql.now_text()
        if last is None:
            sql, parameters = raw_sql.SQLITE_READ_ALL, (NAMESPACE, session_id, now)
        else:
            sql, parameters = raw_sql.SQLITE_READ_LAST, (last, NAMESPACE, session_id, now)
        async with self.turn:
            rows = await self.connection.execute_fetchall(sql, parameters)
        return raw_sql.decoded(list(rows))

    async def messages(self, session_id: str, last: int) -> Any:
        async with self.turn:
            rows = await self.connection.execute_fetchall(raw_sql.SQLITE_CONTENTS, (NAMESPACE, session_id, last))
        return raw_sql.contents(list(rows))

    async def select_contents(self, session_id: str, last: int) -> Any:
        async with self.turn:
            rows = await self.connection.execute_fetchall(raw_sql.SQLITE_CONTENTS, (NAMESPACE, session_id, last))
        return [json.loads(content) for (content,) in reversed(list(rows))]

    async def get(self, session_id: str, key: str) -> Any:
        now = raw_sql.now_text()
        async with self.turn:
            rows = list(
                await self.connection.execute_fetchall(raw_sql.SQLITE_GET, (key, now, NAMESPACE, session_id, now))
            )
        return raw_sql.value_of(rows[0] if rows else None)

    async def set(self, session_id: str, key: str, value: Any) -> Any:
        text = orjson.dumps(value).decode()
        now = raw_sql.now_text()
        connection = self.connection
        async with self.turn:
            await connection.execute("BEGIN IMMEDIATE")
            try:
                cursor = await connection.execute(raw_sql.SQLITE_ACTIVE, raw_sql.active_parameters(session_id, now))
                if cursor.rowcount != 1:
                    raise LookupError("no such session")
                version = await connection.execute_fetchall(raw_sql.SQLITE_SET, (NAMESPACE, session_id, key, text, now))
                await connection.execute("COMMIT")
            except BaseException:
                await connection.execute("ROLLBACK")
                raise
        return version

    async def cache_get(self, key: str) -> Any:
        async with self.turn:
            rows = list(
                await self.connection.execute_fetchall(raw_sql.SQLITE_CACHE_GET, (NAMESPACE, key, raw_sql.now_text()))
            )
        return raw_sql.value_of(rows[0] if rows else None)

    async def cache_set(self, key: str, value: Any) -> Any:
        parameters = raw_sql.sqlite_cache_parameters(key, value)
        async with self.turn:
            await self.connection.execute(raw_sql.SQLITE_CACHE_SET, parameters)
