"""A user's file: what mypy and pyright infer for an `AsyncStateStore`. It is checked, and never run."""

import asyncio
from collections.abc import Mapping
from datetime import date, timedelta
from typing import Any, assert_type

from sqlalchemy.ext.asyncio import AsyncEngine

from statestore import (
    NEVER,
    AsyncCache,
    AsyncHeldLease,
    AsyncHistory,
    AsyncPrices,
    AsyncSessionContext,
    AsyncSessions,
    AsyncSharedPrices,
    AsyncState,
    AsyncStateStore,
    AsyncTransaction,
    AsyncUsageReports,
    CacheEntry,
    DayUsage,
    Entry,
    EntryLike,
    Lease,
    NewEntry,
    Session,
    SessionPage,
    StateEntry,
    Sweeper,
    Turn,
    Usage,
    UsageTotals,
    Window,
    deadline,
    prices_of,
    spread,
)

HOUR = timedelta(hours=1)


async def opening(engine: AsyncEngine) -> None:
    store = await AsyncStateStore.open("sqlite:///agents.db", timeout=5, cache_default_ttl=NEVER)
    assert_type(store, AsyncStateStore)
    await store.close()
    async with AsyncStateStore.open("sqlite:///agents.db") as entered:
        assert_type(entered, AsyncStateStore)
    async with await AsyncStateStore.open("sqlite:///agents.db") as awaited:
        assert_type(awaited, AsyncStateStore)
    assert_type(await asyncio.create_task(AsyncStateStore.open()), AsyncStateStore)
    assert_type(AsyncStateStore(engine), AsyncStateStore)
    async with engine.begin() as connection:
        assert_type(await AsyncStateStore.join(connection), AsyncTransaction)


def groups(store: AsyncStateStore) -> None:
    assert_type(store.sessions, AsyncSessions)
    assert_type(store.history, AsyncHistory)
    assert_type(store.state, AsyncState)
    assert_type(store.cache, AsyncCache)
    assert_type(store.usage, AsyncUsageReports)
    assert_type(store.prices, AsyncPrices)


async def sessions(store: AsyncStateStore) -> None:
    assert_type(await store.sessions.open("user-42", user_id="ada", ttl=HOUR), Session)
    assert_type(await store.sessions.find("user-42"), Session | None)
    assert_type(await store.sessions.page(user_id="ada"), SessionPage)
    assert_type(await store.sessions.fork("user-42"), Session)
    assert_type(store.sessions.derive_id("slack", "C1"), str)


async def history(store: AsyncStateStore) -> None:
    reply = NewEntry({"role": "assistant", "content": "Done."}, usage=Usage(output_tokens=46), cost_usd=0.0011)
    mixed: list[EntryLike] = [{"role": "user", "content": "Hi"}, reply]
    assert_type(await store.history.append("chat", mixed, create=True), list[Entry])
    with deadline(2.5):
        assert_type(await store.history.append("chat", [{"role": "user", "content": "Hi"}]), list[Entry])
    assert_type(await store.history.read("chat", last=20), list[Entry])
    assert_type(await store.history.messages("chat"), list[Any])
    assert_type(await store.history.set_usage("chat", 1, Usage(input_tokens=3)), Entry)
    assert_type(await store.history.window("chat", max_tokens=8000), Window)
    async for entry in store.history.iterate("chat"):
        assert_type(entry, Entry)
    async for entry in store.history.follow("chat", after=0):
        assert_type(entry, Entry)
    counts = await asyncio.gather(store.history.count("chat"), store.history.count("user-42"))
    assert_type(counts, tuple[int, int])


async def state(store: AsyncStateStore) -> None:
    assert_type(await store.state.set("chat", "seats", 8), StateEntry)
    assert_type(await store.state.get("chat", "seats", default=8), Any)
    assert_type(await store.state.get_all("chat"), dict[str, Any])
    assert_type(await store.state.set("chat", "seats", 8, only_if="present"), StateEntry | None)
    assert_type(await store.user_state.get_many("ada", ["language"]), dict[str, Any])
    assert_type(await store.lists.append("chat", "notes", ["seat 12A"]), int)


async def forecast() -> dict[str, str]:
    return {"sky": "clear"}


def forecast_at_once() -> dict[str, str]:
    return {"sky": "clear"}


async def cache(store: AsyncStateStore) -> None:
    key = store.cache.make_key("weather", {"place": "Konstanz"})
    assert_type(key, str)
    found = await store.cache.get_or_compute(key, forecast, tags=["weather"], ttl=HOUR)
    assert_type(found, dict[str, str])
    at_once = await store.cache.get_or_compute(key, forecast_at_once)
    assert_type(at_once, dict[str, str])
    assert_type(await store.cache.get_or_compute(key, lambda: forecast()), dict[str, str])
    assert_type(await store.cache.get_or_compute(key, lambda: 1.5), float)
    assert_type(await store.cache.entry(key), CacheEntry | None)
    assert_type(await store.cache.invalidate_tag("weather"), int)
    assert_type(await store.cache.increment("calls"), int | float)
    assert_type(await store.cache.increment("calls", only_if="present"), int | float | None)
    assert_type(await store.cache.keys(), list[str])

    def key_of(place: str, days: int = 1) -> str:
        return f"{place}:{days}"

    @store.cache.memoize(key=key_of)
    async def forecast_of(place: str, days: int = 1) -> list[str]:
        return [place] * days

    assert_type(await forecast_of("Konstanz", days=2), list[str])
    assert_type(forecast_of.key("Konstanz"), str)
    assert_type(await forecast_of.invalidate("Konstanz"), int)


async def book(tx: AsyncTransaction) -> int:
    return await tx.history.count("chat")


async def transactions(store: AsyncStateStore) -> None:
    async with store.transaction() as tx:
        assert_type(tx, AsyncTransaction)
        assert_type(await tx.history.append("chat", [{"role": "user", "content": "Book it."}]), list[Entry])
    assert_type(await store.run_transaction(book), int)


async def turns(store: AsyncStateStore) -> None:
    async with store.sessions.acquire("chat", owner="worker-1", ttl=HOUR, wait=HOUR) as lease:
        assert_type(lease, AsyncHeldLease)
        async with store.turn("chat", max_tokens=8000, lease=lease) as turn:
            assert_type(turn, Turn)
            turn.append({"role": "assistant", "content": "It is booked."})
            turn.state["booked"] = True
        assert_type(turn.stored, list[Entry])
    held = await store.sessions.acquire("chat", owner="worker-1", ttl=HOUR)
    assert_type(held, AsyncHeldLease)
    assert_type(await store.sessions.renew(held), Lease)
    async with held as entered:
        assert_type(entered, AsyncHeldLease)


async def reports(store: AsyncStateStore) -> None:
    assert_type(await store.usage.totals(since=date(2026, 1, 1)), UsageTotals)
    assert_type(await store.usage.by_day(tz="Europe/Berlin"), list[DayUsage])


async def prices(engine: AsyncEngine) -> None:
    assert_type(prices_of(engine), AsyncSharedPrices)
    assert_type(spread("acme", "ada", shards=4), str)


async def contexts(store: AsyncStateStore) -> None:
    context = await AsyncSessionContext(store, "user-42", project_root="/srv/app")
    assert_type(context, AsyncSessionContext)
    await context.set_cwd("/srv/app/docs")
    assert_type(await context.regenerate(), str)


async def sweeping(store: AsyncStateStore) -> None:
    async with Sweeper(store, every=HOUR) as sweeper:
        assert_type(sweeper, Sweeper)


class Worker:
    """What exported types are for: a part of an application that names what it works with."""

    def __init__(self, history: AsyncHistory, reports: AsyncUsageReports) -> None:
        self.history = history
        self.reports = reports

    async def answer(self, turn: Turn, lease: AsyncHeldLease, said: Mapping[str, Any]) -> int:
        turn.append(said)
        return len(await self.history.append(lease.session_id, [said], lease=lease))
