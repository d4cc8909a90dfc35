"""dogpile.cache's own suites for backends, serializers and mutexes, on both databases."""

from collections.abc import Iterator
from typing import Any

import pytest
from dogpile.testing.fixtures import (
    _GenericBackendFixture,
    _GenericBackendTestSuite,
    _GenericMutexTestSuite,
    _GenericSerializerTestSuite,
)

from statestore import LazyStore


class OnStatestore:
    backend = "statestore"
    config_args: dict[str, Any] = {"arguments": {"url": "sqlite://"}}  # noqa: RUF012 - A test has its own.

    @pytest.fixture(autouse=True)
    def opened(self, database_url: str) -> Iterator[None]:
        """Each test has a database of its own."""
        store = LazyStore(database_url, namespace="dogpile", cache_max_entries=None)
        self.config_args = {"arguments": {"store": store}}
        yield
        store.close()

    def teardown_method(self, method: Any) -> None:
        """The suites would remove their keys; the database is closed by then, and thrown away."""


class TestBackend(OnStatestore, _GenericBackendTestSuite):
    pass


class TestSerializer(OnStatestore, _GenericSerializerTestSuite, _GenericBackendFixture):
    pass


class TestMutex(OnStatestore, _GenericMutexTestSuite):
    pass
