"""Histories of chats: what LangChain's own tests of histories do not ask."""

import asyncio
import json
import subprocess
import sys
import traceback
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    RemoveMessage,
    SystemMessage,
    ToolMessage,
    ToolMessageChunk,
)
from langchain_core.runnables import RunnableLambda
from langchain_core.runnables.history import RunnableWithMessageHistory

from statestore import InvalidValueError, LazyStore, NewEntry, StateStore, Usage
from statestore.adapters.langchain import StatestoreChatMessageHistory
from tests.support.clock import MovableClock
from tests.support.wire import Traffic

pytestmark = pytest.mark.filterwarnings("ignore:RunnableWithMessageHistory is deprecated")

USED: Any = {
    "input_tokens": 10,
    "output_tokens": 5,
    "total_tokens": 15,
    "input_token_details": {"cache_read": 4},
    "output_token_details": {"reasoning": 2},
}
CALL: Any = {"name": "add", "args": {"a": None, "b": 10**30, "c": 0.1}, "id": "c1", "type": "tool_call"}
BROKEN: Any = {"name": "add", "args": "{", "id": "c2", "error": "no JSON", "type": "invalid_tool_call"}
EVERY_KIND: list[BaseMessage] = [
    SystemMessage("be brief"),
    HumanMessage([{"type": "text", "text": "Straße 😀"}, {"type": "image_url", "image_url": {"url": "u"}}]),
    AIMessage(
        "",
        id="run-1",
        tool_calls=[CALL],
        invalid_tool_calls=[BROKEN],
        usage_metadata=USED,
        response_metadata={"model_name": "small-1", "finish_reason": "tool_calls", "model_provider": "openai"},
        additional_kwargs={"z": None, "a": [1, 1.0, True]},
    ),
    ToolMessage("3", tool_call_id="c1", name="add", artifact={"raw": [1]}, status="error"),
    ChatMessage("no", role="critic"),
    FunctionMessage("r", name="f"),
    RemoveMessage(id="gone"),
    AIMessageChunk(
        "ab", tool_call_chunks=[{"name": "f", "args": "{}", "id": "c3", "index": 0, "type": "tool_call_chunk"}]
    ),
    ToolMessageChunk("c", tool_call_id="c3"),
    HumanMessage("again", name="ada", id="h-2"),
]


class Chat:
    """A history, called or awaited."""

    def __init__(self, store: Any, is_async: bool) -> None:
        self._store, self._is_async = store, is_async

    def __call__(self, session_id: str = "s", **options: Any) -> "Chat":
        self.history = StatestoreChatMessageHistory(session_id, self._store, **options)
        return self

    def add(self, *messages: BaseMessage) -> None:
        if self._is_async:
            asyncio.run(self.history.aadd_messages(messages))
        else:
            self.history.add_messages(messages)

    def messages(self) -> list[BaseMessage]:
        return asyncio.run(self.history.aget_messages()) if self._is_async else self.history.messages

    def clear(self) -> None:
        if self._is_async:
            asyncio.run(self.history.aclear())
        else:
            self.history.clear()


@pytest.fixture
def lazy(database_url: str) -> Iterator[LazyStore]:
    lazy = LazyStore(database_url)
    yield lazy
    asyncio.run(lazy.aclose())


@pytest.fixture
def store(lazy: LazyStore) -> StateStore:
    return lazy.sync()


@pytest.fixture(params=[False, True], ids=["called", "awaited"])
def chat(lazy: LazyStore, request: pytest.FixtureRequest) -> Chat:
    return Chat(lazy, request.param)()


def test_messages_of_all_kinds_come_back_as_they_were(chat: Chat) -> None:
    chat.add(*EVERY_KIND)
    assert chat.messages() == EVERY_KIND
    assert [type(message) for message in chat.messages()] == [type(message) for message in EVERY_KIND]
    assert json.dumps([one.model_dump() for one in chat.messages()]) == json.dumps([m.model_dump() for m in EVERY_KIND])


def test_a_history_that_has_nothing_is_empty_and_makes_no_session(chat: Chat, store: StateStore) -> None:
    assert chat.messages() == []
    chat.clear()
    chat.add()
    assert not store.sessions.exists("s")


def test_clear_leaves_the_session_its_state_and_its_forks(chat: Chat, store: StateStore) -> None:
    chat.add(HumanMessage("one"), AIMessage("two"))
    store.state.set("s", "place", "Konstanz")
    store.sessions.fork("s", "other", at_seq=1)
    chat.clear()
    assert chat.messages() == []
    assert store.state.get("s", "place") == "Konstanz"
    assert chat("other").messages() == [HumanMessage("one")]
    chat().add(HumanMessage("again"))
    assert chat.messages() == [HumanMessage("again")]


def test_a_message_with_an_id_is_there_once(chat: Chat, store: StateStore) -> None:
    begun, done = AIMessage("be", id="run-1", usage_metadata=USED), AIMessage("begun", id="run-1", usage_metadata=USED)
    chat.add(HumanMessage("?"), begun)
    chat.add(begun, HumanMessage("without an id"))
    chat.add(done, done, HumanMessage("without an id"))
    assert chat.messages() == [HumanMessage("?"), done, HumanMessage("without an id"), HumanMessage("without an id")]
    assert store.usage.totals().input_tokens == 10


def test_usage_reaches_the_reports_by_model_user_and_tool(chat: Chat, store: StateStore) -> None:
    chat(user_id="ada", agent_name="guide").add(*EVERY_KIND)
    entry = store.history.read("s")[2]
    assert entry.usage == Usage(input_tokens=10, output_tokens=5, cache_read_input_tokens=4, reasoning_output_tokens=2)
    assert (entry.entry_id, entry.finish_reason, entry.tool_call_id) == ("run-1", "tool_calls", "c1")
    [day] = [row for row in store.usage.by_model() if row.model == "small-1"]
    assert (day.provider_name, day.input_tokens, day.output_tokens) == ("openai", 10, 5)
    assert [row.input_tokens for row in store.usage.by_user() if row.user_id == "ada"] == [10]
    assert [row.entries for row in store.usage.by_tool() if row.tool_name == "add"] == [2]


def test_messages_appended_by_the_store_show_in_the_history(chat: Chat, store: StateStore) -> None:
    chat.add(HumanMessage("one"))
    store.history.append("s", [AIMessage("two", usage_metadata=USED), {"role": "user", "content": "three"}])
    assert chat.messages() == [
        HumanMessage("one"),
        AIMessage("two", usage_metadata=USED),
        HumanMessage("three"),
    ]


@pytest.mark.parametrize(
    "bad",
    [
        {"text": "secret"},
        {"role": "secret", "content": "?"},
        {"role": "tool", "content": "secret"},
        {"type": "ai", "content": {"secret": 1}},
        {"type": "ai", "content": "", "tool_calls": [{"secret": 1}]},
        {"type": ["secret"]},
        ["secret"],
        None,
    ],
)
def test_an_entry_that_is_not_a_message_is_named_and_not_quoted(chat: Chat, store: StateStore, bad: Any) -> None:
    store.history.append("s", [NewEntry({"role": "user", "content": "one"}), NewEntry(bad)], create=True)
    with pytest.raises(InvalidValueError, match=r"entry 2 of the 2 in session 's'") as refused:
        chat.messages()
    assert "secret" not in "".join(traceback.format_exception(refused.value))


def test_the_store_takes_messages_with_their_usage(store: StateStore) -> None:
    answer = ToolMessage("3", tool_call_id="c1", name="add")
    given: list[Any] = [SystemMessage("be brief"), HumanMessage("?"), EVERY_KIND[2], answer]
    entries = store.history.append("s", given, create=True)
    assert [(entry.role, entry.turn) for entry in entries] == [
        ("system", 0),
        ("user", 1),
        ("assistant", 1),
        ("tool", 1),
    ]
    assert (entries[2].usage.input_tokens, entries[2].response_model) == (10, "small-1")
    assert entries[2].content["tool_calls"][0]["args"] == CALL["args"]
    assert (entries[3].tool_name, entries[3].tool_call_id) == ("add", "c1")


def test_a_fork_shows_and_goes_its_own_way(chat: Chat, store: StateStore) -> None:
    chat.add(HumanMessage("one"), AIMessage("two", id="a", usage_metadata=USED))
    store.sessions.fork("s", "retry")
    chat("retry").add(AIMessage("changed", id="a", usage_metadata=USED), HumanMessage("three"))
    assert [message.content for message in chat.messages()] == ["one", "changed", "three"]
    assert [message.content for message in chat("s").messages()] == ["one", "two"]
    assert store.usage.totals().input_tokens == 10


@pytest.mark.parametrize("bad", [{"role": "user"}, "hello", None])
def test_what_is_no_message_is_refused(chat: Chat, store: StateStore, bad: Any) -> None:
    with pytest.raises(InvalidValueError, match=r"messages\[1\]: must be one of langchain_core.messages"):
        chat.add(HumanMessage("one"), bad)
    assert not store.sessions.exists("s")


class Unheard(BaseMessage):
    type: str = "unheard"


def test_a_message_that_could_not_be_read_back_is_refused(chat: Chat, store: StateStore) -> None:
    for bad in (Unheard("?"), HumanMessage("?", additional_kwargs={"raw": object()})):
        with pytest.raises(InvalidValueError):
            chat.add(bad)
    assert not store.sessions.exists("s")


def test_arguments_are_checked_before_anything_is_connected() -> None:
    with pytest.raises(InvalidValueError):
        StatestoreChatMessageHistory("s", 7)  # type: ignore[arg-type]


def test_it_expires_and_is_swept(database_url: str, clock: MovableClock) -> None:
    with StateStore.open(database_url, clock=clock) as store:
        history = StatestoreChatMessageHistory("s", store, ttl=timedelta(hours=1))
        history.add_messages([AIMessage("one", usage_metadata=USED)])
        clock.advance(minutes=50)
        assert history.messages == [AIMessage("one", usage_metadata=USED)]
        clock.advance(minutes=50)
        assert len(history.messages) == 1
        clock.advance(hours=2)
        assert history.messages == []
        assert store.sweep()["expired_sessions"].rows == 1
        history.add_messages([HumanMessage("anew")])
        assert history.messages == [HumanMessage("anew")]
        assert store.usage.totals().input_tokens == 10


def test_a_user_can_be_erased(chat: Chat, store: StateStore) -> None:
    chat("of ada", user_id="ada").add(HumanMessage("secret"))
    chat("of bob", user_id="bob").add(HumanMessage("kept"))
    assert store.sessions.delete_user("ada").sessions == 1
    assert chat("of ada").messages() == []
    assert chat("of bob").messages() == [HumanMessage("kept")]


def test_order_survives_equal_times(database_url: str, clock: MovableClock) -> None:
    with StateStore.open(database_url, clock=clock) as store:
        history = StatestoreChatMessageHistory("s", store)
        for number in range(30):
            history.add_messages([HumanMessage(str(number)), AIMessage(str(number))])
        assert [int(str(message.content)) for message in history.messages] == [n // 2 for n in range(60)]


def test_writers_at_once_lose_nothing(lazy: LazyStore) -> None:
    def write(writer: int) -> None:
        history = StatestoreChatMessageHistory("s", lazy)
        for number in range(10):
            history.add_messages([HumanMessage(f"{writer}.{number}"), AIMessage(f"{writer}.{number}")])

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(4)))
    said = [message.content for message in StatestoreChatMessageHistory("s", lazy).messages]
    assert said[::2] == said[1::2]
    assert sorted(set(said)) == sorted(f"{writer}.{number}" for writer in range(4) for number in range(10))


# Forked where nothing is connected yet, so that the framework is imported once.
WRITERS = """
import multiprocessing, sys
from langchain_core.messages import HumanMessage
from statestore.adapters.langchain import StatestoreChatMessageHistory

def write(number):
    gate.wait()
    StatestoreChatMessageHistory("s", sys.argv[1]).add_messages([HumanMessage(str(number))])

forking = multiprocessing.get_context("fork")
gate = forking.Barrier(8)
started = [forking.Process(target=write, args=[number]) for number in range(8)]
for process in started:
    process.start()
for process in started:
    process.join()
sys.exit(any(process.exitcode for process in started))
"""


def test_eight_processes_begin_at_once(database_url: str, tmp_path: Path) -> None:
    # On SQLite a file that is not there yet; PostgreSQL gets its schema in a deployment.
    url = database_url if database_url.startswith("postgresql") else f"sqlite:///{tmp_path / 'new.db'}"
    subprocess.run([sys.executable, "-c", WRITERS, url], check=True, timeout=100)
    with StateStore.open(url) as store:
        messages = StatestoreChatMessageHistory("s", store).messages
    assert sorted(str(message.content) for message in messages) == [str(number) for number in range(8)]


def test_it_works_in_a_runnable(lazy: LazyStore) -> None:
    def last_of(messages: Any) -> str:
        return f"{len(messages)}: {messages[-1].content}"

    runnable = RunnableWithMessageHistory(
        RunnableLambda(last_of), lambda session_id: StatestoreChatMessageHistory(session_id, lazy)
    )
    config: Any = {"configurable": {"session_id": "s"}}
    assert runnable.invoke([HumanMessage("one")], config) == "1: one"
    assert asyncio.run(runnable.ainvoke([HumanMessage("two")], config)) == "3: two"
    said = [message.content for message in StatestoreChatMessageHistory("s", lazy).messages]
    assert said == ["one", "1: one", "two", "3: two"]


def test_an_odd_name_of_a_provider_keeps_no_message_out(lazy: LazyStore) -> None:
    history = StatestoreChatMessageHistory("s", lazy)
    odd = AIMessage("!", response_metadata={"model_provider": ["x"], "model_name": "m" * 513})
    history.add_messages([odd])
    assert history.messages == [odd]


def turn() -> list[BaseMessage]:
    return [HumanMessage("?"), AIMessage("!", id=str(uuid.uuid4()), usage_metadata=USED)]


@pytest.mark.parametrize(
    "act", [lambda history: history.messages, lambda history: history.add_messages(turn())], ids=["read", "add"]
)
def test_reading_and_adding_take_one_statement(
    traffic: Traffic, act: Callable[[StatestoreChatMessageHistory], Any]
) -> None:
    with StateStore.open(traffic.url) as store:
        history = StatestoreChatMessageHistory("s", store)
        for _ in range(8):
            traffic.clear()
            act(history)
        assert traffic.transactions == 1
        if traffic.url.startswith("postgresql"):
            assert len(traffic.statements) == 1
