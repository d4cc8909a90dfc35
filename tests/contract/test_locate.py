"""`history.locate` and `locate_many`: which sessions entries were appended to, by their ids."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from statestore import InvalidValueError, NewEntry
from tests.support.clock import MovableClock

Store = Any


def test_it_names_every_session_that_an_entry_was_appended_to(store: Store) -> None:
    for session_id, entry_ids in (("b", ["one", "two"]), ("a", ["one"]), ("c", ["three"])):
        store.sessions.create(session_id)
        store.history.append(session_id, [NewEntry("x", entry_id=entry_id) for entry_id in entry_ids])
    found = store.history.locate_many(["two", "missing", "one", "two"])
    assert found == {"two": [("b", 2)], "one": [("a", 1), ("b", 1)]}
    assert list(found) == ["two", "one"]
    assert store.history.locate_many(entry_id for entry_id in ("three",)) == {"three": [("c", 1)]}
    assert store.history.locate_many([]) == {}


def test_it_looks_only_at_the_sessions_of_the_agents_named(store: Store) -> None:
    for session_id, agent_name in (("a", "x"), ("b", "y"), ("c", None)):
        store.sessions.create(session_id, agent_name=agent_name)
        store.history.append(session_id, [NewEntry("x", entry_id="one")])
    assert store.history.locate_many(["one"], agent_names=["x", "z"]) == {"one": [("a", 1)]}
    assert store.history.locate_many(["one"], agent_names=(name for name in ("x", "y"))) == {
        "one": [("a", 1), ("b", 1)]
    }
    assert store.history.locate_many(["one"], agent_names=[]) == {}
    assert store.history.locate_many(["one"]) == {"one": [("a", 1), ("b", 1), ("c", 1)]}


def test_an_expired_session_is_named_only_if_asked_for_and_until_it_is_swept(store: Store, clock: MovableClock) -> None:
    store.sessions.create("s", ttl=timedelta(minutes=1), agent_name="x")
    store.history.append("s", [NewEntry("x", entry_id="one")])
    clock.advance(seconds=59)
    assert store.history.locate_many(["one"]) == {"one": [("s", 1)]}
    clock.advance(seconds=1)  # To look did not extend the session's TTL.
    assert store.history.locate_many(["one"]) == {}
    assert store.history.locate_many(["one"], agent_names=["x"]) == {}
    assert store.history.locate_many(["one"], agent_names=["x"], include_expired=True) == {"one": [("s", 1)]}
    store.sweep()
    assert store.history.locate_many(["one"], include_expired=True) == {}
    assert store.history.locate_many(["one"], include_expired=True) == {}


def test_a_fork_is_not_named_for_what_it_shares(store: Store) -> None:
    store.sessions.create("s")
    store.history.append("s", [NewEntry("x", entry_id="one")])
    store.sessions.fork("s", "fork")
    store.history.append("fork", [NewEntry("y", entry_id="two")])
    assert store.history.locate_many(["one", "two"]) == {"one": [("s", 1)], "two": [("fork", 2)]}
    store.sessions.delete("s")  # The fork takes over what it sees.
    assert store.history.locate_many(["one"]) == {"one": [("fork", 1)]}


def test_it_sees_its_own_namespace_only(open_store: Callable[..., Store]) -> None:
    ours, theirs = open_store(namespace="ours"), open_store(namespace="theirs")
    theirs.sessions.create("s", agent_name="x")
    theirs.history.append("s", [NewEntry("x", entry_id="one")])
    assert ours.history.locate_many(["one"]) == ours.history.locate_many(["one"], agent_names=["x"]) == {}
    assert theirs.history.locate_many(["one"]) == {"one": [("s", 1)]}


def test_a_thousand_ids_are_one_call(store: Store) -> None:
    store.sessions.create("s")
    ids = [f"{number}" for number in range(1000)]
    store.history.append("s", [NewEntry("x", entry_id=entry_id) for entry_id in ids])
    assert store.history.locate_many([*ids, "other"]) == {entry_id: [("s", seq)] for seq, entry_id in enumerate(ids, 1)}


def test_one_entry_has_one_place(store: Store, clock: MovableClock) -> None:
    for session_id in ("b", "a"):
        store.sessions.create(session_id)
        store.history.append(session_id, [{"role": "user", "content": "hi"}, NewEntry("x", entry_id="one")])
        clock.advance(seconds=1)
    place = store.history.locate("one")
    assert place == ("b", 2)  # the older one
    assert store.history.get(place.session_id, place.seq).entry_id == "one"
    assert store.history.locate("missing") is None
    for entry_id in ("", 5, ["one"], None):
        with pytest.raises(InvalidValueError, match="entry_id"):
            store.history.locate(entry_id)


@pytest.mark.parametrize("ids", ["one", b"one", 5, None, [5], [""], ["a", "x" * 513], ["\0"]], ids=str)
def test_what_is_not_a_list_of_ids_is_refused(store: Store, ids: Any) -> None:
    with pytest.raises(InvalidValueError, match="entry_ids"):
        store.history.locate_many(ids)
    if ids is not None:
        with pytest.raises(InvalidValueError, match="agent_names"):
            store.history.locate_many(["one"], agent_names=ids)
