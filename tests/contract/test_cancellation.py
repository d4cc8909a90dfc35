"""A task that is cancelled leaves all of its work or none, and gives its connection back."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from statestore import AsyncStateStore, NewEntry
from tests.support.content import Content, unsound
from tests.support.engines import async_engine
from tests.support.portal import Portal

BATCH = 3
AMPLE = 20


@pytest.fixture(params=["async", "engine"])
def world(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@asynccontextmanager
async def opened(url: str, world: str) -> AsyncIterator[tuple[AsyncStateStore, Callable[[], int]]]:
    """A store, and what tells how many connections are in use."""
    if world == "async":
        store = await AsyncStateStore.open(url, pool_size=3)
        database: Any = store._database
        async with store:
            slots = database.database._connections.slots
            yield store, lambda: slots.taken
    else:
        engine = async_engine(url, pool_size=3)
        try:
            async with AsyncStateStore(engine) as store:
                yield store, engine.pool.checkedout  # type: ignore[attr-defined]
        finally:  # What a test that fails leaves open is found by another, which is blamed for it.
            await engine.dispose()


@dataclass(frozen=True)
class Moment:
    """When to cancel: after so many turns of the event loop, or so many seconds."""

    turns: int = 0
    seconds: float = 0

    async def come(self) -> None:
        for _ in range(self.turns):
            await asyncio.sleep(0)
        if self.seconds:
            await asyncio.sleep(self.seconds)


# At each of the first turns, and then at wider and wider distances.
MOMENTS = [Moment(turns=n) for n in range(30)] + [Moment(seconds=0.0002 * 1.2**n) for n in range(45)]
# For machines that are busy with other things.
LATER = [Moment(seconds=2)] * 10 + [Moment(seconds=6)] * 10


def run(main: Coroutine[Any, Any, None]) -> None:
    """As `asyncio.run`, in a thread: a task that cannot be cancelled would keep even a timeout from ending the test."""
    portal = Portal()
    portal.run(main)
    portal.close()


async def cancel_at(moment: Moment, work: Coroutine[Any, Any, Any]) -> bool:
    """Cancel *work* when the *moment* has come; whether it was done by then."""
    task = asyncio.ensure_future(work)
    await moment.come()
    task.cancel()
    try:
        await task
    except asyncio.CancelledError:
        return False
    return True


async def given_back(checked_out: Callable[[], int]) -> None:
    """No connection is in use. One that was being opened comes back when it is open, later on a busy machine."""
    until = asyncio.get_running_loop().time() + AMPLE
    while checked_out() and asyncio.get_running_loop().time() < until:
        await asyncio.sleep(0.01)
    assert checked_out() == 0


Work = Callable[[AsyncStateStore, int], Coroutine[Any, Any, Any]]


async def append(store: AsyncStateStore, n: int) -> None:
    await store.history.append("s", [NewEntry([n, part]) for part in range(BATCH)])


async def append_with_ids(store: AsyncStateStore, n: int) -> None:
    await store.history.append("s", [NewEntry([n, part], entry_id=f"{n} {part}") for part in range(BATCH)])


async def append_within_a_transaction(store: AsyncStateStore, n: int) -> None:
    async with store.transaction() as tx:
        for part in range(BATCH):
            await tx.history.append("s", [NewEntry([n, part])])
            await tx.state.set("s", "n", n)


async def append_to_a_fork(store: AsyncStateStore, n: int) -> None:
    async with store.transaction() as tx:
        await tx.sessions.fork("s", f"fork {n}")
        await tx.history.append("s", [NewEntry([n, part]) for part in range(BATCH)])
        await tx.sessions.delete(f"fork {n}")


@pytest.mark.parametrize("work", [append, append_with_ids, append_within_a_transaction, append_to_a_fork])
def test_a_cancelled_append_leaves_all_or_nothing(database_url: str, world: str, content: Content, work: Work) -> None:
    async def main() -> None:
        async with opened(database_url, world) as (store, checked_out):
            await store.sessions.create("s")
            cancelled = completed = 0
            for n, moment in enumerate([*MOMENTS, *LATER]):
                done = await cancel_at(moment, work(store, n))
                cancelled += not done
                completed += done
                await given_back(checked_out)
                if completed > 5:
                    break
            assert cancelled > 5, "nothing was cancelled midway"
            assert completed > 5, "nothing was left to complete"
            entries = await store.history.read("s")
            assert len(entries) % BATCH == 0
            for first in range(0, len(entries), BATCH):
                n = entries[first].content[0]
                assert [entry.content for entry in entries[first : first + BATCH]] == [[n, p] for p in range(BATCH)]
            # The store works on, on every connection of its pool.
            await asyncio.gather(*(append(store, -n) for n in range(1, 7)))
            assert await store.history.count("s") == len(entries) + 6 * BATCH
            await given_back(checked_out)

    run(main())
    assert unsound(content) == []


def test_many_cancelled_at_once_leave_all_or_nothing(database_url: str, world: str) -> None:
    async def main() -> None:
        async with opened(database_url, world) as (store, checked_out):
            await store.sessions.create("s")
            for moment in MOMENTS[::3]:
                tasks = [asyncio.ensure_future(append(store, n)) for n in range(12)]
                await moment.come()
                for task in tasks[::2]:
                    task.cancel()
                results = await asyncio.gather(*tasks, return_exceptions=True)
                assert all(not isinstance(result, Exception) for result in results)
                assert all(result is None for result in results[1::2]), "a cancellation hit another task"
                await given_back(checked_out)
            entries = await store.history.read("s")
            batches = [entries[first : first + BATCH] for first in range(0, len(entries), BATCH)]
            for batch in batches:
                assert [entry.content for entry in batch] == [[batch[0].content[0], part] for part in range(BATCH)]

    run(main())


async def acquire(store: AsyncStateStore, n: int) -> None:
    await store.sessions.acquire(f"s{n}", owner="cancelled", ttl=timedelta(hours=1))


async def work_under_a_lease(store: AsyncStateStore, n: int) -> None:
    async with store.sessions.acquire(f"s{n}", owner="cancelled", ttl=timedelta(hours=1)):
        pass


@pytest.mark.parametrize("work", [acquire, work_under_a_lease])
def test_a_lease_that_was_acquired_for_nobody_goes_back(database_url: str, world: str, work: Work) -> None:
    async def main() -> None:
        async with opened(database_url, world) as (store, checked_out):
            cancelled = 0
            for n, moment in enumerate(MOMENTS[:55]):
                await store.sessions.create(f"s{n}")
                if await cancel_at(moment, work(store, n)):
                    continue
                cancelled += 1
                await store.sessions.acquire(f"s{n}", owner="next", ttl=timedelta(hours=1))
                assert (await store.sessions.get(f"s{n}")).status == "ready"
            assert cancelled > 5, "nothing was cancelled midway"
            await given_back(checked_out)

    run(main())


def test_a_lease_that_comes_long_after_the_cancellation_goes_back(postgres_url: str, world: str) -> None:
    async def main() -> None:
        async with opened(postgres_url, world) as (store, checked_out):
            await store.sessions.create("s0")
            with psycopg.connect(postgres_url) as holder:
                holder.execute("SELECT 1 FROM statestore.sessions WHERE namespace = 'default' FOR UPDATE")
                task = asyncio.ensure_future(acquire(store, 0))
                await waiting(postgres_url, True)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await asyncio.wait_for(task, 10)
            later = await store.sessions.acquire("s0", owner="next", ttl=timedelta(hours=1), wait=timedelta(seconds=10))
            assert later.owner == "next"
            await given_back(checked_out)

    run(main())


@pytest.mark.parametrize("work", [append, append_within_a_transaction])
def test_one_that_waits_for_a_lock_can_be_cancelled(postgres_url: str, world: str, work: Work) -> None:
    async def main() -> None:
        async with opened(postgres_url, world) as (store, checked_out):
            await store.sessions.create("s")
            with psycopg.connect(postgres_url) as holder:
                holder.execute("SELECT 1 FROM statestore.sessions WHERE namespace = 'default' FOR UPDATE")
                task = asyncio.ensure_future(work(store, 1))
                await waiting(postgres_url, True)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await asyncio.wait_for(task, 10)
                await waiting(postgres_url, False)
            assert await store.history.count("s") == 0
            await given_back(checked_out)
            await work(store, 2)
            assert await store.history.count("s") == BATCH

    run(main())


def test_a_timeout_ends_a_call_that_waits_for_a_lock(postgres_url: str, world: str) -> None:
    async def main() -> None:
        async with opened(postgres_url, world) as (store, checked_out):
            await store.sessions.create("s")
            with psycopg.connect(postgres_url) as holder:
                holder.execute("SELECT 1 FROM statestore.sessions WHERE namespace = 'default' FOR UPDATE")
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.1):
                        await append(store, 1)
            assert await store.history.count("s") == 0
            await given_back(checked_out)

    run(main())


def test_one_that_waits_for_a_connection_can_be_cancelled(database_url: str, world: str) -> None:
    async def main() -> None:
        async with opened(database_url, world) as (store, checked_out):
            await store.sessions.create("s")
            async with store.transaction() as tx:
                tasks = [asyncio.ensure_future(append(store, n)) for n in range(6)]
                await asyncio.sleep(0.05)
                for task in tasks:
                    task.cancel()
                await tx.state.set("s", "k", 1)
                if database_url.startswith("sqlite"):  # On PostgreSQL nothing kept them from going on.
                    await asyncio.wait(tasks, timeout=10)
                    assert all(task.cancelled() for task in tasks)
            await asyncio.gather(*tasks, return_exceptions=True)
            assert await store.history.count("s") % BATCH == 0
            await given_back(checked_out)

    run(main())


async def waiting(url: str, is_so: bool) -> None:
    """Wait until somebody waits for a lock, or nobody does."""
    with Content(url) as content:
        async with asyncio.timeout(10):
            while content.somebody_waits() is not is_so:
                await asyncio.sleep(0.01)
