"""The examples of PromptKit's documentation on its state store, translated: each documented example is one test.

The sections name the pages of its documentation site, or its packages. What they promise besides is in
tests/contract/test_scenarios.py.
"""

import json
import uuid
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from statestore import NEVER, ConflictError, ConversationState, NewEntry, NewSession, SessionNotFoundError, Usage
from tests.support.clock import MovableClock
from tests.support.worlds import entering

Store = Any

DAY = timedelta(days=1)


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def texts(entries: Any) -> list[str]:
    return [entry.content["content"] for entry in entries]


def chat(store: Store, session_id: str, said: str, answer: Callable[[list[str]], str]) -> str:
    """One run of a pipeline with state: what was said before is loaded, and the exchange is saved."""
    with entering(store, store.turn(session_id, create=True)) as turn:
        answered = answer([*texts(turn.window), said])
        turn.append([user(said), assistant(answered)])
    return answered


def from_memory(word: str) -> Callable[[list[str]], str]:
    """A model that knows *word* only if it was sent to it."""
    return lambda sent: f"I know {word}" if any(word in text for text in sent) else "I do not know"


def numbered(n: int) -> list[dict[str, str]]:
    return [user(str(index)) for index in range(n)]


def stored(store: Store, session_id: str, n: int) -> None:
    store.sessions.save(ConversationState(session_id, entries=numbered(n)), create=True)


# --- runtime/how-to/state/manage-state


def test_the_second_message_of_a_session_is_answered_from_the_first(store: Store) -> None:
    chat(store, "user-123-conversation", "Hi, I'm Alice", from_memory("Alice"))
    assert chat(store, "user-123-conversation", "What's my name?", from_memory("Alice")) == "I know Alice"
    assert chat(store, "another", "What's my name?", from_memory("Alice")) == "I do not know"


def test_a_conversation_is_saved_and_loaded(store: Store) -> None:
    said = [user("Hello"), assistant("Hi there!")]
    store.sessions.save(ConversationState("session-1", entries=said), create=True)
    loaded = store.sessions.load("session-1")
    assert [(entry.role, entry.content) for entry in loaded.entries] == [(one["role"], one) for one in said]


def test_a_fork_is_a_copy_under_a_new_id(store: Store) -> None:
    stored(store, "user-123-original", 3)
    store.sessions.fork("user-123-original", "user-123-new-topic")
    store.history.append("user-123-new-topic", [user("other")])
    assert texts(store.history.read("user-123-new-topic")) == ["0", "1", "2", "other"]
    assert texts(store.history.read("user-123-original")) == ["0", "1", "2"]


def test_a_prefix_and_a_lifetime_of_a_day_for_every_conversation(
    open_store: Callable[..., Store], clock: MovableClock
) -> None:
    prefixed = open_store(namespace="myapp:", default_ttl=DAY, clock=clock)
    stored(prefixed, "c", 1)
    prefixed.history.append("appended", [user("x")], create=True)
    other = open_store(clock=clock)
    assert not other.sessions.exists("c")
    clock.advance(hours=24)
    assert prefixed.sessions.page().sessions == []


def test_one_conversation_can_get_another_lifetime_later(store: Store, clock: MovableClock) -> None:
    stored(store, "c", 1)
    store.sessions.update("c", ttl=DAY)
    clock.advance(hours=24)
    assert not store.sessions.exists("c")


def test_two_users_have_separate_conversations(store: Store) -> None:
    for name, said in {"user-alice": "My favorite color is blue", "user-bob": "I love pizza"}.items():
        store.sessions.save(ConversationState(name, entries=[user(said)]), create=True)
    assert texts(store.sessions.load("user-alice").entries) == ["My favorite color is blue"]
    assert texts(store.sessions.load("user-bob").entries) == ["I love pizza"]


@pytest.mark.parametrize("most", [10, 20, 50])
def test_old_messages_are_trimmed_by_loading_and_saving(store: Store, most: int) -> None:
    stored(store, "long", 60)
    stored(store, "short", 5)
    for session_id in ("missing", "long", "short"):
        try:
            conversation = store.sessions.load(session_id)
        except SessionNotFoundError:
            continue
        conversation.entries = conversation.entries[-most:]
        store.sessions.save(conversation)
    assert texts(store.history.read("long")) == [str(n) for n in range(60 - most, 60)]
    assert store.history.count("short") == 5


def test_the_summary_of_messages_that_were_trimmed_stays(store: Store) -> None:
    stored(store, "c", 60)
    store.history.add_summary("c", "Thirty things were said.", start_seq=1, end_seq=30, token_count=6)
    conversation = store.sessions.load("c")
    conversation.entries = conversation.entries[-10:]
    store.sessions.save(conversation)
    [summary] = store.history.summaries("c")
    assert (summary.start_seq, summary.end_seq, summary.token_count) == (1, 30, 6)
    window = store.history.window("c", include_summaries=True)
    assert ([one.content for one in window.summaries], len(window)) == (["Thirty things were said."], 10)
    store.history.append("c", [user("more")])
    assert store.history.read("c", last=1)[0].seq == 61


def test_session_ids_follow_any_scheme(store: Store, clock: MovableClock) -> None:
    names = ["user-7", "conv-8", f"user-7-{clock.now:%Y-%m-%d}", "support-9", f"user-7-conv-{uuid.uuid4()}"]
    for name in names:
        stored(store, name, 1)
    assert {session.session_id for session in store.sessions.page().sessions} == set(names)
    assert {session.session_id for session in store.sessions.page(id_prefix="user-7").sessions} == set(names[::2])


def test_messages_are_dropped_until_the_rest_has_few_enough_tokens(store: Store) -> None:
    store.sessions.save(ConversationState("c", entries=[user("word" * 1000)] * 6), create=True)
    assert len(store.history.window("c", max_tokens=4000)) == 4
    conversation = store.sessions.load("c")
    conversation.entries = [*store.history.window("c", max_tokens=4000)]
    assert store.sessions.save(conversation).trimmed == 2


def test_the_newest_message_is_kept_even_if_it_has_too_many_tokens(store: Store) -> None:
    store.sessions.save(ConversationState("c", entries=[user("old"), user("word" * 5000)]), create=True)
    assert [entry.seq for entry in store.history.window("c", max_tokens=4000)] == [2]


def test_what_cannot_be_loaded_is_started_empty(store: Store) -> None:
    try:
        conversation = store.sessions.load("c")
    except SessionNotFoundError:
        conversation = ConversationState("c")
    conversation.entries.append(user("Hello"))
    assert store.sessions.save(conversation, create=True).created
    assert texts(store.history.read("c")) == ["Hello"]


def test_a_save_that_is_repeated_changes_nothing(store: Store) -> None:
    conversation = ConversationState("c", entries=numbered(3), metadata={"k": 1})
    store.sessions.save(conversation, create=True)
    for _ in range(3):
        report = store.sessions.save(conversation, create=True)
        assert (report.created, report.appended, report.replaced, report.removed) == (False, 0, 0, 0)
    assert store.history.count("c") == 3


def test_a_store_is_tried_with_an_empty_conversation(store: Store) -> None:
    store.sessions.save(ConversationState("test-session"), create=True)
    assert store.sessions.load("test-session").entries == []


# --- runtime/explanation/state-management and concepts/state-management


def test_state_is_loaded_extended_and_saved(store: Store) -> None:
    stored(store, "c", 2)
    conversation = store.sessions.load("c")
    conversation.entries += [user("new"), assistant("answer")]
    assert store.sessions.save(conversation).appended == 2
    assert texts(store.history.read("c")) == ["0", "1", "new", "answer"]


def test_the_history_is_what_the_model_is_sent(store: Store) -> None:
    said = [user("What's the capital of France?"), assistant("Paris"), user("What about Germany?")]
    store.history.append("user-123-conv-456", said, create=True)
    assert store.history.messages("user-123-conv-456") == said
    assert store.history.messages("user-123-conv-456", last=2) == said[1:]


def test_a_version_that_is_not_the_expected_one_is_refused_and_tried_again(store: Store) -> None:
    stored(store, "c", 1)
    first, second = store.sessions.load("c"), store.sessions.load("c")
    first.entries.append(user("first"))
    store.sessions.save(first)
    second.entries.append(user("second"))
    with pytest.raises(ConflictError):
        store.sessions.save(second)
    again = store.sessions.load("c")
    again.entries.append(user("second"))
    store.sessions.save(again)
    assert texts(store.history.read("c")) == ["0", "first", "second"]


def test_a_guest_gets_a_session_with_an_id_of_its_own(store: Store) -> None:
    guests = {store.sessions.create(ttl=timedelta(hours=1)).session_id for _ in range(3)}
    assert len(guests) == len({uuid.UUID(guest) for guest in guests}) == 3


def test_a_branch_goes_its_own_way(store: Store) -> None:
    stored(store, "user-7", 4)
    store.sessions.fork("user-7", "user-7-branch-a", at_seq=2)
    store.sessions.fork("user-7", "user-7-branch-b")
    assert [store.history.count(f"user-7{branch}") for branch in ("", "-branch-a", "-branch-b")] == [4, 2, 4]
    assert set(store.sessions.lineage("user-7").forks) == {"user-7-branch-a", "user-7-branch-b"}


def test_a_workflow_resumes_in_its_state_unless_that_is_transient(store: Store) -> None:
    persistent = {"intake": False, "specialist": True}
    for state in ("intake", "specialist"):
        if persistent[state]:
            store.sessions.open("workflow-id")
            store.sessions.merge_metadata("workflow-id", {"workflow": {"current_state": state}})
            store.lists.append("workflow-id", "workflow.history", [{"from": "intake", "to": state}])
    assert store.sessions.get("workflow-id").metadata["workflow"] == {"current_state": "specialist"}
    assert store.lists.read("workflow-id", "workflow.history") == [{"from": "intake", "to": "specialist"}]


def test_the_figures_to_watch(store: Store) -> None:
    stored(store, "a", 4)
    stored(store, "b", 2)
    figures = store.stats()
    assert (figures.active_sessions, figures.average_entries, figures.stored_bytes > 0) == (2, 3.0, True)


def test_a_user_s_conversations_are_deleted_for_privacy(store: Store) -> None:
    store.sessions.create("c", user_id="ada")
    store.history.append("c", [user("secret")])
    assert store.sessions.delete_user("ada").entries == 1
    assert not store.sessions.exists("c")


# --- runtime/tutorials/02-multi-turn


def test_a_conversation_goes_on_after_a_restart(open_store: Callable[..., Store]) -> None:
    first = open_store()
    chat(first, "user-4711", "My name is Alice", from_memory("Alice"))
    chat(first, "user-4711", "I love pizza", from_memory("pizza"))
    first.close()
    second = open_store()
    assert chat(second, "user-4711", "What food do I love?", from_memory("pizza")) == "I know pizza"
    assert second.history.count("user-4711") == 6


def test_clear_saves_an_empty_conversation_and_the_cost_so_far_stays(store: Store) -> None:
    for cost in (0.25, 0.5):
        answer = NewEntry(
            assistant("a"), cost_usd=cost, response_model="m", usage=Usage(input_tokens=10, output_tokens=5)
        )
        store.history.append("chat-ada-2026-01-31", [user("q"), answer], create=True)
    store.sessions.save(ConversationState("chat-ada-2026-01-31"))
    assert store.history.count("chat-ada-2026-01-31") == 0
    [spent] = store.usage.by_session(session_id="chat-ada-2026-01-31")
    assert (float(spent.cost_usd), spent.input_tokens + spent.output_tokens) == (0.75, 30)


def test_a_system_prompt_is_saved_before_the_first_message(store: Store) -> None:
    prompt = "You are a helpful AI assistant who speaks like a pirate."
    store.sessions.save(ConversationState("c", instructions=prompt), create=True)
    with entering(store, store.turn("c")) as turn:
        assert turn.instructions == prompt


# --- runtime/statestore: the options and the optional interfaces of its reference


def test_a_lifetime_of_an_hour_for_conversations_unless_it_is_switched_off(
    open_store: Callable[..., Store], clock: MovableClock
) -> None:
    store = open_store(default_ttl=timedelta(hours=1), clock=clock)
    store.sessions.create("usual")
    store.sessions.create("own", ttl=timedelta(hours=3))
    store.history.append("for ever", [user("x")], create=NewSession(ttl=NEVER))
    assert [store.sessions.get(one).ttl for one in ("usual", "own", "for ever")] == [
        timedelta(hours=1),
        timedelta(hours=3),
        None,
    ]
    clock.advance(minutes=50)
    store.sessions.load("usual")
    clock.advance(minutes=50)
    assert [store.sessions.exists(one) for one in ("usual", "own", "for ever")] == [True, True, True]
    clock.advance(hours=3)
    assert [store.sessions.exists(one) for one in ("usual", "own", "for ever")] == [False, False, True]


def test_the_least_recently_used_conversation_goes_when_there_are_too_many(
    open_store: Callable[..., Store], clock: MovableClock
) -> None:
    store = open_store(max_sessions=3, clock=clock)
    for name in "abcd":
        store.sessions.create(name)
        clock.advance(hours=1)
    store.history.append("a", [user("still in use")])
    clock.advance(hours=1)
    store.sweep()
    assert {session.session_id for session in store.sessions.page().sessions} == {"a", "c", "d"}


def test_messages_are_appended_to_a_conversation_that_is_made_on_the_way(store: Store) -> None:
    store.history.append("c", [user("1")], create=True)
    store.history.append("c", [assistant("2"), user("3")], create=True)
    assert texts(store.history.read("c", last=2)) == ["2", "3"]
    assert store.history.count("c") == 3
    with pytest.raises(SessionNotFoundError):
        store.history.count("missing")


def test_a_tool_loop_writes_each_round_and_may_repeat_it_after_a_crash(store: Store) -> None:
    rounds = numbered(6)
    for known, upto in ((0, 2), (2, 4), (2, 6), (0, 6)):
        store.history.append("c", rounds[known:upto], after_seq=known, create=True)
    assert texts(store.history.read("c")) == [str(n) for n in range(6)]


def test_summaries_are_kept_beside_the_messages(store: Store) -> None:
    stored(store, "c", 20)
    for start in (1, 11):
        store.history.add_summary("c", f"from {start}", start_seq=start, end_seq=start + 9, token_count=3)
    assert [(one.start_seq, one.end_seq, one.token_count) for one in store.history.summaries("c")] == [
        (1, 10, 3),
        (11, 20, 3),
    ]


def test_a_list_takes_two_thousand_items_one_after_the_other_and_in_one(store: Store) -> None:
    store.sessions.create("c")
    transitions = [{"from": n, "to": n + 1, "at": f"2026-01-31T{n:05d}"} for n in range(2000)]
    store.lists.append("c", "workflow.history", transitions[:1000])
    for start in range(1000, 2000, 100):
        store.lists.append("c", "workflow.history", transitions[start : start + 100])
    assert store.lists.count("c", "workflow.history") == 2000
    assert store.lists.read("c", "workflow.history") == transitions
    assert store.lists.read("c", "workflow.history", last=2) == transitions[-2:]


def test_a_list_is_empty_before_it_is_written_and_missing_with_its_conversation(store: Store) -> None:
    store.sessions.create("c")
    assert (store.lists.read("c", "none"), store.lists.count("c", "none"), store.lists.names("c")) == ([], 0, [])
    for read in (store.lists.read, store.lists.count):
        with pytest.raises(SessionNotFoundError):
            read("missing", "none")


def test_items_of_a_list_are_the_caller_s_bytes_as_text(store: Store) -> None:
    items = [json.dumps({"z": 1, "a": [n]}) for n in range(3)]
    store.lists.append("c", "artifacts", items, create=True)
    store.sessions.fork("c", "d")
    store.lists.append("d", "artifacts", ["of the fork"])
    assert (store.lists.read("c", "artifacts"), store.lists.count("d", "artifacts")) == (items, 4)
