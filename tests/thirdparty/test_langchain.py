"""LangChain's own suites for caches."""

from collections.abc import AsyncIterator, Iterator

import pytest
from langchain_tests.integration_tests import AsyncCacheTestSuite, SyncCacheTestSuite

from statestore import AsyncStateStore, StateStore
from tests.thirdparty.langchain_adapter import AsyncCache, SyncCache


class TestSync(SyncCacheTestSuite):
    @pytest.fixture
    def cache(self, database_url: str) -> Iterator[SyncCache]:  # type: ignore[override]
        with StateStore.open(database_url) as store:
            yield SyncCache(store)


class TestAsync(AsyncCacheTestSuite):
    @pytest.fixture
    async def cache(self, database_url: str) -> AsyncIterator[AsyncCache]:  # type: ignore[override]
        async with await AsyncStateStore.open(database_url) as store:
            yield AsyncCache(store)
