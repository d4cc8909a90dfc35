"""All state that sessions see, read at once: their own, their users' and their agents'."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from statestore import InvalidValueError, StateScopes
from tests.support.clock import MovableClock

Store = Any

HOUR = timedelta(hours=1)


@pytest.fixture(autouse=True)
def sessions(store: Store) -> None:
    for name, user_id, agent_name in (
        ("a1", "ada", "app"),
        ("a2", "ada", "app"),
        ("b", "bob", "app"),
        ("none", None, None),
    ):
        store.sessions.create(name, user_id=user_id, agent_name=agent_name)
    store.state.set_many("a1", {"own": 1, "null": None})
    store.user_state.set_many("ada", {"u": 2, "same": "user"})
    store.app_state.set_many("app", {"z": 3, "same": "app"})
    store.user_state.set("app", "not for an agent of this name", 4)
    store.app_state.set("ada", "not for a user of this name", 5)


APP = {"same": "app", "z": 3}


def test_each_session_sees_the_state_of_its_user_and_of_its_agent(store: Store) -> None:
    found = store.state.scopes_many(["b", "missing", "a1", "none", "a2", "b"])
    assert list(found.items()) == [
        ("b", StateScopes({}, {}, APP)),
        ("a1", StateScopes({"null": None, "own": 1}, {"same": "user", "u": 2}, APP)),
        ("none", StateScopes({}, {}, {})),
        ("a2", StateScopes({}, {"same": "user", "u": 2}, APP)),
    ]
    assert list(found["a1"].app) == ["same", "z"]


def test_what_has_expired_is_not_seen(store: Store, clock: MovableClock) -> None:
    store.sessions.create("expired", user_id="ada", agent_name="app", ttl=HOUR)
    for state, owner in ((store.state, "a1"), (store.user_state, "ada"), (store.app_state, "app")):
        state.set(owner, "short", 1, ttl=HOUR)
    assert store.state.scopes_many(["expired"])["expired"].user["short"] == 1
    clock.advance(hours=1)
    found = store.state.scopes_many(["a1", "expired"])
    assert set(found) == {"a1"}
    assert "short" not in found["a1"].session | found["a1"].user | found["a1"].app


def test_looking_extends_no_session(store: Store, clock: MovableClock) -> None:
    store.sessions.update("a1", ttl=HOUR)
    clock.advance(minutes=50)
    store.state.scopes_many(["a1"])
    clock.advance(minutes=10)
    assert store.state.scopes_many(["a1"]) == {}


def test_other_namespaces_share_nothing(open_store: Callable[..., Store]) -> None:
    other = open_store(namespace="other")
    other.sessions.create("a1", user_id="ada", agent_name="app")
    assert other.state.scopes_many(["a1"]) == {"a1": StateScopes({}, {}, {})}


def test_ids_come_in_a_list(store: Store) -> None:
    assert store.state.scopes_many([]) == {}
    for ids in ("a1", None, ["a1", ""]):
        with pytest.raises(InvalidValueError, match="session_ids"):
            store.state.scopes_many(ids)
