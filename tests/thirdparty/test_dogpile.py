"""dogpile.cache's own suites for backends and mutexes."""

import json
from collections.abc import Callable
from typing import Any, ClassVar

import pytest
from dogpile.testing.fixtures import (
    _GenericBackendFixture,
    _GenericBackendTestSuite,
    _GenericMutexTestSuite,
    _GenericSerializerTestSuite,
)

import tests.thirdparty.dogpile_adapter  # noqa: F401 - It registers the backend.


class Holder:
    store: Any = None


class OnStatestore:
    backend = "statestore"
    config_args: ClassVar[dict[str, Any]] = {"arguments": {"holder": Holder}}

    # The adapter calls the store in the same way in every world.
    @pytest.fixture
    def world(self) -> str:
        return "sync"

    @pytest.fixture(autouse=True)
    def opened(self, open_store: Callable[..., Any]) -> None:
        Holder.store = open_store()

    def teardown_method(self, method: Any) -> None:
        """The suites would clean up; here each test has a database of its own, which is closed already."""


class TestBackend(OnStatestore, _GenericBackendTestSuite):
    pass


class TestSerializer(OnStatestore, _GenericSerializerTestSuite, _GenericBackendFixture):
    region_args: ClassVar[dict[str, Any]] = {
        "serializer": lambda value: json.dumps(value).encode(),
        "deserializer": json.loads,
    }


class TestMutex(OnStatestore, _GenericMutexTestSuite):
    pass
