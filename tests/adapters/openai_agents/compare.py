"""Our sessions beside the SDK's: SQLAlchemySession on both databases, AdvancedSQLiteSession for branches on SQLite."""

import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from agents.extensions.memory import AdvancedSQLiteSession, SQLAlchemySession
from sqlalchemy.ext.asyncio import create_async_engine

from statestore import LazyStore
from statestore.adapters.openai_agents import AdvancedStatestoreSession, StatestoreSession
from tests.adapters.openai_agents.support import requests, result, turns

HISTORY = turns(*(f"question {n} {'x' * 400}" for n in range(50)))
ONE_TURN = turns("and now?")


async def operations(make: Callable[[str], Any]) -> dict[str, Callable[[], Any]]:
    """What a run asks of a session: before it, after it, and when it is retried."""
    session, popped = make("kept"), make("popped")
    await session.add_items(HISTORY)
    await popped.add_items(HISTORY * 2)
    numbers = itertools.count()

    async def clear() -> None:
        new = make(f"new {next(numbers)}")
        await new.add_items(ONE_TURN)
        await new.clear_session()

    async def turn() -> None:
        await session.get_items(20)
        await session.add_items(ONE_TURN)

    return {
        "get_items, 20 of 100": lambda: session.get_items(20),
        "get_items, 100": lambda: session.get_items(100),
        "add_items, 2": lambda: session.add_items(ONE_TURN),
        "add_items, new session, clear_session": clear,
        "pop_item": popped.pop_item,
        "a turn: get_items, add_items": turn,
    }


async def branching(make: Callable[[str], Any]) -> dict[str, Callable[[], Any]]:
    session = make("branches")
    await session.add_items(HISTORY)
    used = itertools.count(1)

    async def branch() -> None:
        await session.switch_to_branch("main")
        name = await session.create_branch_from_turn(40)
        await session.add_items(ONE_TURN)
        await session.delete_branch(name, force=True)

    async def usage() -> None:
        await session.store_run_usage(result(requests((next(used), 1))))

    return {
        "branch, add_items, delete_branch": branch,
        "store_run_usage": usage,
        "get_conversation_turns, 50": session.get_conversation_turns,
        "get_turn_usage": lambda: session.get_turn_usage(50),
        "list_branches": session.list_branches,
    }


@asynccontextmanager
async def ours(url: str) -> AsyncIterator[dict[str, Callable[[], Any]]]:
    store = LazyStore(url)
    made = await operations(lambda session_id: StatestoreSession(session_id, store))
    yield made | await branching(lambda session_id: AdvancedStatestoreSession(session_id, store))
    await store.aclose()


@asynccontextmanager
async def theirs(url: str) -> AsyncIterator[dict[str, Callable[[], Any]]]:
    sqlite = url.startswith("sqlite")
    drivers = {"sqlite:": "sqlite+aiosqlite:", "postgresql:": "postgresql+asyncpg:"}
    scheme, _, rest = url.partition(":")
    engine = create_async_engine(drivers[f"{scheme}:"] + rest)
    first = SQLAlchemySession("first", engine=engine, create_tables=True)
    await first.add_items(ONE_TURN)
    made = await operations(lambda session_id: SQLAlchemySession(session_id, engine=engine))
    if sqlite:
        path = url.removeprefix("sqlite:///") + ".branches"
        made |= await branching(
            lambda session_id: AdvancedSQLiteSession(session_id=session_id, db_path=path, create_tables=True)
        )
    yield made
    await engine.dispose()
