"""Ends of tasks: a cancellation, a deadline or a shutdown is over at once, and leaves the store as it was."""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest

import statestore
from statestore import AsyncStateStore, NewEntry, StoreClosedError, UnavailableError
from tests.support.engines import async_engine
from tests.support.wire import Proxy

# Seconds. A hang is noticed after these; what ends at all ends well before.
AMPLE = 25

Work = Callable[[AsyncStateStore], Awaitable[Any]]

WORKS: dict[str, Work] = {
    "append": lambda store: store.history.append("s", [NewEntry("x")]),
    "read": lambda store: store.history.read("s", last=3),
    "set": lambda store: store.state.set("s", "k", 1),
    "fork": lambda store: store.sessions.fork("s"),
}


async def opened(url: str, world: str) -> AsyncStateStore:
    if world == "async":
        return await AsyncStateStore.open(url, timeout=AMPLE * 4)
    return AsyncStateStore(async_engine(url), timeout=AMPLE * 4)


async def closed(store: AsyncStateStore) -> None:
    engine = getattr(store._database, "engine", None)
    await store.close()
    if engine is not None:
        with suppress(Exception):
            await asyncio.wait_for(engine.dispose(), 5)


@pytest.mark.parametrize("world", ["async", "engine"])
@pytest.mark.parametrize("name", WORKS)
@pytest.mark.parametrize("end", ["deadline", "timeout", "cancel"])
def test_an_await_behind_a_dead_network_can_be_ended(proxy: Proxy, world: str, name: str, end: str) -> None:
    async def main() -> None:
        store = await opened(proxy.url, world)
        await store.sessions.create("s")
        proxy.swallow()
        if end == "deadline":
            with statestore.deadline(0.3), pytest.raises(statestore.DatabaseError):
                await asyncio.wait_for(WORKS[name](store), AMPLE)
        elif end == "timeout":
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.3):
                    await WORKS[name](store)
        else:
            tasks = [asyncio.ensure_future(WORKS[name](store)) for _ in range(5)]
            await asyncio.sleep(0.1)
            for task in tasks:
                task.cancel()
            done, _ = await asyncio.wait(tasks, timeout=AMPLE)
            assert done == set(tasks)
            assert all(task.cancelled() for task in tasks)
        proxy.recover()
        await asyncio.wait_for(WORKS[name](store), AMPLE)
        await closed(store)

    asyncio.run(asyncio.wait_for(main(), 4 * AMPLE))


@pytest.mark.parametrize("world", ["async", "engine"])
def test_a_store_is_usable_after_all_tasks_were_cancelled(database_url: str, world: str) -> None:
    async def main() -> None:
        store = await opened(database_url, world)
        await store.sessions.create("s")
        for steps in range(40):
            tasks = [asyncio.ensure_future(store.history.append("s", [NewEntry([steps, n])])) for n in range(8)]
            for _ in range(steps % 10):
                await asyncio.sleep(0 if world == "async" else 0.0005)
            # As an application does that shuts down: it finds the tasks of the store as well.
            for task in asyncio.all_tasks() - {asyncio.current_task()}:
                task.cancel()
            done, _ = await asyncio.wait(tasks, timeout=AMPLE)
            assert done == set(tasks)
            await asyncio.wait_for(store.history.append("s", [NewEntry("after")]), AMPLE)
        if world == "engine":
            # What was under way comes to its end; no connection is left for the garbage collector to find.
            async with asyncio.timeout(AMPLE):
                while store._database.engine.pool.checkedout():
                    await asyncio.sleep(0.01)
        entries = await store.history.read("s")
        assert sum(entry.content == "after" for entry in entries) == 40
        assert [entry.seq for entry in entries] == list(range(1, len(entries) + 1))
        await closed(store)

    asyncio.run(main())


@pytest.mark.parametrize("world", ["async", "engine"])
def test_a_transaction_that_waits_for_the_writer_can_be_ended(sqlite_url: str, world: str) -> None:
    async def main() -> None:
        holder, store = await opened(sqlite_url, "async"), await opened(sqlite_url, world)
        await holder.sessions.create("s")
        async with holder.transaction() as tx:
            await tx.state.set("s", "k", 1)
            with statestore.deadline(0.3), pytest.raises(UnavailableError):
                await store.state.set("s", "k", 2)
            waiting = asyncio.ensure_future(store.transaction().__aenter__())
            await asyncio.sleep(0.1)
            waiting.cancel()
            done, _ = await asyncio.wait([waiting], timeout=AMPLE)
            assert done
            assert waiting.cancelled()
        await asyncio.wait_for(store.state.set("s", "k", 3), AMPLE)
        assert await holder.state.get("s", "k") == 3
        await closed(store)
        await holder.close()

    asyncio.run(asyncio.wait_for(main(), 4 * AMPLE))


def test_reads_do_not_wait_for_a_write_that_waits_for_another_process(sqlite_url: str) -> None:
    async def main() -> None:
        holder, store = await opened(sqlite_url, "async"), await opened(sqlite_url, "async")
        await holder.sessions.create("s")
        await holder.cache.set("k", 1)
        async with holder.transaction() as tx:
            await tx.state.set("s", "k", 1)
            waiting = [asyncio.ensure_future(store.history.append("s", [NewEntry(n)])) for n in range(3)]
            cancelled = asyncio.ensure_future(store.transaction().__aenter__())
            await asyncio.sleep(0.1)
            cancelled.cancel()
            with statestore.deadline(AMPLE):
                assert await store.cache.get("k") == 1
                assert await store.history.read("s", last=1) == []
            assert not any(task.done() for task in waiting)
        await asyncio.wait_for(asyncio.gather(*waiting), AMPLE)
        assert await store.history.count("s") == 3
        await store.close()
        await holder.close()

    asyncio.run(asyncio.wait_for(main(), 4 * AMPLE))


@pytest.mark.parametrize("kind", ["writing", "reading"])
def test_a_transaction_that_finds_no_thread_ends_in_time(database_url: str, kind: str) -> None:
    async def main() -> None:
        store = await AsyncStateStore.open(database_url, timeout=0.5)
        await store.sessions.create("s")
        go_on = threading.Event()
        workers: Any = store._database._workers  # type: ignore[attr-defined]
        stuck = [asyncio.ensure_future(workers.run(go_on.wait, AMPLE)) for _ in range(workers._size + workers._spare)]
        await asyncio.sleep(0.5)
        with pytest.raises(UnavailableError):
            async with asyncio.timeout(AMPLE / 2), store.transaction(read_only=kind == "reading"):
                pass
        go_on.set()
        await asyncio.gather(*stuck)
        async with store.transaction() as tx:
            await tx.state.set("s", "k", 1)
        await store.close()

    asyncio.run(main())


def test_a_store_is_closed_also_where_closing_is_cancelled(postgres_url: str) -> None:
    async def main() -> None:
        store, other = await AsyncStateStore.open(postgres_url), await AsyncStateStore.open(postgres_url)
        await store.cache.set("k", 1)
        await store.cache.get("k")
        async with other.transaction() as tx:
            await tx.cache.get("k")
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    await store.close()
        with pytest.raises(StoreClosedError):
            await store.cache.get("k")
        await other.close()

    asyncio.run(main())


def test_a_deadline_can_be_entered_again() -> None:
    again = statestore.deadline(1)
    for _ in range(2):
        with again, again:
            pass
