"""The SDK's tests of its sessions, with ours in the place of those on SQLite and SQLAlchemy.

A path of a file is a database of ours, the same for all sessions of a test that name it; `:memory:` is one of its own.
"""

import itertools
from collections.abc import AsyncIterator
from typing import Any

import agents
import agents.extensions.memory
import agents.extensions.memory.advanced_sqlite_session
import agents.extensions.memory.async_sqlite_session
import agents.extensions.memory.encrypt_session
import agents.extensions.memory.sqlalchemy_session
import agents.memory
import agents.memory.sqlite_session
import pytest
import pytest_asyncio
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from statestore import LazyStore
from statestore.adapters.openai_agents import AdvancedStatestoreSession, StatestoreSession
from tests.adapters.databases import Databases

PATHS = (
    "tests/memory/test_session.py",
    "tests/memory/test_session_limit.py",
    "tests/memory/test_compaction_suffix.py",
    "tests/memory/test_compaction_model_visibility.py",
    "tests/memory/test_openai_responses_compaction_session.py",
    "tests/memory/test_sqlalchemy_compaction.py",
    "tests/extensions/memory/test_async_sqlite_session.py",
    "tests/extensions/memory/test_sqlalchemy_session.py",
    "tests/extensions/memory/test_advanced_sqlite_session.py",
    "tests/extensions/memory/test_encrypt_session.py",
    "tests/test_hitl_session_scenario.py",
)
OPTIONS = ("-q", "-p", "no:cacheprovider", "--timeout=60", "--tb=short")
LEFT_OUT: dict[str, str] = {}

_databases = Databases()
_stores: dict[Any, LazyStore] = {}
_numbers = itertools.count()


def store_at(path: Any) -> LazyStore:
    key = path if isinstance(path, AsyncEngine) else next(_numbers) if str(path) == ":memory:" else str(path)
    if key not in _stores:
        _stores[key] = LazyStore(_databases.fresh())
    return _stores[key]


class _Closed:
    """What the SDK's tests ask of a session besides the protocol."""

    closed = False

    def close(self) -> None:
        """Closed with all others at the end of the test."""


class Simple(_Closed, StatestoreSession):
    def __init__(self, session_id: str, db_path: Any = ":memory:", *_: Any, session_settings: Any = None) -> None:
        super().__init__(session_id, store_at(db_path), session_settings=session_settings)


class Advanced(_Closed, AdvancedStatestoreSession):
    def __init__(self, *, session_id: str, db_path: Any = ":memory:", session_settings: Any = None, **_: Any) -> None:
        super().__init__(session_id, store_at(db_path), session_settings=session_settings)

    @property
    def _current_branch_id(self) -> str:
        return self.current_branch


class Async(StatestoreSession):
    def __init__(self, session_id: str, db_path: Any = ":memory:", *_: Any, session_settings: Any = None) -> None:
        super().__init__(session_id, store_at(db_path), session_settings=session_settings)

    async def close(self) -> None:
        """Closed with all others at the end of the test."""


class OfEngine(StatestoreSession):
    """On a database of ours for each of theirs: the engine is only looked at."""

    def __init__(self, session_id: str, *, engine: AsyncEngine, session_settings: Any = None, **_: Any) -> None:
        path = engine.url.database
        super().__init__(
            session_id, store_at(engine if path == ":memory:" else path), session_settings=session_settings
        )
        self._engine = engine

    @classmethod
    def from_url(cls, session_id: str, *, url: str, engine_kwargs: Any = None, **rest: Any) -> "OfEngine":
        return cls(session_id, engine=create_async_engine(url, **(engine_kwargs or {})), **rest)

    @property
    def engine(self) -> AsyncEngine:
        return self._engine


for module, name, ours in (
    (agents, "SQLiteSession", Simple),
    (agents.memory, "SQLiteSession", Simple),
    (agents.memory.sqlite_session, "SQLiteSession", Simple),
    (agents.extensions.memory, "AsyncSQLiteSession", Async),
    (agents.extensions.memory.async_sqlite_session, "AsyncSQLiteSession", Async),
    (agents.extensions.memory, "SQLAlchemySession", OfEngine),
    (agents.extensions.memory.sqlalchemy_session, "SQLAlchemySession", OfEngine),
    (agents.extensions.memory, "AdvancedSQLiteSession", Advanced),
    (agents.extensions.memory.advanced_sqlite_session, "AdvancedSQLiteSession", Advanced),
):
    setattr(module, name, ours)


@pytest_asyncio.fixture(autouse=True)
async def _close_stores() -> AsyncIterator[None]:
    yield
    while _stores:
        _, store = _stores.popitem()
        await store.aclose()


@pytest.fixture(autouse=True)
def _no_tracing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_AGENTS_DISABLE_TRACING", "1")
