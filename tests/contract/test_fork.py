"""Forks: what they see, what they share, and that nothing that happens to one reaches another."""

from datetime import timedelta
from typing import Any

import pytest

from statestore import Ancestor, InvalidValueError, NewEntry, SessionExistsError, SessionNotFoundError
from tests.support.clock import MovableClock
from tests.support.content import Content, unsound

Store = Any


def numbers(first: int, last: int) -> list[NewEntry]:
    return [NewEntry(n, role="user") for n in range(first, last + 1)]


def seen(store: Store, session_id: str) -> list[int]:
    entries = store.history.read(session_id)
    assert all(entry.session_id == session_id for entry in entries)
    session = store.sessions.get(session_id)
    assert [entry.seq for entry in entries] == list(range(session.first_seq, session.next_seq))
    return [entry.content for entry in entries]


@pytest.fixture
def source(store: Store) -> str:
    """A session with the entries 1 to 10."""
    store.sessions.create("source")
    store.history.append("source", numbers(1, 10))
    return "source"


@pytest.fixture(autouse=True)
def nothing_is_left_unsound(request: pytest.FixtureRequest, content: Content) -> Any:
    yield
    assert unsound(content) == []


@pytest.mark.parametrize("length", [10, 10_000])
def test_a_fork_writes_as_many_rows_whatever_the_length(store: Store, content: Content, length: int) -> None:
    store.sessions.create("source")
    store.state.set_many("source", {"a": 1, "b": 2})
    for start in range(1, length, 1000):
        store.history.append("source", numbers(start, min(start + 999, length)))
    before = content.sizes()
    store.sessions.fork("source", "fork", at_seq=length - 3)
    after = content.sizes()
    written = {table: after[table] - before[table] for table in after if after[table] != before[table]}
    assert written == {"sessions": 1, "session_segments": 1, "state_entries": 2}
    assert seen(store, "fork") == list(range(1, length - 2))


def test_a_fork_sees_all_if_not_told_where(store: Store, source: str) -> None:
    fork = store.sessions.fork(source)
    assert seen(store, fork.session_id) == list(range(1, 11))
    assert (fork.parent_session_id, fork.root_session_id, fork.forked_at_seq) == (source, source, 10)


@pytest.mark.parametrize("at_seq", [0, 1, 5, 10])
def test_a_fork_sees_exactly_the_prefix(store: Store, source: str, at_seq: int) -> None:
    fork = store.sessions.fork(source, "fork", at_seq=at_seq)
    assert seen(store, "fork") == list(range(1, at_seq + 1))
    assert (fork.entry_count, fork.forked_at_seq) == (at_seq, at_seq)
    assert store.history.append("fork", numbers(100, 100))[0].seq == at_seq + 1


def test_a_fork_shares_every_fact_of_an_entry(store: Store, source: str) -> None:
    before = store.history.read(source)
    store.sessions.fork(source, "fork")
    for entry, original in zip(store.history.read("fork"), before, strict=True):
        facts = {name: getattr(entry, name) for name in entry.__slots__}
        assert facts == {name: getattr(original, name) for name in entry.__slots__} | {"session_id": "fork"}


def test_a_chain_of_eight_forks_reads_right_at_every_depth(store: Store, content: Content) -> None:
    store.sessions.create("0")
    store.history.append("0", numbers(1, 20))
    expected = {"0": list(range(1, 21))}
    for depth in range(1, 9):
        parent, child = str(depth - 1), str(depth)
        at_seq = (15, 17, 3, 6, 6, 9, 1, 4)[depth - 1]
        store.sessions.fork(parent, child, at_seq=at_seq)
        added = numbers(depth * 100, depth * 100 + 4)
        store.history.append(child, added)
        expected[child] = expected[parent][:at_seq] + [entry.content for entry in added]
    for session_id, contents in expected.items():
        assert seen(store, session_id) == contents
        for last in (1, 3, 7, 20):
            window = store.history.read(session_id, last=last)
            assert [entry.content for entry in window] == contents[-last:]
        for after in range(0, len(contents) + 1, 3):
            page = store.history.read(session_id, after=after, limit=4)
            assert [entry.content for entry in page] == contents[after : after + 4]
        assert [store.history.get(session_id, seq).content for seq in range(1, len(contents) + 1)] == contents
    assert content.sizes()["history_entries"] == 20 + 8 * 5


def test_a_fork_of_a_trimmed_session_starts_where_it_starts(store: Store, source: str) -> None:
    store.history.trim(source, keep_last=4)
    store.sessions.fork(source, "fork", at_seq=8)
    assert seen(store, "fork") == [7, 8]
    empty = store.sessions.fork(source, "empty", at_seq=3)
    assert (seen(store, "empty"), empty.forked_at_seq) == ([], 3)
    assert store.history.append("empty", numbers(4, 4))[0].seq == 4


def test_appends_to_source_and_fork_do_not_meet(store: Store, source: str) -> None:
    store.sessions.fork(source, "fork", at_seq=5)
    store.history.append(source, numbers(11, 12))
    store.history.append("fork", numbers(60, 61))
    assert seen(store, source) == list(range(1, 13))
    assert seen(store, "fork") == [1, 2, 3, 4, 5, 60, 61]


@pytest.mark.parametrize(
    "end",
    [
        lambda store, s: store.sessions.delete(s),
        lambda store, s: store.history.clear(s),
        lambda store, s: store.history.trim(s, keep_last=0),
        lambda store, s: store.history.trim(s, keep_last=3),
        lambda store, s: store.history.pop_last(s, 10),
        lambda store, s: store.history.pop_last(s, 4),
    ],
    ids=["delete", "clear", "trim to none", "trim to three", "pop all", "pop four"],
)
def test_a_fork_keeps_what_its_source_lets_go(store: Store, source: str, content: Content, end: Any) -> None:
    store.sessions.fork(source, "a", at_seq=8)
    store.sessions.fork(source, "b", at_seq=4)
    store.sessions.fork("a", "c", at_seq=6)
    end(store, source)
    assert unsound(content) == []
    assert (seen(store, "a"), seen(store, "b"), seen(store, "c")) == (
        list(range(1, 9)),
        list(range(1, 5)),
        list(range(1, 7)),
    )


def test_nothing_is_left_when_the_last_that_sees_it_goes(store: Store, source: str, content: Content) -> None:
    store.sessions.fork(source, "a", at_seq=8)
    store.sessions.fork("a", "b", at_seq=4)
    store.sessions.delete(source)
    assert content.sizes()["history_entries"] == 8
    store.sessions.delete("a")
    assert content.sizes()["history_entries"] == 4
    store.sessions.delete("b")
    assert not any(content.sizes().values())


def test_a_source_uses_popped_positions_again_beside_its_fork(store: Store, source: str) -> None:
    store.sessions.fork(source, "fork")
    store.history.pop_last(source, 3)
    store.history.append(source, numbers(80, 83))
    assert seen(store, source) == [*range(1, 8), 80, 81, 82, 83]
    assert seen(store, "fork") == list(range(1, 11))


def test_a_fork_pops_into_what_it_shares_and_only_for_itself(store: Store, source: str) -> None:
    store.sessions.fork(source, "fork", at_seq=6)
    store.sessions.fork(source, "sibling", at_seq=6)
    store.history.append("fork", numbers(70, 71))
    assert [entry.content for entry in store.history.pop_last("fork", 4)] == [5, 6, 70, 71]
    store.history.append("fork", numbers(50, 50))
    assert seen(store, "fork") == [1, 2, 3, 4, 50]
    assert seen(store, "sibling") == [1, 2, 3, 4, 5, 6]
    assert seen(store, source) == list(range(1, 11))


def test_a_fork_trims_what_it_shares_only_for_itself(store: Store, source: str) -> None:
    store.sessions.fork(source, "fork")
    assert store.history.trim("fork", keep_last=2) == 8
    assert seen(store, "fork") == [9, 10]
    assert seen(store, source) == list(range(1, 11))


def test_a_cleared_fork_starts_at_one(store: Store, source: str) -> None:
    store.sessions.fork(source, "fork", at_seq=4)
    assert store.history.clear("fork") == 4
    assert store.history.append("fork", numbers(7, 7))[0].seq == 1
    assert (seen(store, "fork"), seen(store, source)) == ([7], list(range(1, 11)))


def test_turns_go_on_from_where_a_fork_left(store: Store) -> None:
    store.sessions.create("s")
    store.history.append("s", [NewEntry("…", role=role) for role in ("user", "assistant", "user", "user")])
    store.sessions.fork("s", "fork", at_seq=2)
    store.sessions.fork("fork", "fork of fork", at_seq=1)
    store.sessions.fork("s", "empty", at_seq=0)
    turns = {
        session_id: store.history.append(session_id, [NewEntry("…", role="user")])[0].turn
        for session_id in ("s", "fork", "fork of fork", "empty")
    }
    assert turns == {"s": 4, "fork": 2, "fork of fork": 2, "empty": 1}


def test_a_fork_has_the_state_and_goes_its_own_way(store: Store, source: str) -> None:
    store.state.set(source, "a", 1)
    store.state.set(source, "a", 2)
    store.sessions.fork(source, "fork", at_seq=0)
    assert store.state.entry("fork", "a") == store.state.entry(source, "a")
    store.state.set(source, "a", 3)
    store.state.delete("fork", "a")
    store.state.set("fork", "b", 1)
    assert (store.state.get_all(source), store.state.get_all("fork")) == ({"a": 3}, {"b": 1})


def test_a_fork_has_no_state_that_has_expired(store: Store, source: str, clock: MovableClock, content: Content) -> None:
    store.state.set(source, "short", 1, ttl=timedelta(seconds=5))
    store.state.set(source, "long", 1, ttl=timedelta(seconds=50))
    clock.advance(seconds=5)
    store.sessions.fork(source, "fork")
    assert store.state.get_all("fork") == {"long": 1}
    assert [row["key"] for row in content.rows("state_entries", session_id="fork")] == ["long"]
    clock.advance(seconds=45)
    assert store.state.get_all("fork") == {}


def test_a_fork_has_the_summaries_up_to_its_end(store: Store, source: str, content: Content) -> None:
    for start, end in ((1, 3), (4, 6), (7, 9)):
        content.query(
            "INSERT INTO summaries (namespace, session_id, start_seq, end_seq, content, created_at) "
            f"SELECT namespace, session_id, {start}, {end}, 'up to {end}', created_at FROM sessions "
            "WHERE session_id = :source",
            source=source,
        )
    store.sessions.fork(source, "fork", at_seq=6)
    assert [row["content"] for row in content.rows("summaries", session_id="fork")] == ["up to 3", "up to 6"]


def test_a_fork_has_nothing_of_a_session_that_is_not_its_source(store: Store, source: str, content: Content) -> None:
    store.sessions.create("other")
    store.history.append("other", numbers(1, 10))
    store.history.add_summary("other", start_seq=1, end_seq=2, content="1 and 2")
    store.state.set("other", "a", 1)
    store.lists.append("other", "l", [1])
    store.sessions.fork(source, "fork")
    for table in ("summaries", "state_entries", "session_lists", "session_list_items"):
        assert content.rows(table, session_id="other")
        assert not content.rows(table, session_id="fork"), table


def test_a_fork_has_the_attributes_and_more_metadata(store: Store) -> None:
    attributes = {
        "user_id": "ada", "agent_name": "coder", "title": "t", "instructions": "be kind", "project_root": "/p",
        "cwd": "/p/c", "ttl": timedelta(hours=1),
    }  # fmt: skip
    store.sessions.create("s", metadata={"a": 1, "b": 2}, **attributes)
    fork = store.sessions.fork("s", "fork", metadata={"b": 3, "c": 4})
    assert {name: getattr(fork, name) for name in attributes} == attributes
    assert fork.metadata == {"a": 1, "b": 3, "c": 4}
    assert store.sessions.get("fork") == fork
    assert store.sessions.get("s").metadata == {"a": 1, "b": 2}


def test_a_fork_of_nothing_fails(store: Store) -> None:
    with pytest.raises(SessionNotFoundError):
        store.sessions.fork("missing", "fork")
    assert not store.sessions.exists("fork")


def test_a_fork_onto_a_living_session_fails(store: Store, source: str) -> None:
    store.sessions.create("there")
    store.state.set("there", "a", 1)
    for target in ("there", source):
        with pytest.raises(SessionExistsError) as caught:
            store.sessions.fork(source, target)
        assert caught.value.session_id == target
    assert (seen(store, "there"), store.state.get_all("there")) == ([], {"a": 1})


def test_a_fork_behind_the_end_fails(store: Store, source: str) -> None:
    for at_seq in (11, 2**63 - 1):
        with pytest.raises(InvalidValueError):
            store.sessions.fork(source, "fork", at_seq=at_seq)
    assert not store.sessions.exists("fork")


def test_the_lineage_names_parents_and_forks(store: Store, source: str, clock: MovableClock) -> None:
    clock.advance(seconds=1)
    store.sessions.fork(source, "a", at_seq=7)
    clock.advance(seconds=1)
    store.sessions.fork("a", "b", at_seq=3)
    store.sessions.fork("a", "c", at_seq=5)
    assert store.sessions.lineage("b").ancestors == (Ancestor("a", 3), Ancestor(source, 7))
    assert store.sessions.lineage("b").root_session_id == source
    assert store.sessions.lineage("a").forks == ("b", "c")
    assert store.sessions.lineage(source).forks == ("a",)
    assert store.sessions.lineage(source).ancestors == ()


def test_the_lineage_ends_at_an_ancestor_that_was_deleted(store: Store, source: str) -> None:
    store.sessions.fork(source, "a", at_seq=7)
    store.sessions.fork("a", "b", at_seq=3)
    store.sessions.delete("a")
    lineage = store.sessions.lineage("b")
    assert (lineage.ancestors, lineage.root_session_id) == ((Ancestor("a", 3),), source)
    assert store.sessions.lineage(source).forks == ()


def test_a_session_made_anew_is_no_parent_of_the_forks_of_the_old(
    store: Store, source: str, clock: MovableClock
) -> None:
    store.sessions.fork(source, "fork")
    store.sessions.delete(source)
    clock.advance(seconds=1)
    store.sessions.create(source)
    assert store.sessions.lineage(source).forks == ()
    assert seen(store, source) == []
    assert seen(store, "fork") == list(range(1, 11))


def test_a_fork_of_an_expired_session_fails(store: Store, clock: MovableClock) -> None:
    store.sessions.create("s", ttl=timedelta(minutes=1))
    clock.advance(minutes=1)
    with pytest.raises(SessionNotFoundError):
        store.sessions.fork("s", "fork")


def test_a_fork_takes_the_place_of_a_session_that_expired(store: Store, source: str, clock: MovableClock) -> None:
    store.sessions.create("old", ttl=timedelta(minutes=1))
    store.history.append("old", numbers(90, 95))
    store.state.set("old", "a", 1)
    clock.advance(minutes=1)
    store.sessions.fork(source, "old", at_seq=2)
    assert (seen(store, "old"), store.state.get_all("old")) == ([1, 2], {})


def test_a_fork_takes_the_place_of_the_expired_session_whose_entries_it_sees(
    store: Store, clock: MovableClock, content: Content
) -> None:
    """The target hands its entries over, to the very session that is being forked, in the middle of the fork."""
    store.sessions.create("root", ttl=timedelta(minutes=1))
    store.history.append("root", numbers(1, 5))
    store.sessions.fork("root", "a")
    store.sessions.update("a", ttl=None)
    store.history.append("a", numbers(6, 7))
    clock.advance(minutes=1)
    store.sessions.fork("a", "root", at_seq=6)
    assert unsound(content) == []
    assert (seen(store, "root"), seen(store, "a")) == ([1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 5, 6, 7])


def test_an_entry_of_the_source_is_known_to_the_fork_by_its_id(store: Store) -> None:
    store.sessions.create("s")
    [original] = store.history.append("s", [NewEntry("a", entry_id="one")])
    store.sessions.fork("s", "fork")
    [again] = store.history.append("fork", [NewEntry("a", entry_id="one")])
    assert (again.seq, again.created_at) == (original.seq, original.created_at)
    assert seen(store, "fork") == ["a"]


def test_an_entry_behind_the_fork_is_unknown_to_it(store: Store) -> None:
    store.sessions.create("s")
    store.history.append("s", [NewEntry("a", entry_id="one"), NewEntry("b", entry_id="two")])
    store.sessions.fork("s", "fork", at_seq=1)
    store.history.append("fork", [NewEntry("other", entry_id="two")])
    assert (seen(store, "s"), seen(store, "fork")) == (["a", "b"], ["a", "other"])
    store.sessions.delete("s")
    assert seen(store, "fork") == ["a", "other"]
