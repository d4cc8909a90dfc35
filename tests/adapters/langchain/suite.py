"""LangChain's own tests of histories and caches, with ours in the place of those that it keeps in memory.

Each test has a database of its own; each history made in it is a session, and each cache has a name of its own.
"""

import itertools
from collections.abc import Iterator, MutableMapping, Sequence
from pathlib import Path
from typing import Any

import langchain_core.caches
import langchain_core.chat_history
import pytest
from langchain_core.load import dumps, loads
from langchain_core.messages import BaseMessage

import tests
from statestore import LazyStore
from statestore.adapters.langchain import StatestoreCache, StatestoreChatMessageHistory
from tests.adapters.databases import Databases

# LangChain's tests import from `tests`, too.
tests.__path__.append(str(Path.cwd() / "tests"))

_UNIT = "tests/unit_tests"
_CHAT_CACHE = f"{_UNIT}/language_models/chat_models/test_cache.py"
PATHS = (
    f"{_UNIT}/chat_history/test_chat_history.py",
    f"{_UNIT}/runnables/test_history.py",
    f"{_UNIT}/caches/test_in_memory_cache.py",
    _CHAT_CACHE,
    f"{_UNIT}/language_models/llms/test_cache.py",
)
OPTIONS = ("-q", "-p", "no:cacheprovider", "-p", "no:anyio")
LEFT_OUT = {
    f"{_UNIT}/caches/test_in_memory_cache.py::test_initialization": "the attributes of LangChain's own class",
    f"{_UNIT}/caches/test_in_memory_cache.py::test_update_with_maxsize": "a limit is the store's: cache_max_entries",
    f"{_UNIT}/caches/test_in_memory_cache.py::test_aupdate_with_maxsize": "likewise",
}

_databases = Databases()
_numbers = itertools.count()


class _Current:
    store: LazyStore


class SuiteHistory(StatestoreChatMessageHistory):
    __doc__ = langchain_core.chat_history.InMemoryChatMessageHistory.__doc__

    def __init__(self, messages: Sequence[BaseMessage] = ()) -> None:
        super().__init__(f"chat {next(_numbers)}", _Current.store)
        self.add_messages(messages)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SuiteHistory) and self.messages == other.messages

    __hash__ = None  # type: ignore[assignment]


class SuiteCache(StatestoreCache):
    def __init__(self) -> None:
        super().__init__(_Current.store, agent_name=f"cache {next(_numbers)}")

    @property
    def _cache(self) -> "Contents":
        return Contents(self)

    @_cache.setter
    def _cache(self, contents: "Contents") -> None:
        self._agent_name = contents.cache._agent_name


class Contents(MutableMapping[str, Any]):
    """What is in a cache, as tests look at it, change it, copy it and put it into another one."""

    def __init__(self, cache: SuiteCache) -> None:
        self.cache = cache

    def _keys(self) -> list[str]:
        entries = self.cache._store.sync().cache.entries(agent_name=self.cache._agent_name, values=False)
        return [entry.key for entry in entries]

    def __getitem__(self, key: str) -> Any:
        return loads(self.cache._store.sync().cache.get(key), allowed_objects="core")

    def __setitem__(self, key: str, answer: Any) -> None:
        self.cache._store.sync().cache.set(key, dumps(answer), agent_name=self.cache._agent_name)

    def __delitem__(self, key: str) -> None:
        raise NotImplementedError

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys())

    def __len__(self) -> int:
        return len(self._keys())

    def copy(self) -> "Contents":
        return self


langchain_core.chat_history.InMemoryChatMessageHistory = SuiteHistory  # type: ignore[misc, assignment]
langchain_core.caches.InMemoryCache = SuiteCache  # type: ignore[misc, assignment]


@pytest.fixture(autouse=True)
def fresh_store(request: pytest.FixtureRequest, blockbuster: Any) -> Iterator[None]:
    # LangChain's tests refuse what blocks an event loop. To open a store looks at its file, once; and two tests call a
    # model in a coroutine without awaiting it.
    for function in blockbuster.functions.values():
        function.can_block_in("statestore/lazy.py", ("here", "sync"))
        function.can_block_in("statestore/adapters/flows.py", "run")
    if getattr(request.module, "InMemoryCache", None) is not None:
        request.module.InMemoryCache = SuiteCache  # Some modules define it themselves.
    _Current.store = LazyStore(_databases.fresh())
    yield
    _Current.store.close()
