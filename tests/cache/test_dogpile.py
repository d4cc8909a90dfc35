"""dogpile.cache's own suites for backends and mutexes."""

from collections.abc import Callable
from typing import Any, ClassVar

import pytest
from dogpile.testing.fixtures import (
    _GenericBackendTestSuite,
    _GenericMutexTestSuite,
    _GenericSerializerTestSuite,
)

import tests.cache.dogpile_adapter  # noqa: F401 - It registers the backend.


class Holder:
    store: Any = None


class OnStatestore:
    backend = "statestore"
    config_args: ClassVar[dict[str, Any]] = {"arguments": {"holder": Holder}}

    @pytest.fixture(autouse=True)
    def opened(self, open_store: Callable[..., Any]) -> None:
        Holder.store = open_store()


class TestBackend(OnStatestore, _GenericBackendTestSuite):
    pass


class TestSerializer(OnStatestore, _GenericSerializerTestSuite):
    pass


class TestMutex(OnStatestore, _GenericMutexTestSuite):
    pass
