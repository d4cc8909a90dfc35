"""Results have the name of the tool that they answer, so that its errors and durations count for it."""

from datetime import timedelta
from typing import Any

import pytest

from statestore import NewEntry
from tests.support.content import Content

Store = Any


def called(*ids: str, name: str = "add") -> dict[str, Any]:
    calls = [{"id": id, "type": "function", "function": {"name": f"{name}_{id}", "arguments": "{}"}} for id in ids]
    return {"role": "assistant", "content": None, "tool_calls": calls}


def result(call_id: str, **fields: Any) -> NewEntry:
    return NewEntry({"role": "tool", "tool_call_id": call_id, "content": "?"}, **fields)


FAILED = {"error_type": "tool_error", "duration": timedelta(seconds=2)}


@pytest.fixture
def session(store: Store) -> str:
    store.sessions.create("s")
    return "s"


def tools(store: Store) -> dict[str | None, tuple[int, int, float]]:
    return {row.tool_name: (row.tool_calls, row.errors, row.duration.total_seconds()) for row in store.usage.by_tool()}


@pytest.mark.parametrize("together", [True, False])
def test_a_result_has_the_name_of_the_call_it_answers(store: Store, session: str, together: bool) -> None:
    entries = [called("a"), result("a", **FAILED)]
    stored = (
        store.history.append(session, entries)
        if together
        else [one for entry in entries for one in store.history.append(session, [entry])]
    )
    assert [entry.tool_name for entry in stored] == ["add_a", "add_a"]
    assert store.history.read(session) == stored
    assert tools(store) == {"add_a": (1, 1, 2.0)}


@pytest.mark.parametrize("by", ["replace", "append", "far"])
def test_a_result_that_is_replaced_keeps_the_name(store: Store, session: str, by: str) -> None:
    store.history.append(session, [called("a"), result("a", entry_id="r", **FAILED)])
    if by == "far":
        store.history.append(session, [{"role": "user", "content": "x"}] * 120)
    redacted = NewEntry({"role": "tool", "tool_call_id": "a", "content": "[redacted]"}, entry_id="r", **FAILED)
    if by == "append":
        [entry] = store.history.append(session, [redacted], on_conflict="replace")
    else:
        entry = store.history.replace(session, 2, redacted)
    assert (entry.content["content"], entry.tool_name) == ("[redacted]", "add_a")
    assert tools(store)["add_a"] == (1, 1, 2.0)


def test_each_result_of_several_calls_has_its_own_name(store: Store, session: str) -> None:
    store.history.append(session, [called("a", "b", "c"), called("d")])
    for id in ("c", "a", "b"):
        [stored] = store.history.append(session, [result(id, **FAILED)])
        assert stored.tool_name == f"add_{id}"
    stored = store.history.append(session, [result("b"), result("d"), result("c"), result("x")])
    assert [entry.tool_name for entry in stored] == ["add_b", "add_d", "add_c", None]
    assert store.history.read(session, last=4) == stored
    assert {name: figures[1:] for name, figures in tools(store).items()} == {
        "add_a": (1, 2.0),
        "add_b": (1, 2.0),
        "add_c": (1, 2.0),
        "add_d": (0, 0),
        None: (0, 0),
    }


def test_the_newest_call_with_an_id_counts(store: Store, session: str) -> None:
    store.history.append(session, [called("a", name="old")])
    store.history.append(session, [called("a", name="new"), {"role": "user", "content": "a"}])
    assert store.history.append(session, [result("a")])[0].tool_name == "new_a"


def test_a_name_that_is_given_stays(store: Store, session: str) -> None:
    store.history.append(session, [called("a")])
    assert store.history.append(session, [result("a", tool_name="mine")])[0].tool_name == "mine"
    # One that would count as a call of its own gets none.
    assert store.history.append(session, [result("a", role="user")])[0].tool_name is None


def test_results_in_the_shapes_of_providers(store: Store, session: str) -> None:
    blocks = [{"type": "tool_use", "id": id, "name": f"tool_{id}", "input": {}} for id in ("a", "b")]
    store.history.append(session, [{"role": "assistant", "content": blocks}])
    item = {"type": "function_call", "call_id": "c", "name": "tool_c", "arguments": "{}"}
    store.history.append(session, [item])
    answer = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "b", "content": "?"}]}
    output = {"type": "function_call_output", "call_id": "c", "output": "?"}
    stored = store.history.append(session, [answer, output])
    assert [(entry.role, entry.tool_name) for entry in stored] == [("tool", "tool_b"), ("tool", "tool_c")]


def test_other_sessions_and_old_calls_are_not_searched(store: Store, session: str) -> None:
    store.sessions.create("other")
    store.history.append("other", [called("a")])
    assert store.history.append(session, [result("a")])[0].tool_name is None
    store.history.append("other", [{"role": "user", "content": "?"}] * 100)
    assert store.history.append("other", [result("a")])[0].tool_name is None


def test_repeating_an_append_is_no_difference(store: Store, session: str) -> None:
    [call] = store.history.append(session, [NewEntry(called("a"), entry_id="call")])
    [stored] = store.history.append(session, [result("a", entry_id="result")])
    assert store.history.append(session, [result("a", entry_id="result")]) == [stored]
    both = [NewEntry(called("a"), entry_id="call"), result("a", entry_id="result")]
    assert store.history.append(session, both) == [call, stored]
    assert store.history.append(session, both, after_seq=0) == [call, stored]
    conversation = store.sessions.load(session)
    assert store.sessions.save(conversation).replaced == 0


def test_a_name_in_odd_text_is_found_in_a_transaction(store: Store, session: str, content: Content) -> None:
    odd = "call-%_'1"
    with_odd = called("first", odd)
    store.history.append(session, [with_odd])
    assert store.history.append(session, [result(odd)])[0].tool_name == f"add_{odd}"


BLOCK = {"type": "tool_result", "tool_use_id": "a", "content": "no"}
FAILURES: dict[str, tuple[dict[str, Any], str | None]] = {
    "Anthropic": ({"role": "user", "content": [{**BLOCK, "is_error": True}]}, "tool_error"),
    "Anthropic, one of two": ({"role": "user", "content": [BLOCK, {**BLOCK, "is_error": True}]}, "tool_error"),
    "Anthropic, without an error": ({"role": "user", "content": [{**BLOCK, "is_error": False}]}, None),
    "MCP": ({"role": "tool", "content": [{"type": "text", "text": "no"}], "isError": True}, "tool_error"),
    "MCP, without an error": ({"role": "tool", "content": [], "isError": False}, None),
    "LangChain": ({"type": "tool", "content": "no", "tool_call_id": "a", "status": "error"}, "tool_error"),
    "no result": ({"role": "user", "content": "x", "is_error": True}, None),
    "an odd value": ({"role": "tool", "content": "x", "tool_call_id": "a", "is_error": "yes"}, None),
}


@pytest.mark.parametrize("name", FAILURES)
def test_a_result_that_says_it_failed_is_an_error(store: Store, session: str, name: str) -> None:
    message, error_type = FAILURES[name]
    [entry] = store.history.append(session, [message])
    assert entry.error_type == error_type
    assert store.usage.totals().errors == (error_type is not None)
    [given] = store.history.append(session, [NewEntry(message, error_type="TimeoutError")])
    assert given.error_type == "TimeoutError"
