"""Checkpoints and items beside langgraph's own savers and stores on PostgreSQL and SQLite."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import count
from typing import Any

from langchain_core.messages import AIMessage, HumanMessage
from langgraph.checkpoint.base.id import uuid6

from statestore import LazyStore
from statestore.adapters.langgraph import StatestoreSaver, StatestoreStore

STEPS = 20
MESSAGES = [kind(content="Is Saturday good for a walk? " * 8, id=str(n)) for n, kind in enumerate([HumanMessage] * 20)]
ANSWER = AIMessage(content="In the morning, yes.", id="answer")

Operations = dict[str, Callable[[], Any]]


@asynccontextmanager
async def ours(url: str) -> AsyncIterator[Operations]:
    lazy = LazyStore(url)
    saver, items = StatestoreSaver(lazy), StatestoreStore(lazy)
    yield await operations(saver, items)
    await lazy.aclose()


@asynccontextmanager
async def theirs(url: str) -> AsyncIterator[Operations]:
    async with AsyncExitStack() as stack:
        if url.startswith("postgresql"):
            from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
            from langgraph.store.postgres.aio import AsyncPostgresStore

            plain = url.replace("postgresql+psycopg://", "postgresql://")
            saver: Any = await stack.enter_async_context(AsyncPostgresSaver.from_conn_string(plain))
            items: Any = await stack.enter_async_context(AsyncPostgresStore.from_conn_string(plain))
        else:
            from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
            from langgraph.store.sqlite.aio import AsyncSqliteStore

            path = url.removeprefix("sqlite:///")
            saver = await stack.enter_async_context(AsyncSqliteSaver.from_conn_string(path))
            items = await stack.enter_async_context(AsyncSqliteStore.from_conn_string(path))
        await saver.setup()
        await items.setup()
        yield await operations(saver, items)


async def operations(saver: Any, items: Any) -> Operations:
    """On a thread of 20 steps, whose messages have grown to 20 and whose documents (100 KB) have not changed."""
    documents = ["The path along the shore is dry. " * 100] * 30
    numbers = count()
    latest: dict[str, Any] = {"configurable": {"thread_id": "t", "checkpoint_ns": ""}}
    versions: dict[str, str] = {}

    def checkpoint(messages: list[Any], *changed: str) -> tuple[dict[str, Any], dict[str, str]]:
        new = {channel: saver.get_next_version(versions.get(channel), None) for channel in changed}
        versions.update(new)
        made = {
            "v": 4,
            "id": str(uuid6(clock_seq=-1)),
            "ts": "2026-01-01T00:00:00+00:00",
            "channel_values": {"messages": messages, "documents": documents, "branch:to:agent": None},
            "channel_versions": dict(versions),
            "versions_seen": {"agent": dict(versions)},
            "updated_channels": list(changed),
        }
        return made, new

    async def put(messages: list[Any], *changed: str) -> None:
        made, new = checkpoint(messages, *changed)
        latest.update(await saver.aput(latest, made, {"source": "loop", "step": next(numbers), "parents": {}}, new))

    await put(MESSAGES[:1], "documents", "messages", "branch:to:agent")
    for step in range(STEPS - 1):
        await put(MESSAGES[: step + 2], "messages", "branch:to:agent")
        await saver.aput_writes(latest, [("messages", ANSWER), ("branch:to:tools", None)], f"task-{step}")
    for n in range(30):
        await items.aput(("memories", "ada"), f"{n:02}", {"n": n, "text": "Likes the shore path."})
    one, thread = {**latest}, {"configurable": {"thread_id": "t", "checkpoint_ns": ""}}

    async def listed() -> list[Any]:
        return [found async for found in saver.alist(thread, limit=5)]

    return {
        "put": lambda: put(MESSAGES, "messages", "branch:to:agent"),
        "put_writes": lambda: saver.aput_writes(
            one, [("messages", ANSWER), ("branch:to:tools", None)], f"task-{next(numbers)}"
        ),
        "get_tuple, latest": lambda: saver.aget_tuple(thread),
        "get_tuple, by id": lambda: saver.aget_tuple(one),
        "list of 5": listed,
        "store put": lambda: items.aput(("memories", "ada"), "07", {"n": 7, "text": "Likes rain."}),
        "store get": lambda: items.aget(("memories", "ada"), "07"),
        "store search": lambda: items.asearch(("memories",), filter={"n": 7}),
        "store namespaces": lambda: items.alist_namespaces(prefix=("memories",)),
    }
