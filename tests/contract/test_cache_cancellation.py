"""A task that is cancelled while it computes a value leaves the key to the next one, at once."""

import asyncio
from collections.abc import Callable, Coroutine
from datetime import timedelta
from typing import Any

import pytest

from statestore import AsyncStateStore
from tests.contract.test_cancellation import MOMENTS, Moment, given_back, opened, run
from tests.support.content import Content

Task = asyncio.Future[Any]


@pytest.fixture
def world() -> str:
    return "async"


async def cancelled_once(task: Task) -> None:
    task.cancel()
    await asyncio.wait([task])


async def cancelled_at_every_await(task: Task) -> None:
    """As anyio's cancel scopes do."""
    while not task.done():
        task.cancel()
        await asyncio.sleep(0)


Cancel = Callable[[Task], Coroutine[Any, Any, None]]


@pytest.mark.parametrize("cancel", [cancelled_once, cancelled_at_every_await])
def test_a_cancelled_computation_leaves_no_claim(
    database_url: str, world: str, content: Content, cancel: Cancel
) -> None:
    async def forever() -> Any:
        await asyncio.sleep(3600)

    async def value() -> str:
        return "computed"

    async def one(store: AsyncStateStore, moment: Moment, key: str) -> None:
        task = asyncio.ensure_future(store.cache.get_or_compute(key, forever))
        await moment.come()
        await cancel(task)
        assert task.cancelled()
        assert content.rows("cache_claims") == []
        assert await store.cache.get_or_compute(key, value, timeout=timedelta(seconds=2)) == "computed"

    async def main() -> None:
        async with opened(database_url, world) as (store, checked_out):
            for n, moment in enumerate(MOMENTS[:60:2]):
                await one(store, moment, f"k{n}")
                await given_back(checked_out)

    run(main())


def test_a_cancelled_computation_is_taken_over_by_one_that_waits(database_url: str, world: str) -> None:
    async def main() -> None:
        async with opened(database_url, world) as (store, _):
            begun = asyncio.Event()

            async def forever() -> Any:
                begun.set()
                await asyncio.sleep(3600)

            async def value() -> str:
                return "computed"

            leader = asyncio.ensure_future(store.cache.get_or_compute("k", forever))
            await begun.wait()
            others = [asyncio.ensure_future(store.cache.get_or_compute("k", value)) for _ in range(3)]
            await asyncio.sleep(0.02)
            await cancelled_at_every_await(leader)
            async with asyncio.timeout(10):
                assert await asyncio.gather(*others) == ["computed"] * 3

    run(main())
