"""The semantics of ADK's sessions on our API, in the model of `adk_model`."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.thirdparty.adk_model import AdkSessions, StaleSessionError

Store = Any


@pytest.fixture
def sessions(store: Store) -> AdkSessions:
    return AdkSessions(store)


def event(event_id: str, **state_delta: Any) -> dict[str, Any]:
    delta = {key.replace("__", ":"): value for key, value in state_delta.items()}
    return {"id": event_id, "author": "user", "content": f"text of {event_id}", "state_delta": delta}


def test_each_scope_is_seen_by_those_it_belongs_to(sessions: AdkSessions) -> None:
    sessions.create("ada", "a1", {"app:theme": "dark", "user:name": "Ada", "step": 1, "temp:x": 0})
    sessions.create("ada", "a2")
    sessions.create("bob", "b1", {"app:theme": "light"})
    found = {one.id: one.state for one in sessions.list()}
    assert found == {
        "a1": {"app:theme": "light", "user:name": "Ada", "step": 1},
        "a2": {"app:theme": "light", "user:name": "Ada"},
        "b1": {"app:theme": "light"},
    }
    assert sessions.get("ada", "a1").state == found["a1"]  # type: ignore[union-attr]
    assert sessions.get("bob", "a1") is None


def test_an_event_changes_state_in_all_scopes_and_temporary_keys_are_only_in_memory(sessions: AdkSessions) -> None:
    session = sessions.create("ada", "s")
    sessions.append(session, event("e1", app__a=1, user__u=2, own=3, temp__t=4))
    assert session.state["temp:t"] == 4
    again = sessions.get("ada", "s")
    assert again is not None
    assert again.state == {"app:a": 1, "user:u": 2, "own": 3}
    assert again.events == [event("e1", app__a=1, user__u=2, own=3)]


def test_a_stale_writer_is_refused_and_changes_nothing(sessions: AdkSessions) -> None:
    first = sessions.create("ada", "s")
    second = sessions.get("ada", "s")
    assert second is not None
    sessions.append(first, event("e1", own=1))
    with pytest.raises(StaleSessionError):
        sessions.append(second, event("e2", own=2, app__a=2, user__u=2))
    found = sessions.get("ada", "s")
    assert found is not None
    assert ([one["id"] for one in found.events], found.state) == (["e1"], {"own": 1})
    sessions.append(found, event("e2"))


def test_a_deleted_session_leaves_the_state_of_user_and_app(sessions: AdkSessions) -> None:
    sessions.create("ada", "s", {"app:a": 1, "user:u": 2, "own": 3})
    sessions.delete("s")
    sessions.delete("s")
    assert sessions.list() == []
    assert sessions.create("ada", "s").state == {"app:a": 1, "user:u": 2}


def test_state_of_a_user_goes_when_the_user_is_erased(sessions: AdkSessions, store: Store) -> None:
    sessions.create("ada", "s", {"app:a": 1, "user:u": 2})
    store.sessions.delete_user("ada")
    assert sessions.create("ada", "s").state == {"app:a": 1}


def test_a_list_of_twenty_one_takes_two_statements(
    counted_store: Store, statements: Callable[[Callable[[], Any]], int]
) -> None:
    sessions = AdkSessions(counted_store)
    for n in range(21):
        sessions.create("ada", f"s{n}", {"n": n, "user:u": n, "app:a": n})
    found = {one.id: one.state for one in sessions.list("ada")}
    assert found == {f"s{n}": {"n": n, "user:u": 20, "app:a": 20} for n in range(21)}
    assert statements(lambda: sessions.list("ada")) == 2
