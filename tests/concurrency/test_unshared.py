"""Deleting in one statement what nobody else sees, while somebody comes to see it."""

import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from statestore import NewEntry, SessionNotFoundError
from tests.concurrency.test_races import _WAITING
from tests.support.content import Content, unsound
from tests.support.crowd import at_once

Store = Any


@pytest.fixture
def store(open_store: Callable[..., Store]) -> Store:
    return open_store()


def test_a_fork_that_commits_while_its_source_is_being_deleted_keeps_all(store: Store, content: Content) -> None:
    """The deletion has begun, and read that there is no fork, when the fork commits."""
    if content.is_sqlite:
        pytest.skip("SQLite has one writer")
    store.sessions.create("s")
    store.history.append("s", [NewEntry(n) for n in range(5)])
    deleted: list[bool] = []
    with store.transaction() as tx:
        tx.sessions.fork("s", "fork")
        deleting = threading.Thread(target=lambda: deleted.append(store.sessions.delete("s")))
        deleting.start()
        while content.query(_WAITING) == [{"count": 0}]:
            pass
    deleting.join(20)
    assert deleted == [True]
    assert not store.sessions.exists("s")
    assert [entry.content for entry in store.history.read("fork")] == [*range(5)]
    assert unsound(content) == []


@pytest.mark.parametrize("seed", range(10))
def test_forks_and_a_deletion_at_once_lose_no_entry(store: Store, content: Content, seed: int) -> None:
    store.sessions.create("s")
    store.history.append("s", [NewEntry(n) for n in range(5)])

    def fork(name: str) -> str | None:
        try:
            return str(store.sessions.fork("s", name).session_id)
        except SessionNotFoundError:
            return None

    def delete() -> str | None:
        assert store.sessions.delete("s")
        return None

    for name in filter(None, at_once(delete, *(partial(fork, f"fork {n}") for n in range(3)))):
        assert [entry.content for entry in store.history.read(name)] == [*range(5)]
    assert unsound(content) == []
