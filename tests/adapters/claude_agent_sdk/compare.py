"""Beside the example of a store on PostgreSQL that comes with the SDK's sources; it has none for SQLite.

Both are measured on tables that were analyzed, as autovacuum does it in a database that has been up for a minute.
"""

import importlib
import itertools
import sys
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psycopg

from statestore.adapters.claude_agent_sdk import StatestoreSessionStore
from tests.adapters.claude_agent_sdk.transcripts import KEY, answer, line

_EXAMPLES = "build/suites/claude_agent_sdk/suite/examples/session_stores"
SESSIONS = 50

Operations = dict[str, Callable[[], Awaitable[Any]]]


@asynccontextmanager
async def ours(url: str) -> AsyncIterator[Operations]:
    async with StatestoreSessionStore(url) as store:
        yield await operations(store, url)


@asynccontextmanager
async def theirs(url: str) -> AsyncIterator[Operations]:
    if not url.startswith("postgresql"):
        yield {}
        return
    import asyncpg

    sys.path.append(str(Path(__file__).parents[3] / _EXAMPLES))
    module = importlib.import_module("postgres_session_store")
    async with asyncpg.create_pool("postgresql" + url[url.index("://") :], min_size=1, max_size=5) as pool:
        store = module.PostgresSessionStore(pool=pool)
        await store.create_schema()
        yield await operations(store, url)


async def operations(store: Any, url: str) -> Operations:
    for n in range(SESSIONS):
        key: Any = {**KEY, "session_id": f"s{n}"}
        await store.append(key, [line(str(uuid.uuid4())) for _ in range(20)])
        await store.append({**key, "subpath": "subagents/agent-1"}, [line(str(uuid.uuid4()))])
    if url.startswith("postgresql"):
        with psycopg.connect("postgresql" + url[url.index("://") :], autocommit=True) as connection:
            connection.execute("ANALYZE")
    turn: Any = {**KEY, "session_id": "s1"}
    part: Any = {**KEY, "session_id": "s1", "subpath": "subagents/agent-1"}
    read: Any = {**KEY, "session_id": "s0"}
    numbers = itertools.count()

    def lines(count: int) -> list[Any]:
        response = str(next(numbers))
        return [answer(str(uuid.uuid4()), response, (100, 10), cwd="/work/app") for _ in range(count)]

    async def begun() -> None:
        await store.append({**KEY, "project_key": "new", "session_id": str(uuid.uuid4())}, [line(str(uuid.uuid4()))])

    async def deleted() -> None:
        key: Any = {**KEY, "project_key": "gone", "session_id": "s"}
        await store.append(key, [line(str(uuid.uuid4()))])
        await store.delete(key)

    return {
        "append 1 line": lambda: store.append(turn, lines(1)),
        "append 20 lines": lambda: store.append(turn, lines(20)),
        "append 1 line of a sub-agent": lambda: store.append(part, lines(1)),
        "append the first line": begun,
        "load 20 lines": lambda: store.load(read),
        f"list {SESSIONS} sessions": lambda: store.list_sessions(KEY["project_key"]),
        "list sub-agents": lambda: store.list_subkeys(read),
        "append, then delete": deleted,
    }
