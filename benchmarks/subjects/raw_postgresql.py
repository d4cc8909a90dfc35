"""Raw psycopg, sync and async: one connection in autocommit, prepared statements, one statement per operation.

PostgreSQL is told to keep the plans of prepared statements. Left to itself it finds, by these tables' statistics, that
planning each read anew would be cheaper, and it is not: reading 20 entries then takes twice as long.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any

import orjson
import psycopg

from benchmarks.subjects import raw_sql
from benchmarks.subjects.base import Message, SeededSubject
from benchmarks.subjects.raw_sql import NAMESPACE

KEEP_PLANS = "-c plan_cache_mode=force_generic_plan"
append_sql = cache(raw_sql.append_statement)


class RawPsycopg(SeededSubject):
    connection: psycopg.Connection[Any]
    connect_options = KEEP_PLANS

    def open(self, url: str) -> None:
        self.url = url
        self.others: list[RawPsycopg] = []
        self.connection = psycopg.connect(url, autocommit=True, options=self.connect_options)

    def close(self) -> None:
        self.connection.close()
        for other in self.others:
            other.close()

    def callers(self, count: int) -> Sequence["RawPsycopg"]:
        """A connection for each, which is the best that a driver without a pool can do."""
        while len(self.others) < count:
            other = RawPsycopg()
            other.open(self.url)
            self.others.append(other)
        return self.others[:count]

    def create(self, session_id: str) -> Any:
        cursor = self.connection.execute(raw_sql.CREATE, (NAMESPACE, session_id, session_id), prepare=True)
        return cursor.fetchone()

    def append(self, session_id: str, messages: list[Message]) -> Any:
        parameters = raw_sql.append_parameters(session_id, messages)
        cursor = self.connection.execute(append_sql(len(messages)), parameters, prepare=True)
        return cursor.fetchall()

    def read(self, session_id: str, last: int | None = None) -> Any:
        if last is None:
            cursor = self.connection.execute(raw_sql.READ_ALL, (NAMESPACE, session_id), prepare=True)
        else:
            cursor = self.connection.execute(raw_sql.READ_LAST, (last, NAMESPACE, session_id), prepare=True)
        return raw_sql.decoded(cursor.fetchall())

    def messages(self, session_id: str, last: int) -> Any:
        cursor = self.connection.execute(raw_sql.CONTENTS, (NAMESPACE, session_id, last), prepare=True)
        return raw_sql.contents(cursor.fetchall())

    def select_contents(self, session_id: str, last: int) -> Any:
        cursor = self.connection.execute(raw_sql.SELECT_CONTENT, (NAMESPACE, session_id, last), prepare=True)
        return [content for (content,) in reversed(cursor.fetchall())]

    def get(self, session_id: str, key: str) -> Any:
        cursor = self.connection.execute(raw_sql.GET, (key, NAMESPACE, session_id), prepare=True)
        return raw_sql.value_of(cursor.fetchone())

    def set(self, session_id: str, key: str, value: Any) -> Any:
        text = orjson.dumps(value).decode()
        cursor = self.connection.execute(raw_sql.SET, (NAMESPACE, session_id, NAMESPACE, key, text), prepare=True)
        return cursor.fetchone()

    def cache_get(self, key: str) -> Any:
        cursor = self.connection.execute(raw_sql.CACHE_GET, (NAMESPACE, key), prepare=True)
        return raw_sql.value_of(cursor.fetchone())

    def cache_set(self, key: str, value: Any) -> Any:
        parameters = raw_sql.cache_parameters(key, value)
        return self.connection.execute(raw_sql.CACHE_SET, parameters, prepare=True).fetchone()


class RawAsyncPsycopg(SeededSubject):
    asynchronous = True
    connection: psycopg.AsyncConnection[Any]

    async def open(self, url: str) -> None:
        self.url = url
        self.others: list[RawAsyncPsycopg] = []
        self.connection = await psycopg.AsyncConnection.connect(url, autocommit=True, options=KEEP_PLANS)

    async def close(self) -> None:
        await self.connection.close()
        for other in self.others:
            await other.close()

    async def callers(self, count: int) -> Sequence["RawAsyncPsycopg"]:
        while len(self.others) < count:
            other = RawAsyncPsycopg()
            await other.open(self.url)
            self.others.append(other)
        return self.others[:count]

    async def create(self, session_id: str) -> Any:
        cursor = await self.connection.execute(raw_sql.CREATE, (NAMESPACE, session_id, session_id), prepare=True)
        return await cursor.fetchone()

    async def append(self, session_id: str, messages: list[Message]) -> Any:
        parameters = raw_sql.append_parameters(session_id, messages)
        cursor = await self.connection.execute(append_sql(len(messages)), parameters, prepare=True)
        return await cursor.fetchall()

    async def read(self, session_id: str, last: int | None = None) -> Any:
        if last is None:
            cursor = await self.connection.execute(raw_sql.READ_ALL, (NAMESPACE, session_id), prepare=True)
        else:
            cursor = await self.connection.execute(raw_sql.READ_LAST, (last, NAMESPACE, session_id), prepare=True)
        return raw_sql.decoded(await cursor.fetchall())

    async def messages(self, session_id: str, last: int) -> Any:
        cursor = await self.connection.execute(raw_sql.CONTENTS, (NAMESPACE, session_id, last), prepare=True)
        return raw_sql.contents(await cursor.fetchall())

    async def select_contents(self, session_id: str, last: int) -> Any:
        cursor = await self.connection.execute(raw_sql.SELECT_CONTENT, (NAMESPACE, session_id, last), prepare=True)
        return [content for (content,) in reversed(await cursor.fetchall())]

    async def get(self, session_id: str, key: str) -> Any:
        cursor = await self.connection.execute(raw_sql.GET, (key, NAMESPACE, session_id), prepare=True)
        return raw_sql.value_of(await cursor.fetchone())

    async def set(self, session_id: str, key: str, value: Any) -> Any:
        text = orjson.dumps(value).decode()
        cursor = await self.connection.execute(raw_sql.SET, (NAMESPACE, session_id, NAMESPACE, key, text), prepare=True)
        return await cursor.fetchone()

    async def cache_get(self, key: str) -> Any:
        cursor = await self.connection.execute(raw_sql.CACHE_GET, (NAMESPACE, key), prepare=True)
        return raw_sql.value_of(await cursor.fetchone())

    async def cache_set(self, key: str, value: Any) -> Any:
        parameters = raw_sql.cache_parameters(key, value)
        cursor = await self.connection.execute(raw_sql.CACHE_SET, parameters, prepare=True)
        return await cursor.fetchone()
