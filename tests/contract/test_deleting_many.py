"""Many sessions deleted by one call: as if by one call each."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest

from statestore import InvalidValueError, NewEntry, NewSession, Usage
from statestore.engine.flows import Flow
from statestore.operations import erasing
from tests.support.clock import MovableClock
from tests.support.content import Content, unsound

Store = Any


def test_many_sessions_are_deleted(store: Store) -> None:
    for session_id in "abc":
        store.sessions.create(session_id)
    assert store.sessions.delete_many(["a", "b", "a", "missing"]) == 2
    assert store.sessions.count() == 1
    assert store.sessions.delete_many([]) == 0
    with pytest.raises(InvalidValueError, match=r"session_ids\[1\]"):
        store.sessions.delete_many(["c", ""])
    assert store.sessions.exists("c")


def test_many_sessions_of_all_kinds_are_deleted(store: Store, clock: MovableClock, content: Content) -> None:
    """As one by one: small and large, forks and sources, wholes and parts, expired and missing ones."""
    store.sessions.create("expired", ttl=timedelta(hours=1))
    clock.advance(hours=2)
    words = [NewEntry("word", role="user", usage=Usage(input_tokens=1))]
    for session_id in ("source", "whole", "large", "small", "kept", *map(str, range(5))):
        store.history.append(session_id, words * 300, create=True)
    for _ in range(3):
        store.history.append("large", words * 300)
    for session_id in ("fork", "kept fork"):
        store.sessions.fork("source", session_id)
    for session_id in ("part", "another part"):
        store.history.append(session_id, words, create=NewSession(belongs_to="whole"))
    store.state.set("small", "key", 1)
    used = store.usage.totals().input_tokens
    ids = [
        "source",
        "missing",
        "fork",
        "part",
        "whole",
        "another part",
        "expired",
        "large",
        "small",
        *map(str, range(5)),
    ]
    assert store.sessions.delete_many(ids) == 11
    assert {row["session_id"] for row in content.rows("sessions")} == {"kept", "kept fork"}
    assert store.history.count("kept") == store.history.count("kept fork") == 300
    assert store.usage.totals().input_tokens == used
    assert content.rows("state_entries") == []
    assert unsound(content) == []


def test_small_sessions_go_together_beside_a_large_one(
    store: Store, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the large one comes first in the order of their ids."""
    alone = []

    def delete(session_id: str) -> Flow[bool]:
        alone.append(session_id)
        return erase(session_id)

    erase = erasing.delete
    monkeypatch.setattr(erasing, "delete", delete)
    monkeypatch.setattr(erasing, "BATCH", 10)
    for session_id, size in {"a": 11, "b": 1, "c": 1}.items():
        store.history.append(session_id, [NewEntry("word")] * size, create=True)
    assert store.sessions.delete_many(["a", "b", "c"]) == 3
    assert store.sessions.count() == 0
    assert alone == ([] if database_url.startswith("sqlite") else ["a"])


def test_many_sessions_are_deleted_in_a_transaction(store: Store) -> None:
    for session_id in "abc":
        store.history.append(session_id, [NewEntry("word")], create=True)
    with pytest.raises(ZeroDivisionError), store.transaction() as tx:  # noqa: PT012
        assert tx.sessions.delete_many(["a", "b"]) == 2
        assert not tx.sessions.exists("a")
        raise ZeroDivisionError
    assert store.sessions.count() == 3
    with store.transaction() as tx:
        assert tx.sessions.delete_many(["a", "b"]) == 2
    assert store.sessions.count() == 1


@pytest.mark.parametrize("how", ["append", "state"])
def test_what_somebody_has_locked_is_deleted_too(
    store: Store, open_store: Callable[..., Store], database_url: str, how: str
) -> None:
    """And meanwhile what nobody has locked."""
    for session_id in "abc":
        store.history.append(session_id, [NewEntry("word")], create=True)
    other, third = open_store(), open_store()
    is_postgresql = not database_url.startswith("sqlite")
    with ThreadPoolExecutor(1) as pool:
        with store.transaction() as tx:
            if how == "append":
                tx.history.append("b", [NewEntry("another")])
            else:
                tx.state.set("b", "key", 1)
            deleting = pool.submit(other.sessions.delete_many, ["a", "b", "c"])
            while is_postgresql and set(third.sessions.load_many(["a", "b", "c"])) != {"b"}:
                pass
        assert deleting.result(20) == 3
    assert store.sessions.count() == 0
