"""Work that is awaited to its end, even by somebody who was cancelled meanwhile."""

import asyncio
import gc
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from statestore.engine.async_database import finished


async def fails() -> None:
    await asyncio.sleep(0.01)
    raise ValueError("nobody asks for this")


async def is_cancelled() -> None:
    await asyncio.sleep(0.01)
    raise asyncio.CancelledError


async def ends() -> None:
    await asyncio.sleep(0.01)


@pytest.mark.parametrize("hurry", [None, lambda: None], ids=["patiently", "in a hurry"])
@pytest.mark.parametrize("work", [fails, is_cancelled, ends])
def test_who_is_cancelled_leaves_nothing_to_complain_of(
    work: Callable[[], Awaitable[None]], hurry: Callable[[], None] | None
) -> None:
    complaints: list[dict[str, Any]] = []
    done: list[None] = []

    async def noted() -> None:
        try:
            await work()
        finally:
            done.append(None)

    async def wait() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        waiting = asyncio.create_task(finished(noted(), hurry=hurry))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        waiting.cancel("that one")
        with pytest.raises(asyncio.CancelledError, match="that one"):
            await waiting
        assert done
        del waiting
        gc.collect()
        await asyncio.sleep(0)

    asyncio.run(wait())
    assert complaints == []
