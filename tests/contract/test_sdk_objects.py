"""What SDKs return is taken as it is: recognised by its shape, here in stand-ins with the fields of the real ones."""

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest

from statestore import InvalidValueError, NewEntry, Usage
from tests.support.worlds import entering

Store = Any


class Dumps:
    """An object of an SDK: its fields as attributes, and a method that dumps them. Iterable, as those of pydantic."""

    def __init__(self, dump: dict[str, Any], method: str = "model_dump") -> None:
        self.__dict__.update(dump)
        setattr(self, method, lambda: dump)

    def __iter__(self) -> Any:
        return iter(self.__dict__.items())


CALL = {"id": "call_1", "type": "function", "function": {"name": "add", "arguments": "{}"}}
MESSAGE = {"role": "assistant", "content": None, "refusal": None, "function_call": None, "tool_calls": [CALL]}
KEPT = {"role": "assistant", "content": None, "tool_calls": [CALL]}
CHAT_USAGE = {
    "prompt_tokens": 10,
    "completion_tokens": 5,
    "total_tokens": 15,
    "prompt_tokens_details": {"cached_tokens": 4, "audio_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 2},
}
CHAT = Usage(input_tokens=10, output_tokens=5, cache_read_input_tokens=4, reasoning_output_tokens=2)
COMPLETION = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "model": "gpt-x",
    "choices": [{"index": 0, "finish_reason": "tool_calls", "logprobs": None, "message": MESSAGE}],
    "usage": CHAT_USAGE,
}
RESPONSES_USAGE = {
    "input_tokens": 10,
    "input_tokens_details": {"cached_tokens": 4},
    "output_tokens": 5,
    "output_tokens_details": {"reasoning_tokens": 2},
    "total_tokens": 15,
}
SAID = {"type": "message", "id": "msg_1", "role": "assistant", "content": [{"type": "output_text", "text": "hi"}]}
REASONED = {"type": "reasoning", "id": "rs_1", "summary": [], "status": None}
CALLED = {"type": "function_call", "id": "fc_1", "call_id": "call_1", "name": "add", "arguments": "{}"}


def response(*output: dict[str, Any], **fields: Any) -> dict[str, Any]:
    given = {"object": "response", "id": "resp_1", "model": "gpt-x", "status": "completed", "incomplete_details": None}
    return {**given, "output": list(output), "usage": RESPONSES_USAGE, **fields}


def summary(entry: Any) -> tuple[Any, ...]:
    return entry.role, entry.usage, entry.response_model, entry.finish_reason, entry.tool_name, entry.tool_call_id


@pytest.mark.parametrize("given", [COMPLETION, Dumps(COMPLETION), Dumps(COMPLETION, "to_dict")], ids=range(3))
def test_a_chat_completion_is_stored_as_its_message(store: Store, given: Any) -> None:
    store.sessions.create("s")
    [entry] = store.history.append("s", [given])
    assert entry.content == KEPT
    assert summary(entry) == ("assistant", CHAT, "gpt-x", "tool_calls", "add", "call_1")
    assert store.history.read("s") == [entry]


def test_a_message_is_stored_as_it_dumps_itself(store: Store) -> None:
    store.sessions.create("s")
    anthropic = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "claude-x",
        "content": [{"type": "tool_use", "id": "toolu_1", "name": "add", "input": {"a": None}}],
        "stop_reason": "tool_use",
        "stop_sequence": None,
        "usage": {
            "input_tokens": 3,
            "cache_creation_input_tokens": 2,
            "cache_read_input_tokens": 5,
            "output_tokens": 7,
        },
    }
    said, called = store.history.append("s", [Dumps(MESSAGE, "dict"), Dumps(anthropic)])
    assert said.content == KEPT
    assert summary(said) == ("assistant", Usage(), None, None, "add", "call_1")
    del anthropic["stop_sequence"]
    assert called.content == anthropic
    used = Usage(input_tokens=10, output_tokens=7, cache_read_input_tokens=5, cache_write_input_tokens=2)
    assert summary(called) == ("assistant", used, "claude-x", "tool_use", "add", "toolu_1")


def test_a_response_is_stored_as_its_message_or_as_its_items(store: Store) -> None:
    store.sessions.create("s")
    used = Usage(input_tokens=10, output_tokens=5, cache_read_input_tokens=4, reasoning_output_tokens=2)
    cut = response(SAID, status="incomplete", incomplete_details={"reason": "max_output_tokens"})
    one, many, short = store.history.append("s", [Dumps(response(SAID)), response(REASONED, CALLED, SAID), Dumps(cut)])
    assert one.content == SAID
    assert summary(one) == ("assistant", used, "gpt-x", "completed", None, None)
    reasoned = {"type": "reasoning", "id": "rs_1", "summary": []}
    assert many.content == {"role": "assistant", "output": [reasoned, CALLED, SAID]}
    assert summary(many) == ("assistant", used, "gpt-x", "completed", "add", "call_1")
    assert short.finish_reason == "max_output_tokens"


def test_the_items_of_a_response_have_a_role(store: Store) -> None:
    store.sessions.create("s")
    answer = {"type": "function_call_output", "call_id": "call_1", "output": [{"type": "input_text", "text": "3"}]}
    searched = {"type": "web_search_call", "id": "ws_1", "status": "completed"}
    items = [{"role": "user", "content": "?"}, Dumps(REASONED), Dumps(CALLED), searched, answer, Dumps(SAID)]
    entries = store.history.append("s", items)
    assert [entry.role for entry in entries] == ["user", "assistant", "assistant", "assistant", "tool", "assistant"]
    assert {entry.turn for entry in entries} == {1}


def test_an_entry_says_more_of_an_object(store: Store) -> None:
    store.sessions.create("s")
    given = NewEntry(Dumps(COMPLETION), agent_name="planner", usage=Usage(input_tokens=1), entry_id="e")
    [entry] = store.history.append("s", [given])
    assert (entry.content, entry.agent_name, entry.usage) == (KEPT, "planner", Usage(input_tokens=1))
    assert (entry.response_model, entry.finish_reason) == ("gpt-x", "tool_calls")
    assert store.history.append("s", [given]) == [entry]
    [entry] = store.history.append("s", [NewEntry("hi", role="assistant", usage=Dumps(CHAT_USAGE))])
    assert entry.usage == CHAT


def test_a_turn_takes_one_object_or_several(store: Store) -> None:
    store.sessions.create("s")
    with entering(store, store.turn("s")) as turn:
        turn.append({"role": "user", "content": "?"})
        turn.append(Dumps(COMPLETION))
        turn.append([Dumps(MESSAGE)])
    assert [entry.usage for entry in turn.stored] == [Usage(), CHAT, Usage()]
    assert turn.stored[1].content == KEPT


class DumpsInto:
    """Has a method of a usual name that is for something else."""

    def to_dict(self, orient: str) -> dict[str, str]:
        return {orient: "role"}

    def model_dump(self, orient: str) -> dict[str, str]:
        return {orient: "role"}


class Broken:
    def model_dump(self) -> dict[str, str]:
        return len(5)  # type: ignore[arg-type, return-value]


def test_an_error_of_an_object_that_dumps_itself_is_its_own(store: Store) -> None:
    with pytest.raises(TypeError, match="has no len"):
        store.history.append("s", [Broken()])


def test_a_lenient_store_has_no_form_for_an_object_that_dumps_with_arguments(open_store: Callable[..., Store]) -> None:
    store = open_store(json="lenient")
    store.sessions.create("s")
    with pytest.raises(InvalidValueError, match="contains a DumpsInto, which has no form in JSON"):
        store.state.set("s", "k", DumpsInto())
    with pytest.raises(TypeError, match="has no len"):
        store.state.set("s", "k", Broken())


REFUSED: dict[str, tuple[Any, str]] = {
    "a mapping without a role": ([{"content": "hi"}], r"entries\[0\]: is a mapping without a role; .*NewEntry\("),
    "a role that is none": ([{"role": None, "content": "hi"}], r"entries\[0\]: is a mapping without a role"),
    "a role that is a number": ([{"role": 5}], r"entries\[0\]: has a role that is not text of 1 to 512 .*NewEntry\("),
    "an empty role": ([{"role": ""}], r"entries\[0\]: has a role that is not text"),
    "an object that dumps with arguments": ([DumpsInto()], r"entries\[0\]: must be a message .*not DumpsInto"),
    "a content that dumps with arguments": ([NewEntry(DumpsInto())], r"entries\[0\]\.content: contains a DumpsInto"),
    "an object without a role": ([Dumps({"text": "hi"})], r"entries\[0\]: is a mapping without a role"),
    "several choices": ([{**COMPLETION, "choices": COMPLETION["choices"] * 2}], r"entries\[0\]: .*exactly one choice"),
    "no choice": ([{**COMPLETION, "choices": []}], r"entries\[0\]: .*exactly one choice"),
    "what dumps nothing": ([object()], r"entries\[0\]: must be a message .*not object"),
    "a class": ([Dumps], r"entries\[0\]: must be a message"),
    "an object that is not in a list": (Dumps(MESSAGE), "entries: must be a sequence of entries; put a single one"),
    "usage that is none": ([NewEntry("hi", usage=Dumps({"a": 1}))], r"entries\[0\].usage: Dumps reports no tokens"),
    "usage beyond the limit": (
        [NewEntry("hi", usage={"input_tokens": 10**10, "output_tokens": 1})],
        r"entries\[0\].usage.input_tokens",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_a_message_is_refused_with_the_remedy(store: Store, case: str) -> None:
    store.sessions.create("s")
    given, message = REFUSED[case]
    with pytest.raises(InvalidValueError, match=f"^{message}"):
        store.history.append("s", given)
    assert store.history.count("s") == 0


@pytest.mark.parametrize("name", ["\ud800", "a\0", "x" * 600])
def test_names_in_a_message_that_no_column_can_hold_stay_in_it(store: Store, name: str) -> None:
    messages = [
        {"role": "assistant", "tool_calls": [{"id": name, "function": {"name": name}}]},
        {"role": "tool", "tool_call_id": name, "name": name, "content": "found"},
        {"role": "assistant", "content": "done", "model": name},
    ]
    store.sessions.create("s")
    entries = store.history.append("s", messages)
    assert [entry.content for entry in entries] == messages == store.history.messages("s")
    assert {(entry.tool_name, entry.tool_call_id, entry.response_model) for entry in entries} == {(None, None, None)}
    with pytest.raises(InvalidValueError, match="has a role that is not text"):
        store.history.append("s", [{"role": name, "content": "hi"}])


def test_any_mapping_is_taken_as_the_content_of_an_entry(store: Store) -> None:
    store.sessions.create("s")
    plain, typed = store.history.append("s", [NewEntry({"content": "hi"}), NewEntry({"type": "ai", "content": "hi"})])
    assert (plain.role, typed.role) == (None, "assistant")


@dataclass
class Details:
    cached_tokens: int = 0
    reasoning_tokens: int = 0


def test_usage_of_what_sdks_report() -> None:
    both = {"input_tokens": 10, "output_tokens": 5}
    agents = SimpleNamespace(**both, requests=2, input_tokens_details=Details(4), output_tokens_details=Details(0, 2))
    for reported in (
        CHAT_USAGE,
        Dumps(CHAT_USAGE),
        COMPLETION,
        Dumps(COMPLETION),
        RESPONSES_USAGE,
        response(SAID),
        agents,
        SimpleNamespace(context_wrapper=SimpleNamespace(usage=agents)),
        CHAT,
    ):
        assert Usage.of(reported) == CHAT
    cached = Usage(input_tokens=10, output_tokens=5, cache_read_input_tokens=4, cache_write_input_tokens=1)
    bedrock = {"inputTokens": 5, "outputTokens": 5, "cacheReadInputTokens": 4, "cacheWriteInputTokens": 1}
    for reported in (
        {"input_tokens": 5, "output_tokens": 5, "cache_read_input_tokens": 4, "cache_creation_input_tokens": 1},
        SimpleNamespace(usage=SimpleNamespace(**both, cache_read_tokens=4, cache_write_tokens=1)),
        SimpleNamespace(usage=lambda: SimpleNamespace(**both, cache_read_tokens=4, cache_write_tokens=1)),
        {**both, "input_token_details": {"cache_read": 4, "cache_creation": 1}},
        {**both, "input_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 1}},
        bedrock,
    ):
        assert Usage.of(reported) == cached
    assert Usage.of({"inputTokens": 5}) == Usage(input_tokens=5)
    plain = SimpleNamespace(**both, cache_read_input_tokens=None, cache_creation_input_tokens=None)
    assert Usage.of(plain) == Usage(**both)
    assert Usage.of({"prompt_eval_count": 10, "eval_count": 5}) == Usage(**both)
    gemini = {"prompt_token_count": 10, "candidates_token_count": 3, "thoughts_token_count": 2}
    assert Usage.of(SimpleNamespace(usage_metadata=gemini)) == Usage(**both, reasoning_output_tokens=2)
    by_tools = {"prompt_token_count": 7, "tool_use_prompt_token_count": 3, "candidates_token_count": 5}
    assert Usage.of(by_tools) == Usage(**both)
    for reported in (None, 5, {}, {"input_tokens": "5"}, {"input_tokens": True}, object(), Usage):
        with pytest.raises(InvalidValueError, match=r"^usage: .* reports no tokens"):
            Usage.of(reported)


@pytest.mark.parametrize(
    ("reported", "expected"),
    [
        ({"prompt_tokens": -1, "completion_tokens": 3}, Usage(output_tokens=3)),
        ({"input_tokens": 10**9 + 1, "output_tokens": 10**9}, Usage(output_tokens=10**9)),
        ({"input_tokens": 10**9, "cache_read_input_tokens": 1}, Usage(cache_read_input_tokens=1)),
        ({"inputTokens": "5", "outputTokens": -1}, Usage()),
        ({}, Usage()),
        (None, Usage()),
        ("none", Usage()),
    ],
)
def test_of_a_usage_that_is_odd_the_rest_can_be_taken(reported: Any, expected: Usage) -> None:
    assert Usage.of(reported, strict=False) == expected


def test_a_usage_that_is_odd_is_refused_where_it_is_given(store: Any) -> None:
    with pytest.raises(InvalidValueError, match=r"usage\.input_tokens"):
        store.history.append("s", [NewEntry("x", usage={"input_tokens": -1, "output_tokens": 3})], create=True)
