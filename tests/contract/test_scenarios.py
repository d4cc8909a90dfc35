"""What the systems that statestore takes over from promise, one test for each of their promises."""

import uuid
from datetime import timedelta
from typing import Any

import pytest

from statestore import ConversationState, NewEntry, SessionNotFoundError, StateKeyNotFoundError
from tests.support.clock import MovableClock
from tests.support.crowd import at_once

Store = Any


def say(*texts: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text} for text in texts]


def texts(entries: Any) -> list[str]:
    return [entry.content["content"] for entry in entries]


# --- PromptKit's state store


def test_loading_what_is_missing_finds_nothing(store: Store) -> None:
    with pytest.raises(SessionNotFoundError):
        store.sessions.load("missing")


def test_each_user_s_conversations_are_listed(store: Store) -> None:
    for number, user in enumerate(["alice", "bob", "alice", "bob", "alice"]):
        store.sessions.create(f"c{number}", user_id=user)
    found = {user: len(store.sessions.page(user_id=user).sessions) for user in ("alice", "bob", "charlie")}
    assert found == {"alice": 3, "bob": 2, "charlie": 0}


def test_ten_conversations_in_pages_of_three(store: Store) -> None:
    for number in range(10):
        store.sessions.create(f"c{number}", user_id="ada")
    sizes, cursor, seen = [], None, set()
    while True:
        page = store.sessions.page(user_id="ada", limit=3, cursor=cursor)
        sizes.append(len(page.sessions))
        seen |= {session.session_id for session in page.sessions}
        if page.next_cursor is None:
            break
        cursor = page.next_cursor
    # The cursor says beforehand that there is nothing more, which an offset finds out by an empty page.
    assert (sizes, len(seen)) == ([3, 3, 3, 1], 10)


def test_a_page_has_a_hundred_conversations_unless_told_otherwise(store: Store) -> None:
    with store.transaction() as tx:
        for number in range(150):
            tx.sessions.create(f"c{number}")
    assert len(store.sessions.page().sessions) == 100


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("order_by", ["created_at", "last_activity_at"])
def test_conversations_are_sorted_in_both_directions(
    store: Store, clock: MovableClock, order_by: Any, descending: bool
) -> None:
    for name in "abc":
        store.sessions.create(name)
        clock.advance(minutes=1)
    store.history.append("a", say("x"))
    found = [s.session_id for s in store.sessions.page(order_by=order_by, descending=descending).sessions]
    expected = ["a", "b", "c"] if order_by == "created_at" else ["b", "c", "a"]
    assert found == (expected[::-1] if descending else expected)


def test_the_last_messages(store: Store) -> None:
    store.history.append("c", say("1", "2", "3", "4", "5"), create=True)
    assert texts(store.history.read("c", last=2)) == ["4", "5"]
    assert len(store.history.read("c", last=100)) == 5


def test_a_log_that_is_written_again_from_a_position(store: Store) -> None:
    for after_seq, written, total in ((0, "abc", 3), (0, "abcde", 5), (3, "de", 5)):
        store.history.append("c", say(*written), after_seq=after_seq, create=True)
        assert store.history.count("c") == total
    assert texts(store.history.read("c")) == list("abcde")


def test_metadata_is_merged_key_by_key(store: Store) -> None:
    store.sessions.create("c")
    store.sessions.merge_metadata("c", {"a": 1, "b": 2})
    store.sessions.merge_metadata("c", {"b": "TWO", "c": 3})
    assert store.sessions.get("c").metadata == {"a": 1, "b": "TWO", "c": 3}


def test_fifty_merges_at_once_all_count(store: Store) -> None:
    store.sessions.create("c")
    at_once(*[lambda n=n: store.sessions.merge_metadata("c", {f"k{n}": n}) for n in range(50)])
    assert store.sessions.get("c").metadata == {f"k{n}": n for n in range(50)}


def test_an_expired_conversation_cannot_be_forked(store: Store, clock: MovableClock) -> None:
    store.sessions.create("c", ttl=timedelta(hours=1))
    clock.advance(hours=1)
    with pytest.raises(SessionNotFoundError):
        store.sessions.fork("c", "f")


def test_a_lifetime_of_eighty_milliseconds_is_prolonged_by_reading(store: Store, clock: MovableClock) -> None:
    store.sessions.create("c", ttl=timedelta(milliseconds=80))
    for _ in range(2):
        clock.advance(milliseconds=40)
        store.sessions.load("c")
    clock.advance(milliseconds=79)
    assert store.sessions.exists("c")
    clock.advance(milliseconds=1)
    assert not store.sessions.exists("c")


def test_a_lifetime_of_an_hour_with_a_read_every_fifty_minutes(store: Store, clock: MovableClock) -> None:
    store.sessions.create("c", ttl=timedelta(hours=1))
    store.history.append("c", say("x"))
    for _ in range(10):
        clock.advance(minutes=50)
        assert store.history.count("c") == len(store.history.read("c")) == 1
    clock.advance(hours=1)
    with pytest.raises(SessionNotFoundError):
        store.history.read("c")


def test_an_append_after_the_end_begins_anew(store: Store, clock: MovableClock) -> None:
    store.sessions.create("c", ttl=timedelta(hours=1))
    store.history.append("c", say("old", "older"))
    store.state.set("c", "k", 1)
    clock.advance(hours=1)
    store.history.append("c", say("new"), create=True)
    assert texts(store.history.read("c")) == ["new"]
    assert store.state.get_all("c") == {}


def test_saving_fewer_messages_leaves_fewer(store: Store) -> None:
    store.sessions.save(ConversationState("c", entries=say("1", "2", "3")), create=True)
    store.sessions.save(ConversationState("c", entries=say("1")))
    assert texts(store.sessions.load("c").entries) == ["1"]


def test_what_was_loaded_is_the_caller_s_own(store: Store) -> None:
    store.sessions.save(ConversationState("c", entries=say("1"), metadata={"k": [1]}, state={"s": [1]}), create=True)
    loaded = store.sessions.load("c")
    loaded.entries[0].content["content"] = "changed"
    loaded.metadata["k"].append(2)
    loaded.state["s"].append(2)
    again = store.sessions.load("c")
    assert (texts(again.entries), again.metadata, again.state) == (["1"], {"k": [1]}, {"s": [1]})


# --- Conexus' session manager


def test_the_last_three_of_five_interactions(store: Store) -> None:
    store.sessions.create("s")
    for n in range(5):
        store.history.append(
            "s", [NewEntry({"UserRequest": str(n)}, agent_name="locator", duration=timedelta(seconds=n))]
        )
    last = store.history.read("s", last=3)
    assert [entry.content["UserRequest"] for entry in last] == ["2", "3", "4"]
    assert last[0].duration == timedelta(seconds=2)


def test_a_state_key_that_is_missing_is_an_error(store: Store) -> None:
    store.sessions.create("s")
    with pytest.raises(StateKeyNotFoundError):
        store.state.get("s", "missing")


def test_inactive_sessions_are_cleaned_up(store: Store, clock: MovableClock) -> None:
    store.sessions.create("old")
    clock.advance(hours=2)
    store.sessions.create("new")
    assert store.cleanup_inactive(timedelta(hours=1)) == 1
    assert not store.sessions.exists("old")
    assert store.sessions.exists("new")


# --- HotPlex's sessions


def test_an_id_is_the_same_wherever_it_is_derived(store: Store, open_store: Any) -> None:
    derived = store.sessions.derive_id("user-123-session")
    assert derived == "99906396-afa4-5b3f-84bc-2737a6bd1a82"
    assert uuid.UUID(derived).version == 5
    parts = ("bot", "channel", "thread")
    base = store.sessions.derive_id(*parts)
    assert base == open_store().sessions.derive_id(*parts)
    others = {store.sessions.derive_id(*parts[:n], "other", *parts[n + 1 :]) for n in range(3)}
    others |= {open_store(namespace="other").sessions.derive_id(*parts), store.sessions.derive_id(*parts[:2])}
    assert len(others | {base}) == 6


def test_terminating_what_is_missing_is_no_error(store: Store) -> None:
    store.sessions.terminate("missing")


def test_a_session_survives_a_restart_with_its_instructions(open_store: Any) -> None:
    first = open_store()
    session_id = first.sessions.derive_id("chat", "42")
    first.sessions.open(session_id, instructions="Answer in French.", status="starting")
    first.sessions.set_status(session_id, "ready")
    first.history.append(session_id, say("bonjour"))
    first.sessions.terminate(session_id)
    first.close()
    second = open_store()
    resumed = second.sessions.open(second.sessions.derive_id("chat", "42"))
    assert (resumed.resumed, resumed.status, resumed.instructions) == (True, "ready", "Answer in French.")
    assert texts(second.history.read(session_id)) == ["bonjour"]


def test_a_session_left_busy_is_handled(store: Store, clock: MovableClock) -> None:
    store.sessions.create("s")
    store.sessions.set_status("s", "busy")
    clock.advance(minutes=31)
    assert store.sessions.repair_abandoned(older_than=timedelta(minutes=30)) == 1
    assert store.sessions.get("s").status == "ready"
