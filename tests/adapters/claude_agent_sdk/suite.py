"""The SDK's tests of stores, with ours in the place of its `InMemorySessionStore`."""

import asyncio
import gc
from collections.abc import Iterator
from typing import Any

import claude_agent_sdk
import pytest

from statestore.adapters.claude_agent_sdk import StatestoreSessionStore, statestore_id
from tests.adapters.databases import Databases

PATHS = [
    "tests/test_session_store_conformance.py",
    "tests/test_session_helpers_store.py",
    "tests/test_session_summary.py",
    "tests/test_session_import.py",
    "tests/test_session_mutations.py",
    "tests/test_session_resume.py",
]

_FIVE_TURNS = "tests the SDK alone, and gives list_sessions five turns of the event loop, too few for any database"
LEFT_OUT = {
    "tests/test_session_helpers_store.py::TestListSessionsFromStore::test_load_concurrency_is_bounded": _FIVE_TURNS,
    "tests/test_session_summary.py::TestListSessionsFromStoreFastPath::test_gap_fill_bounded_concurrency": _FIVE_TURNS,
    "tests/test_session_resume.py::TestTimeoutsAndErrors::test_cancelled_after_mkdtemp_cleans_temp_dir": (
        "tests the SDK alone, and gives load fifty turns of the event loop, which pass before a database answers"
    ),
}

databases = Databases()
opened: list["Store"] = []


class Store(StatestoreSessionStore):
    """A store of a test, with what the tests look at in the one that they were written for."""

    def __init__(self) -> None:
        super().__init__(databases.fresh())
        self._mtimes: dict[str, int] = {}
        opened.append(self)

    async def list_sessions(self, project_key: str) -> Any:
        found = await super().list_sessions(project_key)
        given = {name: self._mtimes.get(f"{project_key}/{name}") for name in (one["session_id"] for one in found)}
        return [{**one, "mtime": given[one["session_id"]] or one["mtime"]} for one in found]

    def get_entries(self, key: Any) -> list[Any]:
        store, session_id = self._store.sync(), statestore_id(key)
        return store.history.messages(session_id) if store.sessions.exists(session_id) else []

    @property
    def size(self) -> int:
        return self._store.sync().sessions.count()

    def clear(self) -> None:
        store = self._store.sync()
        store.sessions.delete_many([one.session_id for one in store.sessions.page(limit=1000).sessions])
        self._tails.clear()


claude_agent_sdk.InMemorySessionStore = Store  # type: ignore[assignment, misc]


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    for store in opened:
        asyncio.run(store.aclose())
    opened.clear()
    gc.collect()
