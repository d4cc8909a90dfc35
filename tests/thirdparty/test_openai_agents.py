"""The semantics of openai-agents' sessions on our API, in the model of `openai_agents_model`."""

from collections.abc import Callable
from typing import Any

import pytest

from statestore import Usage
from tests.thirdparty.openai_agents_model import OpenAIAgentsSession

Store = Any

RUN = {
    "input_tokens": 100,
    "output_tokens": 20,
    "input_tokens_details": {"cached_tokens": 40},
    "output_tokens_details": {"reasoning_tokens": 5},
}

CALL = {"type": "function_call", "call_id": "1", "name": "lookup", "arguments": "{}"}
OUTPUT = {"type": "function_call_output", "call_id": "1", "output": "\ud83d found"}


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


@pytest.fixture
def session(store: Store) -> OpenAIAgentsSession:
    return OpenAIAgentsSession(store, "s")


def test_items_are_added_and_read_the_newest_first_to_be_kept(session: OpenAIAgentsSession) -> None:
    session.add_items([])
    assert session.get_items() == []
    session.add_items([user("a"), CALL])
    session.add_items([OUTPUT, user("b")])
    assert session.get_items() == [user("a"), CALL, OUTPUT, user("b")]
    assert session.get_items(2) == [OUTPUT, user("b")]
    assert session.get_items(0) == []


def test_the_newest_item_is_popped_until_there_is_none(session: OpenAIAgentsSession) -> None:
    assert session.pop_item() is None
    session.add_items([user("a"), user("b")])
    assert [session.pop_item() for _ in range(3)] == [user("b"), user("a"), None]
    session.add_items([user("c")])
    assert session.get_items() == [user("c")]


def test_a_cleared_session_is_empty_and_goes_on(session: OpenAIAgentsSession) -> None:
    session.clear_session()
    session.add_items([user("a")])
    session.clear_session()
    assert session.get_items() == []


def test_what_a_run_used_is_told_afterwards_and_counted_once(session: OpenAIAgentsSession, store: Store) -> None:
    session.add_items([user("a"), {"role": "assistant", "content": "b"}])
    for _ in range(2):
        session.store_run_usage("run-1", RUN, model="gpt-5")
    session.store_run_usage("run-2", RUN, model="gpt-5")
    [of_session] = store.usage.by_session(session_id="s")
    [of_model] = [row for row in store.usage.by_model() if row.model is not None]
    for row in (of_session, of_model, store.usage.totals()):
        assert (row.input_tokens, row.output_tokens, row.cache_read_input_tokens) == (200, 40, 80)
        assert row.reasoning_output_tokens == 10
    assert of_model.model == "gpt-5"


def test_what_a_run_used_outlives_its_items(session: OpenAIAgentsSession, store: Store) -> None:
    session.add_items([user("a"), {"role": "assistant", "content": "b"}])
    session.store_usage_of_newest(RUN, model="gpt-5")
    session.store_usage_of_newest(RUN, model="gpt-5")
    session.store_run_usage("run-1", RUN)
    assert store.history.get("s", 2).usage == Usage(
        input_tokens=100, output_tokens=20, cache_read_input_tokens=40, reasoning_output_tokens=5
    )
    for lose in (session.pop_item, session.clear_session, lambda: store.sessions.delete("s")):
        lose()
        assert store.usage.totals().input_tokens == 200


def test_the_cost_of_a_session(
    counted_store: Store, statements: Callable[[Callable[[], Any]], int], on_postgresql: bool
) -> None:
    session = OpenAIAgentsSession(counted_store, "s")
    session.add_items([user(str(n)) for n in range(50)])
    assert statements(session.get_items) == 1
    assert statements(lambda: session.get_items(10)) == 1
    runs = iter(range(1000))
    if on_postgresql:
        assert statements(lambda: session.add_items([user("x")])) == 1
        assert statements(lambda: session.store_run_usage(f"run {next(runs)}", RUN)) == 1
        assert statements(session.pop_item) <= 2
