"""Where sessions come from: no circles are made, and those that are there end."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from statestore import Ancestor, ConflictError, NewEntry, SessionExistsError, SessionNotFoundError
from tests.support.clock import MovableClock
from tests.support.content import Content, unsound
from tests.support.crowd import at_once

Store = Any


def test_a_fork_that_would_be_its_own_ancestor_is_refused(store: Store, content: Content, clock: MovableClock) -> None:
    store.sessions.create("x")
    store.sessions.fork("x", "y")
    store.sessions.fork("y", "z")
    store.sessions.delete("x")
    for seconds in (0, -1):
        clock.advance(seconds=seconds)
        before = content.snapshot()
        for source in ("y", "z"):
            with pytest.raises(ConflictError, match="its own ancestor"):
                store.sessions.fork(source, "x")
        assert content.snapshot() == before
    assert store.sessions.fork("z", "other").parent_session_id == "z"
    assert store.sessions.lineage("z").ancestors == (Ancestor("y", 0), Ancestor("x", 0))


def test_the_id_of_a_deleted_ancestor_of_others_is_free(store: Store, clock: MovableClock) -> None:
    for tree in ("a", "b"):
        store.sessions.create(f"root {tree}")
        store.sessions.fork(f"root {tree}", f"child {tree}")
    store.sessions.delete("root a")
    assert store.sessions.fork("child b", "root a").parent_session_id == "child b"


def test_a_younger_session_under_the_id_of_a_deleted_ancestor_is_another_one(store: Store, clock: MovableClock) -> None:
    store.sessions.create("x")
    store.sessions.fork("x", "y")
    store.sessions.fork("y", "z")
    store.sessions.delete("x")
    clock.advance(microseconds=1)
    store.sessions.fork("z", "x")
    assert store.sessions.lineage("z").ancestors == (Ancestor("y", 0), Ancestor("x", 0))
    assert store.sessions.lineage("x").ancestors == (Ancestor("z", 0), Ancestor("y", 0), Ancestor("x", 0))
    assert store.sessions.lineage("x").forks == ()
    assert {row.session_id: row.depth for row in store.usage.lineage()} == {"y": 1, "z": 2, "x": 3}


def test_an_id_that_is_free_again_is_no_ancestor_of_others(store: Store) -> None:
    store.sessions.create("x")
    store.sessions.create("y")
    store.sessions.delete("x")
    assert store.sessions.fork("y", "x").root_session_id == "y"
    with pytest.raises(SessionExistsError):
        store.sessions.fork("y", "x")


@pytest.mark.parametrize("length", [1, 2, 5])
def test_a_circle_that_is_there_already_ends(store: Store, content: Content, length: int) -> None:
    """Made by an earlier version, or by something else that wrote to the tables."""
    names = [f"s{n}" for n in range(length)]
    for name in names:
        store.sessions.create(name)
    for name, parent in zip(names, [*names[1:], names[0]], strict=True):
        content.query(
            "UPDATE sessions SET parent_session_id = :parent, forked_at_seq = 0 WHERE session_id = :name",
            parent=parent,
            name=name,
        )
    found = store.sessions.lineage("s0")
    assert [ancestor.session_id for ancestor in found.ancestors] == names[1:]
    assert found.forks == (names[-1],)
    with pytest.raises(ConflictError):
        store.sessions.fork("s0", names[-1])
    assert store.sessions.fork("s0", "outside").parent_session_id == "s0"
    assert [ancestor.session_id for ancestor in store.sessions.lineage("outside").ancestors] == names


def test_forks_and_deletes_at_once_leave_lineages_that_end(open_store: Callable[..., Store], content: Content) -> None:
    store = open_store()
    names = ["a", "b", "c"]

    def turn_over(source: str, target: str) -> None:
        try:
            store.sessions.delete(target)
            store.sessions.fork(source, target)
        except (SessionNotFoundError, ConflictError):
            pass

    for _ in range(12):
        for name in names:
            store.history.append(name, [NewEntry(name)], create=True)
        at_once(*(partial(turn_over, one, other) for one in names for other in names if one != other))
        parents = [row["session_id"] for row in content.rows("sessions")]
        for name in parents:
            assert len(store.sessions.lineage(name).ancestors) <= len(parents) + 1
        assert unsound(content) == []
        for name in names:
            store.sessions.delete(name)
