"""Appending and reading: what comes back, in which order, at which position."""

from typing import Any

import pytest

from statestore import EntryNotFoundError, InvalidValueError, NewEntry, SessionNotFoundError

Store = Any


def say(*texts: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text} for text in texts]


def texts(entries: Any) -> list[str]:
    return [entry.content["content"] for entry in entries]


@pytest.fixture
def session(store: Store) -> str:
    store.sessions.create("s")
    return "s"


@pytest.fixture
def alphabet(store: Store, session: str) -> str:
    """A session with the entries a to j at the positions 1 to 10."""
    store.history.append(session, say(*"abcdefghij"))
    return session


def test_entries_come_back_as_they_went_in(store: Store, session: str) -> None:
    message = {"role": "user", "content": "Hi", "z": 1, "a": [1.5, None, True]}
    [stored] = store.history.append(session, [message])
    [read] = store.history.read(session)
    assert read == stored
    assert read.content == message
    assert list(read.content) == list(message)


def test_positions_start_at_one_and_have_no_gaps(store: Store, session: str) -> None:
    first = store.history.append(session, say("a", "b"))
    second = store.history.append(session, say("c"))
    assert [entry.seq for entry in first + second] == [1, 2, 3]


def test_a_batch_keeps_its_order(store: Store, session: str) -> None:
    words = [f"{n}" for n in range(100)]
    assert texts(store.history.append(session, say(*words))) == words
    assert texts(store.history.read(session)) == words


def test_a_batch_may_be_larger_than_one_statement_takes(store: Store, session: str) -> None:
    stored = store.history.append(session, [{"role": "user", "content": str(n)} for n in range(1201)])
    assert [entry.seq for entry in stored] == list(range(1, 1202))
    assert store.history.read(session) == stored


def test_a_batch_takes_any_iterable_of_entries(store: Store, session: str) -> None:
    stored = store.history.append(session, (NewEntry(n) for n in range(3)))
    assert [entry.content for entry in stored] == [0, 1, 2]


def test_appending_nothing_gives_nothing(store: Store, session: str) -> None:
    assert store.history.append(session, []) == []
    assert store.history.count(session) == 0


def test_appending_nothing_still_needs_the_session(store: Store) -> None:
    with pytest.raises(SessionNotFoundError):
        store.history.append("missing", [])


def test_an_append_to_no_session_fails(store: Store) -> None:
    with pytest.raises(SessionNotFoundError) as caught:
        store.history.append("missing", say("a"))
    assert (caught.value.session_id, caught.value.namespace) == ("missing", "default")
    assert not store.sessions.exists("missing")


def test_an_append_makes_the_session_if_told_to(store: Store) -> None:
    store.history.append("new", say("a"), create=True)
    store.history.append("new", say("b"), create=True)
    assert texts(store.history.read("new")) == ["a", "b"]
    assert store.sessions.get("new").user_id is None


def test_last_gives_the_newest_oldest_first(store: Store, alphabet: str) -> None:
    assert texts(store.history.read(alphabet, last=3)) == ["h", "i", "j"]


def test_last_of_nothing_gives_nothing(store: Store, alphabet: str) -> None:
    assert store.history.read(alphabet, last=0) == []


def test_last_of_more_than_there_are_gives_all(store: Store, alphabet: str) -> None:
    assert texts(store.history.read(alphabet, last=11)) == list("abcdefghij")
    assert len(store.history.read(alphabet, last=2**63 - 1)) == 10


def test_without_a_window_all_is_read(store: Store, alphabet: str) -> None:
    assert texts(store.history.read(alphabet)) == list("abcdefghij")
    assert texts(store.history.read(alphabet, last=None)) == list("abcdefghij")


WINDOWS: list[tuple[dict[str, int], str]] = [
    ({"after": 7}, "hij"),
    ({"after": 0}, "abcdefghij"),
    ({"after": 10}, ""),
    ({"after": 99}, ""),
    ({"after": 2**63 - 1}, ""),
    ({"after": 2**31 - 1}, ""),
    ({"after": 2**31 - 1, "limit": 2**31 - 1}, ""),
    ({"after": 1, "limit": 2**31 - 1}, "bcdefghij"),
    ({"before": 2**31 - 1, "last": 2}, "ij"),
    ({"last": 2**31 - 1}, "abcdefghij"),
    ({"before": 4}, "abc"),
    ({"before": 1}, ""),
    ({"before": 0}, ""),
    ({"before": 2**63 - 1}, "abcdefghij"),
    ({"limit": 2}, "ab"),
    ({"limit": 0}, ""),
    ({"limit": 99}, "abcdefghij"),
    ({"after": 2, "limit": 3}, "cde"),
    ({"after": 2, "before": 5}, "cd"),
    ({"after": 2, "before": 5, "limit": 1}, "c"),
    ({"after": 2, "before": 5, "last": 1}, "d"),
    ({"after": 5, "before": 2}, ""),
    ({"before": 5, "last": 2}, "cd"),
    ({"before": 99, "last": 2}, "ij"),
    ({"after": 8, "last": 5}, "ij"),
]


def test_a_window_holds_what_its_bounds_say(store: Store, alphabet: str, subtests: pytest.Subtests) -> None:
    for window, expected in WINDOWS:
        with subtests.test(window=window):
            assert "".join(texts(store.history.read(alphabet, **window))) == expected


def test_pages_forwards_and_backwards_see_each_entry_once(store: Store, alphabet: str) -> None:
    forwards: list[str] = []
    position = 0
    while page := store.history.read(alphabet, after=position, limit=3):
        forwards += texts(page)
        position = page[-1].seq
    backwards: list[str] = []
    position = 11
    while page := store.history.read(alphabet, before=position, last=3):
        backwards = texts(page) + backwards
        position = page[0].seq
    assert forwards == backwards == list("abcdefghij")


def test_last_and_limit_exclude_each_other(store: Store, alphabet: str) -> None:
    with pytest.raises(InvalidValueError):
        store.history.read(alphabet, last=1, limit=1)


def test_one_entry_is_found_by_its_position(store: Store, alphabet: str) -> None:
    assert store.history.get(alphabet, 3).content["content"] == "c"


@pytest.mark.parametrize("seq", [0, 11, 2**31 - 1, 2**31, 2**31 + 1, 2**61, 2**63 - 1])
def test_no_entry_is_found_where_there_is_none(store: Store, alphabet: str, seq: int) -> None:
    with pytest.raises(EntryNotFoundError) as caught:
        store.history.get(alphabet, seq)
    assert (caught.value.session_id, caught.value.seq) == (alphabet, seq)


def test_the_count_follows_appends_pops_and_trims(store: Store, alphabet: str) -> None:
    counts = [store.history.count(alphabet)]
    store.history.pop_last(alphabet, 2)
    counts.append(store.history.count(alphabet))
    store.history.trim(alphabet, keep_last=3)
    counts.append(store.history.count(alphabet))
    store.history.append(alphabet, say("x"))
    counts.append(store.history.count(alphabet))
    assert counts == [10, 8, 3, 4]
    assert store.sessions.get(alphabet).entry_count == 4


def test_popped_entries_are_returned_oldest_first_and_gone(store: Store, alphabet: str) -> None:
    assert texts(store.history.pop_last(alphabet, 3)) == ["h", "i", "j"]
    assert texts(store.history.read(alphabet)) == list("abcdefg")


def test_pop_takes_one_if_not_told_how_many(store: Store, alphabet: str) -> None:
    assert texts(store.history.pop_last(alphabet)) == ["j"]


def test_pop_takes_all_where_there_are_fewer(store: Store, session: str) -> None:
    store.history.append(session, say("a", "b"))
    assert texts(store.history.pop_last(session, 5)) == ["a", "b"]
    assert store.history.pop_last(session) == []


def test_pop_of_none_takes_none(store: Store, alphabet: str) -> None:
    assert store.history.pop_last(alphabet, 0) == []
    assert store.history.count(alphabet) == 10


def test_popped_positions_are_used_again(store: Store, alphabet: str) -> None:
    store.history.pop_last(alphabet, 2)
    [entry] = store.history.append(alphabet, say("new"))
    assert entry.seq == 9
    assert texts(store.history.read(alphabet, last=2)) == ["h", "new"]


def test_trim_keeps_the_newest_at_their_positions(store: Store, alphabet: str) -> None:
    assert store.history.trim(alphabet, keep_last=3) == 7
    kept = store.history.read(alphabet)
    assert [entry.seq for entry in kept] == [8, 9, 10]
    assert texts(kept) == ["h", "i", "j"]
    assert store.history.append(alphabet, say("k"))[0].seq == 11
    assert store.history.trim(alphabet, keep_last=99) == 0


def test_a_window_on_a_trimmed_history_starts_where_it_starts(store: Store, alphabet: str) -> None:
    store.history.trim(alphabet, keep_last=4)
    assert texts(store.history.read(alphabet, limit=2)) == ["g", "h"]
    assert texts(store.history.read(alphabet, after=3, limit=2)) == ["g", "h"]
    assert texts(store.history.read(alphabet, last=99)) == ["g", "h", "i", "j"]
    assert store.history.read(alphabet, before=7) == []
    with pytest.raises(EntryNotFoundError):
        store.history.get(alphabet, 6)


def test_trim_to_none_empties_but_counts_on(store: Store, alphabet: str) -> None:
    assert store.history.trim(alphabet, keep_last=0) == 10
    assert store.history.read(alphabet) == []
    assert store.history.append(alphabet, say("k"))[0].seq == 11


def test_clear_empties_and_starts_at_one(store: Store, alphabet: str) -> None:
    store.state.set(alphabet, "kept", True)
    assert store.history.clear(alphabet) == 10
    assert store.history.clear(alphabet) == 0
    assert store.history.read(alphabet) == []
    [entry] = store.history.append(alphabet, say("anew"))
    assert (entry.seq, entry.turn) == (1, 1)
    assert store.state.get(alphabet, "kept") is True


@pytest.mark.parametrize("operation", ["read", "count", "clear", "pop_last"])
def test_a_session_that_is_not_there_is_said_to_be_missing(store: Store, operation: str) -> None:
    with pytest.raises(SessionNotFoundError):
        getattr(store.history, operation)("missing")


def test_a_turn_starts_with_each_user_entry(store: Store, session: str) -> None:
    roles = ["system", "user", "assistant", "tool", "assistant", "user", "assistant"]
    entries = store.history.append(session, [NewEntry("…", role=role) for role in roles])
    entries += store.history.append(session, [NewEntry("…", role="assistant")])
    entries += store.history.append(session, [NewEntry("…", role="user"), NewEntry("…", role="user")])
    assert [entry.turn for entry in entries] == [0, 1, 1, 1, 1, 2, 2, 2, 3, 4]
    assert store.history.read(session) == entries


def test_turns_go_on_from_what_a_pop_left(store: Store, session: str) -> None:
    roles = ["user", "assistant", "user", "assistant"]
    store.history.append(session, [NewEntry("…", role=role) for role in roles])
    store.history.pop_last(session)
    assert store.history.append(session, [NewEntry("…", role="assistant")])[0].turn == 2
    store.history.pop_last(session, 2)
    assert store.history.append(session, [NewEntry("…", role="assistant")])[0].turn == 1
    assert store.history.append(session, [NewEntry("…", role="user")])[0].turn == 2


def test_turns_go_on_after_a_trim(store: Store, session: str) -> None:
    store.history.append(session, say("a", "b", "c"))
    store.history.trim(session, keep_last=0)
    assert store.history.append(session, say("d"))[0].turn == 4


def test_a_tool_result_in_the_shape_of_anthropic_starts_no_turn(store: Store, session: str) -> None:
    result = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1", "content": "4"}]}
    entries = store.history.append(session, [*say("2+2?"), result])
    assert [(entry.role, entry.turn) for entry in entries] == [("user", 1), ("tool", 1)]
    assert store.history.read(session)[1].content == result
