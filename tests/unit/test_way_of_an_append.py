"""The files that an append goes through, from `store.history.append` to the driver: few, so that one can follow it.

Called, it goes through nine, with `operations/history.py`, which declares it: nobody else appends, but `ThreadBatches`
has to say so. Inside a transaction it goes through seven of them. Awaited, several at once go through all twelve.
"""

import asyncio
import sqlite3
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import statestore
from statestore import AsyncStateStore, NewEntry, StateStore

PACKAGE = Path(statestore.__file__).parent

# Beside the file that declares it. CONTRIBUTING.md names them all.
COMMON = {
    "operations/base.py",
    "engine/database.py",
    "engine/execution.py",
    "engine/calls.py",
    "repositories/history/repository.py",
    "repositories/history/appending.py",
    "engine/sql.py",
}
BATCHES = {"engine/batching.py", "repositories/history/append_batches.py"}
AWAITED = {"engine/threaded_database.py", "engine/workers.py"}
# Who begins the transaction is on no way of an append within it.
EDGES = {"store.py", "async_store.py"}
ENTRY = [NewEntry({"text": "hi"}, role="user")]


def test_an_append_goes_through_nine_files(database_url: str) -> None:
    with StateStore.open(database_url) as store:
        store.sessions.create("a")
        store.history.append("a", ENTRY)
        with watched() as called:
            store.history.append("a", ENTRY)
        with watched() as inside, store.transaction() as tx:
            tx.history.append("a", ENTRY)
    # `append_batches.py` has said what the append is about, and returned.
    assert called == COMMON | {"engine/batching.py"}
    # `database.py` begins the transaction, and ends it.
    assert inside - EDGES - {"engine/database.py"} == COMMON - {"engine/database.py"}


def test_all_ways_of_an_append_go_through_twelve_files(database_url: str) -> None:
    with watched() as found:
        asyncio.run(appends(database_url, found))
    assert found - EDGES == COMMON | BATCHES | AWAITED
    assert len(found - EDGES) + 1 == 12


async def appends(url: str, found: set[str]) -> None:
    """One alone, several at once, and one in a transaction."""
    # With one connection none is made while somebody looks.
    async with AsyncStateStore.open(url, pool_size=1) as store:
        for name in "abc":
            await store.sessions.create(name)
        await store.history.append("a", ENTRY)
        found.clear()
        await store.history.append("a", ENTRY)
        await asyncio.gather(*(store.history.append(name, ENTRY) for name in "abc"))
        async with store.transaction() as tx:
            await tx.history.append("a", ENTRY)
        way = set(found)
    found.clear()
    found |= way


@contextmanager
def watched() -> Iterator[set[str]]:
    """The files of the package that are under way when a driver executes, or a task hands its call to a thread."""
    found: set[str] = set()
    on = True

    def look(frame: FrameType, event: str, argument: Any) -> None:
        if on and (hands_over(frame) if event == "call" else event == "c_call" and executes(argument)):
            at: FrameType | None = frame
            while at is not None:
                path = Path(at.f_code.co_filename)
                if path.is_relative_to(PACKAGE):
                    found.add(str(path.relative_to(PACKAGE)))
                at = at.f_back

    sys.setprofile(look)
    threading.setprofile(look)
    try:
        yield found
    finally:
        on = False  # Threads keep what they were started with.
        sys.setprofile(None)
        threading.setprofile(None)


def executes(function: Any) -> bool:
    return isinstance(getattr(function, "__self__", None), sqlite3.Cursor) and function.__name__.startswith("execute")


def hands_over(frame: FrameType) -> bool:
    code = frame.f_code
    if code.co_name == "execute":
        return "psycopg" in code.co_filename
    return code.co_name == "_enqueue" and code.co_filename.startswith(str(PACKAGE))
