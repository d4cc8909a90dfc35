"""The examples of PromptKit's SDK documentation that need its state store, translated: each one is one test.

They stand on its pages on variables, on the context of long conversations, and in the reference of its package sdk.
"""

from typing import Any

import pytest

from statestore import SessionNotFoundError
from tests.support.crowd import at_once
from tests.support.worlds import entering

Store = Any


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def texts(entries: Any) -> list[str]:
    return [entry.content["content"] for entry in entries]


def numbered(n: int) -> list[dict[str, str]]:
    return [user(str(index)) for index in range(n)]


def test_variables_are_set_read_and_seen_by_each_other(store: Store) -> None:
    store.sessions.create("c")
    store.state.set("c", "user_name", "Alice")
    store.state.set_many("c", {"role": "admin", "language": "en"})
    assert store.state.get("c", "user_name") == "Alice"
    if store.state.get("c", "optional_var", None) is None:
        store.state.set("c", "optional_var", "default")
    assert store.state.get_all("c") == {
        "user_name": "Alice",
        "role": "admin",
        "language": "en",
        "optional_var": "default",
    }


def test_ten_variables_are_set_at_once(store: Store) -> None:
    store.sessions.create("c")
    at_once(*[lambda n=n: store.state.set("c", f"var_{n}", str(n)) for n in range(10)])
    assert store.state.get_all("c") == {f"var_{n}": str(n) for n in range(10)}


def test_the_variables_of_a_fork_are_its_own(store: Store) -> None:
    store.sessions.create("conv1")
    store.state.set("conv1", "user", "Alice")
    store.sessions.fork("conv1", "conv2")
    store.state.set("conv2", "user", "Bob")
    assert (store.state.get("conv1", "user"), store.state.get("conv2", "user")) == ("Alice", "Bob")


def test_variables_of_the_customer_go_into_the_system_prompt(store: Store) -> None:
    store.sessions.create("c", instructions="You are helping {customer_name}, who is a {customer_tier} customer.")
    store.state.set_many("c", {"customer_name": "Alice", "customer_tier": "gold", "language": "English"})
    with entering(store, store.turn("c")) as turn:
        prompt = (turn.instructions or "").format_map(turn.state)
        assert prompt == "You are helping Alice, who is a gold customer."
        turn.state["customer_name"] = "Bob"
    assert store.state.get("c", "customer_name") == "Bob"


def test_a_variable_comes_from_the_metadata_of_the_session(store: Store) -> None:
    store.sessions.create("c", metadata={"tenant": "acme-corp", "channel": "web-chat"})
    store.sessions.merge_metadata("c", {"user_tier": "premium"})
    assert "{user_tier} of {tenant}".format_map(store.sessions.get("c").metadata) == "premium of acme-corp"


def test_older_messages_are_left_out_over_the_token_budget(store: Store) -> None:
    said = [
        "I'm having trouble with my account billing",
        "The charge appeared on December 15th",
        "Can you look up my order history?",
    ]
    for text in said:
        store.history.append("c", [user(text), assistant("Let me see.")], create=True)
    budget = store.history.window("c", max_tokens=25)
    assert budget.tokens is not None
    assert budget.tokens <= 25
    assert texts(budget) == [said[1], "Let me see.", said[2], "Let me see."]


def test_a_hot_window_is_all_that_is_read(store: Store) -> None:
    store.sessions.create("session-123")
    store.history.append("session-123", numbered(50))
    with entering(store, store.turn("session-123", max_entries=20)) as turn:
        assert texts(turn.window) == [str(n) for n in range(30, 50)]
        turn.append(user("next"))
    assert store.history.count("session-123") == 51


@pytest.mark.parametrize(("threshold", "batch", "hot"), [(50, 10, 20), (100, 50, 20), (6, 4, 4)])
def test_the_oldest_messages_are_summarized_above_a_threshold(
    store: Store, threshold: int, batch: int, hot: int
) -> None:
    store.sessions.create("c")
    for start in range(0, threshold + batch, 2):
        store.history.append("c", [user(str(start)), assistant(str(start + 1))])
        done = max((one.end_seq for one in store.history.summaries("c")), default=0)
        if store.history.count("c") - done > threshold:
            said = texts(store.history.read("c", after=done, limit=batch))
            store.history.add_summary("c", " ".join(said), start_seq=done + 1, end_seq=done + batch)
    [summary] = store.history.summaries("c")
    assert summary.content.split() == [str(n) for n in range(batch)]
    window = store.history.window("c", max_entries=hot, include_summaries=True)
    assert (len(window), window.summaries) == (hot, (summary,))


def test_a_conversation_is_resumed_or_else_opened(store: Store) -> None:
    with pytest.raises(SessionNotFoundError):
        store.sessions.get("session-123")
    assert not store.sessions.open("session-123").resumed
    store.history.append("session-123", [user("Hello")])
    assert store.sessions.open("session-123").resumed
    assert texts(store.history.read("session-123")) == ["Hello"]


def test_clear_removes_all_messages_and_keeps_the_conversation(store: Store) -> None:
    store.sessions.create("c", metadata={"tenant": "acme"})
    store.history.append("c", numbered(3))
    store.history.clear("c")
    assert (store.history.count("c"), store.sessions.get("c").metadata) == (0, {"tenant": "acme"})
