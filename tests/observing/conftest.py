"""A store that does something of everything, in each world."""

from collections.abc import Callable
from typing import Any

import pytest

from statestore import NewEntry, SessionNotFoundError, StateStore, Usage
from tests.support.portal import Blocking


def of(store: Any) -> Any:
    """The store itself, behind what calls it in the tests' blocking way."""
    return store._target if isinstance(store, Blocking) else store


@pytest.fixture
def busy() -> Callable[[Any], None]:
    def work(store: Any) -> None:
        store.sessions.create("a secret session", user_id="a secret user")
        usage = Usage(input_tokens=5, output_tokens=7)
        store.history.append(
            "a secret session",
            [NewEntry("a secret", usage=usage, response_model="gpt-4o", provider_name="openai"), NewEntry("b")],
        )
        store.usage.record(record_id="r", usage=Usage(input_tokens=9), model="embedder", session_id="a secret session")
        store.cache.get("a secret key")
        store.cache.set("a secret key", 1)
        store.cache.get("a secret key")
        with pytest.raises(SessionNotFoundError):
            store.sessions.get("none")

    return work


def sync_store(url: str, **options: Any) -> StateStore:
    return StateStore.open(url, **options)
