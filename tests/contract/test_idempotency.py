"""Appending again: by `entry_id`, or by the position that the entries are to follow, nothing is stored twice."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from statestore import ConflictError, InvalidValueError, NewEntry, Usage
from tests.support.content import Content

Store = Any


def letters(text: str) -> list[NewEntry]:
    return [NewEntry(letter) for letter in text]


def read(store: Store, session_id: str = "s") -> str:
    return "".join(entry.content for entry in store.history.read(session_id))


@pytest.fixture(autouse=True)
def session(store: Store) -> None:
    store.sessions.create("s")


def test_an_entry_id_is_stored_once(store: Store) -> None:
    [first] = store.history.append("s", [NewEntry({"text": "a"}, entry_id="one")])
    [again] = store.history.append("s", [NewEntry({"text": "a"}, entry_id="one")])
    assert again == first
    assert store.history.read("s") == [first]


def test_an_entry_id_of_the_store_can_be_sent_again(store: Store) -> None:
    [first] = store.history.append("s", letters("a"))
    assert store.history.append("s", [NewEntry("a", entry_id=first.entry_id)]) == [first]


def test_what_is_new_in_a_batch_is_added_and_what_is_not_is_found(store: Store) -> None:
    store.history.append("s", [NewEntry("a", entry_id="a"), NewEntry("b", entry_id="b")])
    batch = [NewEntry(letter, entry_id=letter) for letter in "abcd"]
    stored = store.history.append("s", batch)
    assert [(entry.seq, entry.entry_id) for entry in stored] == [(1, "a"), (2, "b"), (3, "c"), (4, "d")]
    assert store.history.append("s", batch) == stored
    assert read(store) == "abcd"


def test_a_batch_is_answered_in_its_own_order(store: Store) -> None:
    store.history.append("s", [NewEntry("b", entry_id="b")])
    stored = store.history.append("s", [NewEntry(letter, entry_id=letter) for letter in "abc"])
    assert [(entry.content, entry.seq) for entry in stored] == [("a", 2), ("b", 1), ("c", 3)]


def test_turns_count_only_what_is_added(store: Store) -> None:
    store.history.append("s", [NewEntry("a", role="user", entry_id="a")])
    batch = [NewEntry("a", role="user", entry_id="a"), NewEntry("b", role="assistant"), NewEntry("c", role="user")]
    assert [entry.turn for entry in store.history.append("s", batch)] == [1, 1, 2]
    assert store.history.append("s", [NewEntry("d", role="user")])[0].turn == 3


def test_turns_count_only_what_is_added_behind_a_position(store: Store) -> None:
    users = [NewEntry(letter, role="user") for letter in "abc"]
    store.history.append("s", users[:2])
    assert [entry.turn for entry in store.history.append("s", users, after_seq=0)] == [1, 2, 3]


def test_another_content_under_a_known_id_is_a_conflict(store: Store, content: Content) -> None:
    store.history.append("s", [NewEntry("a", entry_id="one")])
    before = content.snapshot()
    with pytest.raises(ConflictError) as caught:
        store.history.append("s", [NewEntry("new"), NewEntry("b", entry_id="one")])
    assert caught.value.actual == 1
    assert content.snapshot() == before


def test_the_order_of_keys_belongs_to_the_content(store: Store) -> None:
    store.history.append("s", [NewEntry({"a": 1, "b": 2}, entry_id="one")])
    with pytest.raises(ConflictError):
        store.history.append("s", [NewEntry({"b": 2, "a": 1}, entry_id="one")])


@pytest.mark.parametrize(("first", "second"), [(1, 1.0), (0, False), (0.0, -0.0)])
def test_a_number_of_another_type_is_another_content(store: Store, first: Any, second: Any) -> None:
    store.history.append("s", [NewEntry(first, entry_id="one")])
    with pytest.raises(ConflictError):
        store.history.append("s", [NewEntry(second, entry_id="one")])


FULL = NewEntry(
    {"role": "assistant", "content": "a"},
    role="assistant",
    agent_name="planner",
    usage=Usage(input_tokens=10, output_tokens=5, cache_read_input_tokens=3),
    provider_name="p",
    request_model="m",
    response_model="m-1",
    cost_usd=Decimal("123456789.1234567890"),
    tool_name="t",
    tool_call_id="c",
    duration=timedelta(milliseconds=1, microseconds=7),
    finish_reason="stop",
    error_type="timeout",
    metadata={"k": 1, "l": [1, {"m": None}]},
    entry_id="one",
    created_at=datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC),
)
BESIDE: dict[str, list[Any]] = {
    "role": ["user", None],
    "agent_name": ["other", None],
    "usage": [Usage(input_tokens=10, output_tokens=6, cache_read_input_tokens=3), Usage(input_tokens=10), None],
    "provider_name": ["other", None],
    "request_model": ["other", None],
    "response_model": ["other", None],
    "cost_usd": [1],
    "tool_name": ["other", None],
    "tool_call_id": ["other", None],
    "duration": [timedelta(milliseconds=1), None],
    "finish_reason": ["length", None],
    "error_type": ["other", None],
    "metadata": [{"k": 1}, {"k": True, "l": [1, {"m": None}]}, None],
    "created_at": [datetime(2026, 1, 2, tzinfo=UTC)],
}
OTHERS = [(name, value) for name, values in BESIDE.items() for value in values]


def test_an_entry_with_all_that_can_be_said_of_it_is_stored_once(store: Store) -> None:
    store.history.append("s", [FULL])
    assert store.history.append("s", [FULL]) == store.history.read("s")
    assert store.history.append("s", [FULL], after_seq=0) == store.history.read("s")
    # What the store fills in by itself is no difference, nor is the order of metadata's keys.
    silent = replace(FULL, cost_usd=None, created_at=None, metadata={"l": [1, {"m": None}], "k": 1})
    assert store.history.append("s", [silent]) == store.history.read("s")
    assert store.history.count("s") == 1


def test_what_stands_beside_the_content_belongs_to_the_entry(
    store: Store, content: Content, subtests: pytest.Subtests
) -> None:
    store.history.append("s", [FULL])
    before = content.snapshot()
    for name, value in OTHERS:
        if (name, value) == ("role", None):
            continue
        with subtests.test(name, value=value):
            with pytest.raises(ConflictError, match="under entry_id 'one', at position 1") as caught:
                store.history.append("s", [NewEntry("new"), replace(FULL, **{name: value})])
            assert (caught.value.actual, caught.value.entry_id) == (1, "one")
            assert str(caught.value.field).partition(".")[0] == name
            with pytest.raises(ConflictError, match="position 1"):
                store.history.append("s", [replace(FULL, entry_id=None, **{name: value})], after_seq=0)
            assert content.snapshot() == before


def test_a_cost_that_the_store_computed_is_no_difference(store: Store) -> None:
    store.prices.set("m", input_price=1, output_price=2)
    entry = NewEntry("a", response_model="m", usage=Usage(input_tokens=10, output_tokens=5), entry_id="one")
    [first] = store.history.append("s", [entry])
    assert first.cost_usd is not None
    assert store.history.append("s", [entry]) == [first]


def test_a_plain_message_says_nothing_but_its_content(store: Store) -> None:
    message = {"role": "user", "content": "a"}
    [first] = store.history.append("s", [NewEntry(message, agent_name="planner", metadata={"k": 1})])
    assert store.history.append("s", [message], after_seq=0) == [first]


def test_an_id_may_stand_in_two_sessions(store: Store) -> None:
    store.sessions.create("other")
    store.history.append("s", [NewEntry("a", entry_id="one")])
    store.history.append("other", [NewEntry("b", entry_id="one")])
    assert (read(store), read(store, "other")) == ("a", "b")


def test_an_id_stands_once_in_a_call(store: Store) -> None:
    with pytest.raises(InvalidValueError):
        store.history.append("s", [NewEntry("a", entry_id="one"), NewEntry("a", entry_id="one")])
    assert read(store) == ""


def test_an_id_is_free_again_when_its_entry_is_gone(store: Store) -> None:
    store.history.append("s", [NewEntry("a", entry_id="one")])
    store.history.pop_last("s")
    store.history.append("s", [NewEntry("b", entry_id="one")])
    store.history.trim("s", keep_last=0)
    store.history.append("s", [NewEntry("c", entry_id="one")])
    assert read(store) == "c"


def test_a_first_append_with_an_id_may_create_the_session(store: Store) -> None:
    for _ in range(2):
        store.history.append("new", [NewEntry("a", entry_id="one")], create=True)
    assert read(store, "new") == "a"


def test_a_growing_log_is_kept_whole_by_position(store: Store) -> None:
    """The three calls of the issue: 3, then 5 by sending all again, then 5 by sending an overlap."""
    counts = []
    for after_seq, text in ((0, "abc"), (0, "abcde"), (3, "de")):
        store.history.append("s", letters(text), after_seq=after_seq)
        counts.append(store.history.count("s"))
    assert counts == [3, 5, 5]
    assert read(store) == "abcde"


def test_a_position_gives_back_what_stood_there_and_what_was_added(store: Store) -> None:
    old = store.history.append("s", letters("abc"))
    stored = store.history.append("s", letters("bcd"), after_seq=1)
    assert stored[:2] == old[1:]
    assert [entry.seq for entry in stored] == [2, 3, 4]


def test_a_shorter_log_adds_nothing(store: Store) -> None:
    store.history.append("s", letters("abcde"))
    assert [entry.content for entry in store.history.append("s", letters("bc"), after_seq=1)] == ["b", "c"]
    assert read(store) == "abcde"


@pytest.mark.parametrize("after_seq", [3, 99, 2**62, 2**63 - 1])
def test_a_gap_is_a_conflict(store: Store, content: Content, after_seq: int) -> None:
    store.history.append("s", letters("ab"))
    before = content.snapshot()
    with pytest.raises(ConflictError) as caught:
        store.history.append("s", letters("c"), after_seq=after_seq)
    assert (caught.value.expected, caught.value.actual) == (after_seq, 2)
    assert content.snapshot() == before


def test_another_content_at_a_position_is_a_conflict(store: Store, content: Content) -> None:
    store.history.append("s", letters("abc"))
    before = content.snapshot()
    with pytest.raises(ConflictError):
        store.history.append("s", letters("bX"), after_seq=1)
    with pytest.raises(ConflictError):
        store.history.append("s", letters("Xbcde"), after_seq=0)
    assert content.snapshot() == before


def test_a_gap_in_a_session_to_be_made_makes_no_session(store: Store) -> None:
    with pytest.raises(ConflictError):
        store.history.append("new", letters("a"), after_seq=5, create=True)
    assert not store.sessions.exists("new")


def test_a_conflict_within_a_transaction_has_written_nothing(store: Store) -> None:
    with store.transaction() as tx, pytest.raises(ConflictError):
        tx.history.append("new", letters("a"), after_seq=5, create=True)
    assert not store.sessions.exists("new")


def test_positions_that_were_trimmed_are_left_out_of_the_answer(store: Store) -> None:
    store.history.append("s", letters("abc"))
    store.history.trim("s", keep_last=1)
    assert store.history.append("s", letters("a"), after_seq=0) == []
    stored = store.history.append("s", letters("abcd"), after_seq=0)
    assert [(entry.seq, entry.content) for entry in stored] == [(3, "c"), (4, "d")]
    assert read(store) == "cd"


def test_a_position_serves_a_fork_too(store: Store) -> None:
    store.history.append("s", letters("abc"))
    store.sessions.fork("s", "fork", at_seq=2)
    store.history.append("fork", letters("bX"), after_seq=1)
    store.history.append("fork", letters("abXY"), after_seq=0)
    assert (read(store), read(store, "fork")) == ("abc", "abXY")


def test_a_large_log_is_sent_again_in_one_call(store: Store) -> None:
    log = [NewEntry(n) for n in range(1300)]
    store.history.append("s", log[:700])
    stored = store.history.append("s", log, after_seq=0)
    assert [entry.seq for entry in stored] == list(range(1, 1301))
    assert store.history.count("s") == 1300


def test_a_conflict_is_settled_as_the_caller_says(store: Store) -> None:
    first = NewEntry("one", role="assistant", entry_id="a", usage=Usage(input_tokens=1, output_tokens=1))
    store.history.append("s", [first, NewEntry("two", entry_id="b")])
    again = [
        replace(first, content="uno", usage=Usage(input_tokens=5, output_tokens=1)),
        NewEntry("two", entry_id="b"),
        NewEntry("three", entry_id="c"),
    ]
    with pytest.raises(ConflictError) as caught:
        store.history.append("s", again, on_conflict="raise")
    assert (caught.value.entry_id, caught.value.field) == ("a", "content")
    assert store.history.messages("s") == ["one", "two"]

    kept = store.history.append("s", again, on_conflict="keep")
    assert [(entry.seq, entry.content) for entry in kept] == [(1, "one"), (2, "two"), (3, "three")]
    assert store.history.messages("s") == ["one", "two", "three"]

    replaced = store.history.append("s", [*again, NewEntry("four")], on_conflict="replace")
    assert [entry.content for entry in replaced] == store.history.messages("s") == ["uno", "two", "three", "four"]
    assert replaced == store.history.read("s")
    assert store.usage.totals().input_tokens == 5


@pytest.mark.parametrize("field", ["usage", "metadata", "tool_name"])
def test_what_stands_beside_the_content_is_settled_too(store: Store, field: str) -> None:
    entry = NewEntry("x", entry_id="a", usage=Usage(input_tokens=1), metadata={"a": 1}, tool_name="t")
    store.history.append("s", [entry])
    other = {"usage": Usage(input_tokens=9), "metadata": {"b": 1}, "tool_name": "u"}[field]
    changed = replace(entry, **{field: other})
    with pytest.raises(ConflictError) as caught:
        store.history.append("s", [changed])
    assert caught.value.entry_id == "a"
    assert caught.value.field.startswith(field)
    assert getattr(store.history.append("s", [changed], on_conflict="keep")[0], field) == getattr(entry, field)
    assert getattr(store.history.append("s", [changed], on_conflict="replace")[0], field) == other
    assert getattr(store.history.get("s", 1), field) == other


def test_what_a_fork_replaces_its_source_keeps(store: Store) -> None:
    store.history.append("s", [NewEntry("one", role="user", entry_id="a"), NewEntry("two", entry_id="b")])
    store.sessions.fork("s", "fork")
    changed = [NewEntry("uno", role="assistant", entry_id="a"), NewEntry("three", role="user")]
    assert [entry.turn for entry in store.history.append("fork", changed, on_conflict="replace")] == [0, 1]
    assert store.history.messages("fork") == ["uno", "two", "three"]
    assert store.history.messages("s") == ["one", "two"]


def test_entries_are_returned_with_the_turns_that_they_have_after_a_replacement(store: Store) -> None:
    users = [NewEntry({"role": "user", "content": name}, entry_id=name) for name in ("a", "b", "c")]
    store.history.append("s", users[:2])
    system = NewEntry({"role": "system", "content": "x"}, entry_id="a")
    returned = store.history.append("s", [system, *users[1:]], on_conflict="replace")
    assert [entry.turn for entry in returned] == [0, 1, 2]
    assert returned == store.history.read("s")


def test_another_entry_at_a_position_is_no_conflict_of_ids(store: Store) -> None:
    store.history.append("s", [NewEntry("one")])
    for choice in ("raise", "keep", "replace"):
        with pytest.raises(ConflictError):
            store.history.append("s", [NewEntry("other")], after_seq=0, on_conflict=choice)
    with pytest.raises(InvalidValueError, match="on_conflict"):
        store.history.append("s", [NewEntry("other")], on_conflict="ignore")
    made = store.history.append("new", [NewEntry("x", entry_id="a")], on_conflict="replace", create=True)
    assert made[0].seq == 1


@pytest.mark.parametrize("after_seq", [None, 1])
def test_a_transaction_goes_on_after_what_is_there_already(store: Store, after_seq: int | None) -> None:
    store.history.append("s", letters("a"))
    entry = NewEntry("b", entry_id="b")
    for _ in range(2):
        with store.transaction() as tx:
            [stored] = tx.history.append("s", [entry], after_seq=after_seq)
            tx.state.increment("s", "times")
            tx.history.append("s", [entry], after_seq=after_seq)
        assert stored.seq == 2
    assert (read(store), store.state.get("s", "times")) == ("ab", 2)


def test_a_transaction_goes_on_after_a_conflict(store: Store) -> None:
    store.history.append("s", [NewEntry("a", entry_id="a")])
    with store.transaction() as tx:
        for given, after_seq in ((NewEntry("b", entry_id="b"), 0), (NewEntry("b", entry_id="a"), 1)):
            with pytest.raises(ConflictError):
                tx.history.append("s", [given], after_seq=after_seq)
        tx.history.append("s", [NewEntry("c", entry_id="c")], after_seq=1)
    assert read(store) == "ac"


def test_a_transaction_appends_to_a_fork_under_ids_of_its_own(store: Store) -> None:
    store.history.append("s", [NewEntry("a", entry_id="a")])
    store.sessions.fork("s", "fork")
    with store.transaction() as tx:
        [shared] = tx.history.append("fork", [NewEntry("a", entry_id="a")], after_seq=1)
        [added] = tx.history.append("fork", [NewEntry("b", entry_id="b")], after_seq=1)
    assert (shared.seq, added.seq, read(store, "fork")) == (1, 2, "ab")


@pytest.mark.parametrize("same_id", [True, False])
def test_of_transactions_that_follow_the_same_position_one_adds_its_entry(
    open_store: Callable[..., Any], same_id: bool
) -> None:
    stores = [open_store() for _ in range(4)]
    barrier = threading.Barrier(len(stores))

    def append(number: int) -> str:
        entry = NewEntry("same" if same_id else str(number), entry_id="same" if same_id else str(number))
        barrier.wait(30)
        try:
            with stores[number].transaction() as tx:
                tx.history.append("s", [entry], after_seq=0)
                tx.state.set("s", "winner", number)
        except ConflictError:
            return "refused"
        return "done"

    with ThreadPoolExecutor(len(stores)) as pool:
        outcomes = sorted(pool.map(append, range(len(stores))))
    assert outcomes == (["done"] * 4 if same_id else ["done", *["refused"] * 3])
    assert stores[0].history.count("s") == 1
