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

import tests.cache.dogpile_adapter  # noqa: F401 - It registers the backend.


class Holder:
    store: Any = None


class OnStatestore:
    backend = "statestore"
    config_args: ClassVar[dict[str, Any]] = {"arguments": {"holder": Holder}}

    @pytest.fixture(params=["sync", "async"])
    def world(self, request: pytest.FixtureRequest) -> str:
        return str(request.param)

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
