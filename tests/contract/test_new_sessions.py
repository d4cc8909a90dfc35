"""Writes that create the session that they need: `create=True`, or a `NewSession` that says what it is to be like."""

from datetime import timedelta
from typing import Any

import pytest

from statestore import InvalidValueError, NewEntry, NewSession, SessionNotFoundError
from tests.support.clock import MovableClock
from tests.support.worlds import entering

Store = Any
HOUR = timedelta(hours=1)
NEW = NewSession(
    user_id="ada",
    agent_name="helper",
    title="t",
    instructions="be kind",
    metadata={"b": 1, "a": 2},
    project_root="/p",
    cwd="/p/q",
    ttl=HOUR,
)
ATTRIBUTES = ("user_id", "agent_name", "title", "instructions", "metadata", "project_root", "cwd", "ttl")


def check(store: Store, session_id: str) -> None:
    made = store.sessions.get(session_id)
    assert {name: getattr(made, name) for name in ATTRIBUTES} == {name: getattr(NEW, name) for name in ATTRIBUTES}
    assert list(made.metadata) == ["b", "a"]
    assert (made.status, made.revision) == ("ready", 1)


def test_an_append_creates_the_session_as_it_is_told(store: Store, clock: MovableClock) -> None:
    (entry,) = store.history.append("s", [NewEntry("x", role="user")], create=NEW)
    assert (entry.seq, entry.turn) == (1, 1)
    check(store, "s")
    assert store.usage.by_user()[0].user_id == "ada"
    # One that is there is left as it is; one that has expired is not there.
    store.history.append("s", [NewEntry("y")], create=NewSession(user_id="eve"))
    check(store, "s")
    clock.advance(hours=2)
    store.history.append("s", [NewEntry("z")], create=NewSession(user_id="eve"))
    assert store.sessions.get("s").user_id == "eve"
    assert store.history.messages("s") == ["z"]


def test_an_append_of_nothing_creates_the_session_all_the_same(store: Store) -> None:
    assert store.history.append("s", [], create=NEW) == []
    check(store, "s")


def test_a_turn_creates_the_session_as_it_is_told(store: Store) -> None:
    with entering(store, store.turn("s", create=NEW)) as turn:
        assert turn.session is None
        assert turn.messages == []
        turn.append({"role": "user", "content": "x"})
        turn.state["k"] = 1
    check(store, "s")
    assert store.state.get("s", "k") == 1
    with entering(store, store.turn("s", create=NewSession(user_id="eve"))) as turn:
        turn.append({"role": "user", "content": "y"})
    check(store, "s")


def test_in_a_transaction_it_is_created_too(store: Store) -> None:
    with store.transaction() as tx:
        tx.history.append("s", [NewEntry("x")], create=NEW)
    check(store, "s")


def test_without_create_nothing_is_created(store: Store) -> None:
    for create in ({}, {"create": False}):
        with pytest.raises(SessionNotFoundError):
            store.history.append("s", [NewEntry("x")], **create)
    assert not store.sessions.exists("s")


@pytest.mark.parametrize("exists", [False, True])
def test_what_a_session_cannot_be_like_is_refused_before_anything_is_written(store: Store, exists: bool) -> None:
    if exists:
        store.sessions.create("s")
    bad: list[tuple[Any, str]] = [
        (NewSession(user_id=""), "user_id"),
        (NewSession(agent_name=5), "agent_name"),  # type: ignore[arg-type]
        (NewSession(metadata={"a": {1}}), "metadata"),
        (NewSession(ttl=timedelta(0)), "ttl"),
        (NewSession(title="\0"), "title"),
        ({"user_id": "ada"}, "create"),
        ("yes", "create"),
        (None, "create"),
        (1, "create"),
    ]
    for create, argument in bad:
        with pytest.raises(InvalidValueError, match=argument):
            store.history.append("s", [NewEntry("x")], create=create)
        with pytest.raises(InvalidValueError, match=argument), entering(store, store.turn("s", create=create)):
            pass
    assert store.sessions.exists("s") is exists
    if exists:
        assert store.history.count("s") == 0
