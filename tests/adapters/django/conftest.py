"""Django with our backends on the database of the test."""

from collections.abc import Iterator
from typing import Any

import django
import pytest
from django.conf import settings
from django.core.cache import caches
from django.test import override_settings

from statestore.adapters import django as adapter
from tests.support.clock import MovableClock

BACKEND = "statestore.adapters.django.cache.StatestoreCache"


def pytest_configure() -> None:
    settings.configure(
        SECRET_KEY="test",
        SESSION_ENGINE="statestore.adapters.django.sessions",
        INSTALLED_APPS=["django.contrib.sessions"],
        USE_TZ=True,
    )
    django.setup()


@pytest.fixture
def world() -> str:
    """Django has synchronous methods and asynchronous ones of other names; there is a test for each."""
    return "sync"


@pytest.fixture(autouse=True)
def configured(database_url: str) -> Iterator[None]:
    """The cache `default` and the sessions on the test's database, and nothing left of them afterwards."""
    configuration = {"default": {"BACKEND": BACKEND, "LOCATION": database_url}}
    with override_settings(CACHES=configuration, STATESTORE_SESSIONS={"url": database_url}):
        yield
        close_all()


def close_all() -> None:
    for alias in caches:
        if hasattr(caches._connections, alias):
            del caches[alias]
    for store in adapter._stores.values():
        store.close()
    adapter._stores.clear()


@pytest.fixture
def make_cache(database_url: str, clock: MovableClock) -> Any:
    """A cache with settings of its own, and the clock that the test moves."""

    def make(location: Any = None, **params: Any) -> Any:
        from statestore.adapters.django.cache import StatestoreCache

        options = {"clock": clock, **params.pop("OPTIONS", {})}
        return StatestoreCache(location or database_url, {"OPTIONS": options, **params})

    return make
