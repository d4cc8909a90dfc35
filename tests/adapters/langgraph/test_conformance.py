"""langgraph-checkpoint-conformance: each of its capabilities is there, and none is skipped."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from langgraph.checkpoint.conformance import checkpointer_test, validate
from langgraph.checkpoint.conformance.capabilities import Capability

from statestore.adapters.langgraph import StatestoreSaver


class Called(StatestoreSaver):
    """The methods that block, where the suite awaits."""


def _awaited(name: str) -> Any:
    async def wait(self: Called, *args: Any, **kwargs: Any) -> Any:
        return await asyncio.to_thread(getattr(self, name), *args, **kwargs)

    return wait


for name in ("put", "put_writes", "get_tuple", "delete_thread", "delete_for_runs", "copy_thread", "prune"):
    setattr(Called, f"a{name}", _awaited(name))


async def _alist(self: Called, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
    for found in await asyncio.to_thread(lambda: list(self.list(*args, **kwargs))):
        yield found


Called.alist = _alist  # type: ignore[method-assign]


@pytest.mark.parametrize("kind", [StatestoreSaver, Called])
async def test_it_has_all_capabilities(database_url: str, kind: type[StatestoreSaver]) -> None:
    @checkpointer_test(name=kind.__name__)
    async def made() -> AsyncIterator[StatestoreSaver]:
        saver = kind(database_url)
        yield saver
        await saver.aclose()

    report = await validate(made)
    failures = [failure for result in report.results.values() for failure in result.failures or ()]
    assert failures == []
    assert {name for name, result in report.results.items() if result.passed} == {each.value for each in Capability}
    assert sum(result.tests_skipped for result in report.results.values()) == 0
