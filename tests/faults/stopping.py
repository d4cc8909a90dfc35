"""Tasks that are cancelled: one at any moment, or all of them at once."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

from statestore import AsyncStateStore, StateStore, StateStoreError
from tests.faults.bench import Bench
from tests.faults.journal import ACKNOWLEDGED, DENIED, TRIED, Journal
from tests.faults.table import Tally, fault
from tests.faults.watch import Heartbeat

ASYNC = ("async",)
TIMEOUT = timedelta(seconds=20)


@fault(
    "cancelled anywhere", worlds=ASYNC, short=100, long=30_000, limit=900, control_rounds=600,
    control="a cancelled call taken as not done",
)  # fmt: skip
def cancelled_anywhere(bench: Bench) -> Tally:
    """A call is cancelled after any while, by `cancel` or by `asyncio.timeout`; it ends, and others are not touched."""
    url = bench.url()
    journal = Journal()
    asyncio.run(_cancel_many(bench, url, journal))
    return _settled(url, journal, bench.rounds)


def _settled(url: str, journal: Journal, rounds: int) -> Tally:
    with StateStore.open(url) as store:
        tally = journal.settle(store, url=url)
    tally.rounds = rounds
    return tally


async def _cancel_many(bench: Bench, url: str, journal: Journal) -> None:
    async with await AsyncStateStore.open(url, timeout=TIMEOUT, cache_max_entries=None) as store:
        for name in ("s", "s0", "s1", "s2", "s3"):
            await store.sessions.create(name)
        each = bench.rounds // 6
        shown = time.monotonic()

        async def client(number: int) -> None:
            nonlocal shown
            chance = random.Random(number)
            typical = 0.005
            for count in range(each):
                if count % 12 == 0:
                    # Whatever became of the cancelled ones: a call that nobody cancels is done.
                    began = time.monotonic()
                    if not await _still_works(store, journal, f"{number}.{count}.kept", bench.heartbeat):
                        return
                    typical = time.monotonic() - began
                await _cancel_one(store, journal, chance, f"{number}.{count}", bench, typical)
                if number == 0 and time.monotonic() - shown > 5:
                    shown = time.monotonic()
                    bench.tell(f"{count * 6} of {bench.rounds}")

        watch = asyncio.create_task(bench.heartbeat.watch_loop())
        async with asyncio.TaskGroup() as group:
            for number in range(6):
                group.create_task(client(number))
        watch.cancel()


async def _cancel_one(
    store: AsyncStateStore, journal: Journal, chance: random.Random, tag: str, bench: Bench, typical: float
) -> None:
    session = f"s{chance.randrange(4)}"
    work, tags = _work(store, chance, session, tag)
    journal.note(TRIED, session, tags)
    task: asyncio.Task[Any] = asyncio.ensure_future(work())
    # Mostly within the call; now and then before its first step, or when it is over.
    await asyncio.sleep(chance.choice((0, chance.random() * typical, chance.random() * 2 * typical)))
    began = time.monotonic()
    task.cancel()
    done, _ = await asyncio.wait([task], timeout=10)
    if not done:
        journal.is_hung("a cancelled call does not end")
        return
    late = time.monotonic() - began
    if late > bench.heartbeat.allowed(began):
        journal.is_hung(f"a cancelled call took {late:.1f} s to end")
    if task.cancelled():
        # Nothing is known of it; the control thinks otherwise.
        journal.note(DENIED if bench.unsafe else TRIED, session, tags)
    elif (error := task.exception()) is None:
        journal.note(ACKNOWLEDGED, session, tags)
    elif isinstance(error, StateStoreError):
        journal.is_wrong(f"{type(error).__name__}: {error}")
    else:
        journal.is_wrong(f"raw {error!r}")


def _work(
    store: AsyncStateStore, chance: random.Random, session: str, tag: str
) -> tuple[Callable[[], Awaitable[Any]], list[str]]:
    def entry(tag: str) -> dict[str, Any]:
        return {"role": "user", "content": "", "tag": tag}

    async def transaction() -> None:
        async with store.transaction() as tx:
            await tx.history.append(session, [entry(tag)])
            await tx.state.set(session, "last", tag)

    async def increment() -> None:
        await store.state.increment(session, "n")

    async def append() -> None:
        stored = await store.history.append(session, [entry(tag)])
        assert [one.content["tag"] for one in stored] == [tag], "another's answer"

    tags = [f"{tag}/{part}" for part in range(3)]

    async def batch() -> None:
        stored = await store.history.append(session, [entry(one) for one in tags])
        assert [one.content["tag"] for one in stored] == tags, "another's answer"

    return chance.choice([(append, [tag]), (batch, tags), (transaction, [tag]), (increment, [f"+{tag}"])])


@fault("shutdown", worlds=ASYNC, short=8, long=2000, control_rounds=40, control="a cancelled call taken for done")
def shutdown(bench: Bench) -> Tally:
    """Every task of the loop is cancelled, the store's own ones, too. The store works as before."""
    url = bench.url()
    journal = Journal()
    asyncio.run(_shut_down_often(bench, url, journal))
    return _settled(url, journal, bench.rounds)


async def _shut_down_often(bench: Bench, url: str, journal: Journal) -> None:
    chance = random.Random(3)
    store = await AsyncStateStore.open(url, timeout=TIMEOUT)
    await store.sessions.create("s")
    for number in range(bench.rounds):
        tags = [f"r{number}.{task}" for task in range(12)]
        tasks = [asyncio.create_task(_append(store, tag, journal, unsafe=bench.unsafe)) for tag in tags]
        await _any_moment(tasks, chance)
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        await asyncio.wait(tasks, timeout=10)
        if not all(task.done() for task in tasks):
            journal.is_hung("a cancelled task does not end")
        if not await _still_works(store, journal, f"after.{number}", bench.heartbeat):
            return
    await store.close()


async def _any_moment(tasks: list[asyncio.Task[None]], chance: random.Random) -> None:
    """A few steps of the loop into it, somewhere in it, or a few steps after a call, or a group of them, was done."""
    how = chance.randrange(3)
    if how == 0:
        await asyncio.sleep(chance.random() * 0.01)
    elif how == 1:
        done = chance.randrange(1, len(tasks))
        while sum(task.done() for task in tasks) < done:
            await asyncio.wait([task for task in tasks if not task.done()], return_when=asyncio.FIRST_COMPLETED)
    for _ in range(chance.randrange(4)):
        await asyncio.sleep(0)


async def _append(store: AsyncStateStore, tag: str, journal: Journal, *, unsafe: bool = False) -> None:
    journal.note(ACKNOWLEDGED if unsafe else TRIED, "s", [tag])
    await store.history.append("s", [{"role": "user", "content": "", "tag": tag}])
    journal.note(ACKNOWLEDGED, "s", [tag])


async def _still_works(store: AsyncStateStore, journal: Journal, tag: str, heartbeat: Heartbeat) -> bool:
    began = time.monotonic()
    task = asyncio.create_task(_append(store, tag, journal))
    await asyncio.wait([task], timeout=TIMEOUT.total_seconds() + 1 + heartbeat.allowed(began))
    if not task.done():
        journal.is_hung("an append that was not cancelled never ended")
        task.cancel()
        return False
    if error := task.exception():
        journal.is_wrong(f"an append that was not cancelled: {error!r}")
    return True
