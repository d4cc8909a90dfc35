"""Stores of two namespaces in one database know nothing of each other."""

from collections.abc import Callable
from typing import Any

import pytest

from statestore import NewEntry, SessionNotFoundError
from tests.support.clock import MovableClock
from tests.support.content import Content

Store = Any


@pytest.fixture
def ours(open_store: Callable[..., Store], clock: MovableClock) -> Store:
    return open_store(namespace="ours", clock=clock)


@pytest.fixture
def theirs(open_store: Callable[..., Store], clock: MovableClock) -> Store:
    """A store with a session `s`, a fork of it, and all that a session can have."""
    store = open_store(namespace="theirs", clock=clock)
    store.sessions.create("s", user_id="ada", metadata={"a": 1})
    store.history.append("s", [NewEntry("a", entry_id="one"), NewEntry("b")])
    store.state.set("s", "k", "theirs")
    store.sessions.fork("s", "fork", at_seq=1)
    return store


def test_nothing_of_another_namespace_is_seen(ours: Store, theirs: Store) -> None:
    assert ours.sessions.find("s") is None
    assert ours.sessions.exists("s") is False
    assert ours.sessions.page().sessions == []
    assert ours.sessions.count() == ours.sessions.count(user_id="ada") == 0
    for call in (
        lambda: ours.sessions.get("s"),
        lambda: ours.sessions.lineage("fork"),
        lambda: ours.sessions.fork("s", "mine"),
        lambda: ours.history.read("s"),
        lambda: ours.history.count("s"),
        lambda: ours.state.get("s", "k"),
        lambda: ours.state.get_all("s"),
    ):
        with pytest.raises(SessionNotFoundError) as caught:
            call()
        assert caught.value.namespace == "ours"


def test_nothing_of_another_namespace_is_changed(ours: Store, theirs: Store, content: Content) -> None:
    before = content.snapshot()
    for call in (
        lambda: ours.sessions.update("s", title="t"),
        lambda: ours.sessions.merge_metadata("s", {}),
        lambda: ours.sessions.touch("s"),
        lambda: ours.history.append("s", [NewEntry("a", entry_id="one")]),
        lambda: ours.history.pop_last("s"),
        lambda: ours.history.trim("s", keep_last=0),
        lambda: ours.history.clear("s"),
        lambda: ours.state.set("s", "k", 1),
        lambda: ours.state.increment("s", "n"),
        lambda: ours.state.delete("s", "k"),
        lambda: ours.state.clear("s"),
    ):
        with pytest.raises(SessionNotFoundError):
            call()
    assert ours.sessions.delete("s") is False
    assert ours.sessions.delete_user("ada").sessions == 0
    assert content.snapshot() == before


def test_the_same_names_live_side_by_side(ours: Store, theirs: Store) -> None:
    ours.sessions.create("s", user_id="ada")
    ours.history.append("s", [NewEntry("x", entry_id="one")])
    ours.state.set("s", "k", "ours")
    ours.sessions.fork("s", "fork")
    assert ours.sessions.lineage("s").forks == ("fork",)
    ours.history.append("fork", [NewEntry("y")])
    assert [entry.content for entry in ours.history.read("fork")] == ["x", "y"]
    assert [entry.content for entry in theirs.history.read("fork")] == ["a"]
    assert (ours.state.get("fork", "k"), theirs.state.get("fork", "k")) == ("ours", "theirs")
    assert ours.sessions.delete_user("ada").sessions == 2
    assert [entry.content for entry in theirs.history.read("s")] == ["a", "b"]


def test_deleting_here_hands_nothing_over_there(ours: Store, theirs: Store) -> None:
    ours.history.append("s", [NewEntry("x")], create=True)
    ours.sessions.delete("s")
    theirs.sessions.delete("s")
    assert [entry.content for entry in theirs.history.read("fork")] == ["a"]


def test_a_namespace_is_any_text(open_store: Callable[..., Store]) -> None:
    names = ["a%b", "a_b", "aXb", "it's", "🦜" * 100, " ", "default"]
    stores = [open_store(namespace=name) for name in names]
    for store, name in zip(stores, names, strict=True):
        assert store.namespace == name
        store.sessions.create("s", title=name)
    for store, name in zip(stores, names, strict=True):
        assert store.sessions.get("s").title == name
        assert store.sessions.count() == 1
