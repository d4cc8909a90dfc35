"""Conversations of pydantic-ai: as its store in memory has them, and what that one has not."""

import asyncio
import dataclasses
import multiprocessing
import random
from datetime import timedelta
from typing import Any

import pytest
from pydantic_ai import Agent
from pydantic_ai.conversation import Conversation
from pydantic_ai.conversation_store import ConversationConflict, ConversationStore, InMemoryConversationStore
from pydantic_ai.exceptions import UserError
from pydantic_ai.messages import (
    BinaryContent,
    ModelMessage,
    ModelRequest,
    ModelResponse,
    TextPart,
    ThinkingPart,
    ToolCallPart,
    ToolReturnPart,
    UserPromptPart,
)
from pydantic_ai.models.test import TestModel
from pydantic_ai.tools import DeferredToolRequests
from pydantic_ai.usage import RequestUsage, RunUsage

from statestore import AsyncStateStore, LazyStore, StateStore
from statestore.adapters.pydantic_ai import StatestoreConversationStore
from tests.support.clock import MovableClock
from tests.support.wire import Traffic


def asked(text: str) -> ModelRequest:
    return ModelRequest(parts=[UserPromptPart(text)], run_id="run", conversation_id="c")


def answered(text: str, tokens: int = 10) -> ModelResponse:
    used = RequestUsage(input_tokens=tokens, output_tokens=1, cache_read_tokens=2)
    return ModelResponse(parts=[TextPart(text)], usage=used, model_name="m-1", provider_name="acme", run_id="run")


async def saved(store: ConversationStore, conversation_id: str, *texts: str, scope: str | None = None) -> Conversation:
    """Go on with a conversation: for each text a question and its answer."""
    conversation = await store.load(conversation_id) or Conversation(conversation_id=conversation_id)
    for text in texts:
        conversation.messages = [*conversation.messages, asked(text), answered(f"{text}!")]
        conversation.usage = dataclasses.replace(conversation.usage, requests=conversation.usage.requests + 1)
    await store.save(conversation, scope=scope)
    return conversation


def texts(messages: list[ModelMessage]) -> list[str]:
    return [str(part.content) for message in messages for part in message.parts]  # type: ignore[union-attr]


async def test_every_kind_of_message_comes_back_equal(conversations: StatestoreConversationStore) -> None:
    paper = BinaryContent(data=bytes(range(256)), media_type="application/pdf")
    messages: list[ModelMessage] = [
        ModelRequest(parts=[UserPromptPart(["Look", paper])], instructions="Be brief.", run_id="r", metadata={"a": 1}),
        ModelResponse(
            parts=[ThinkingPart("hm", signature="s"), ToolCallPart("look", {"x": 1.5, "y": None}, tool_call_id="t")],
            usage=RequestUsage(input_tokens=3, output_tokens=4, details={"reasoning_tokens": 2}),
            model_name="m",
            provider_response_id="p",
            finish_reason="tool_call",
        ),
        ModelRequest(parts=[ToolReturnPart("look", {"seen": ["ü", 2**60]}, tool_call_id="t")]),
        answered("A form."),
    ]
    usage = RunUsage(requests=2, tool_calls=1, input_tokens=13, details={"reasoning_tokens": 2})
    waiting = DeferredToolRequests(
        approvals=[ToolCallPart("book", {"seat": 1}, tool_call_id="b")], metadata={"b": {"k": 1}}
    )
    await conversations.save(
        Conversation(conversation_id="c", messages=messages, usage=usage, deferred_tool_requests=waiting)
    )
    found = await conversations.load("c")
    assert found is not None
    assert (found.messages, found.usage, found.deferred_tool_requests) == (messages, usage, waiting)


async def test_a_model_s_turns_are_saved_and_continued(
    conversations: StatestoreConversationStore, lazy: LazyStore
) -> None:
    agent = Agent(TestModel())

    @agent.tool_plain
    def forecast(place: str) -> str:
        return f"clear in {place}"

    first = await agent.run("Is Saturday good?", conversation=Conversation(conversation_id="c"))
    await conversations.save(first, scope="ada")
    conversation = await conversations.load("c")
    assert conversation is not None
    second = await agent.run("And Sunday?", conversation=conversation)
    entries = await conversations.save(second)
    assert len(entries) == len(second.new_messages())
    stored = await conversations.load("c")
    assert stored is not None
    assert (stored.messages, stored.usage) == (second.all_messages(), second.conversation.usage)

    store = await lazy.here()
    totals = await store.usage.totals(user_id="ada")
    assert (totals.input_tokens, totals.output_tokens) == (stored.usage.input_tokens, stored.usage.output_tokens)
    assert totals.tool_calls == stored.usage.tool_calls
    assert {row.agent_name for row in await store.usage.by_agent()} == {"pydantic-ai"}


async def _step(store: ConversationStore, dice: random.Random, number: int) -> Any:
    """A step that is the same for all stores, and what comes of it."""
    name = f"c{dice.randrange(4)}"
    kind = dice.choice(["save", "save", "branch", "back", "fork", "rewrite", "delete", "load", "stale"])
    place, limit = dice.random(), dice.randrange(6)
    record = await store.read_record(name)
    if kind == "save":
        return texts((await saved(store, name, f"{number}a", f"{number}b")).messages)
    if record is None:
        return await store.load(name)
    history = await store.read_history(record.head_id)
    if kind == "branch":
        at = int(place * (len(history) + 1))
        return texts((await store.branch(name, at=at, expected_revision=record.revision)).messages)
    if kind == "back":
        if not record.branches:
            return None
        tip = record.branches[int(place * len(record.branches))]
        return texts((await store.branch(name, from_entry=tip, expected_revision=record.revision)).messages)
    if kind == "fork":
        tips = [entry.id for entry in history] + record.branches
        if not tips:
            return None
        await store.delete(f"c{number % 4}")
        if await store.read_record(name) is None:
            return None
        fork = await store.fork(name, from_entry=tips[int(place * len(tips))], new_conversation_id=f"c{number % 4}")
        return texts(fork.messages)
    if kind == "rewrite":
        messages = [entry.message for entry in history]
        cut = int(place * len(messages))
        messages = [*messages[:cut], asked(f"summary {number}"), *messages[cut + 1 :]]
        await store.save(Conversation(conversation_id=name, messages=messages, revision=record.revision))
        return texts(messages)
    if kind == "delete":
        return await store.delete(name)
    if kind == "stale":
        with pytest.raises(ConversationConflict):
            await store.save(Conversation(conversation_id=name, revision="another"))
        return None
    loaded = await store.load(name, limit=limit)
    return loaded and texts(loaded.messages)


async def _all(store: ConversationStore) -> Any:
    found = {}
    for record in await store.list_conversations():
        entries = await store.load_entries(record.conversation_id) or []
        assert [entry.parent_id for entry in entries] == [None, *(entry.id for entry in entries)][: len(entries)]
        lines = [await store.read_history(tip) for tip in [record.head_id, *record.branches]]
        of = [texts([entry.message for entry in line]) for line in lines]
        last = texts([(await store.read_entry(record.head_id)).message]) if record.head_id else None
        found[record.conversation_id] = of, record.forked_from, record.usage, last
    return found


@pytest.mark.parametrize("seed", range(4))
async def test_all_is_as_in_the_store_that_keeps_it_in_memory(
    conversations: StatestoreConversationStore, lazy: LazyStore, clock: MovableClock, seed: int
) -> None:
    model = InMemoryConversationStore()
    for number in range(40):
        wanted = await _step(model, random.Random(seed * 1000 + number), number)
        assert await _step(conversations, random.Random(seed * 1000 + number), number) == wanted
        clock.advance(seconds=1)
    wanted = await _all(model)
    assert await _all(conversations) == wanted
    assert await _all(StatestoreConversationStore(lazy)) == wanted  # Which remembers nothing.


async def test_branches_and_forks_count_nothing_again(
    conversations: StatestoreConversationStore, lazy: LazyStore
) -> None:
    conversation = await saved(conversations, "c", "one", "two", "three")
    left = conversation.messages
    await conversations.branch("c", at=2, expected_revision=conversation.revision)
    branched = await saved(conversations, "c", "four")
    record = await conversations.read_record("c")
    assert record is not None
    tip = record.branches[0]
    back = await conversations.branch("c", from_entry=tip, expected_revision=branched.revision)
    assert back.messages == left
    await conversations.fork("c", at=4, new_conversation_id="f")
    assert [one.session_id for one in (await (await lazy.here()).sessions.lineage("f")).ancestors] == ["c"]
    fork = await conversations.fork("c", from_entry=(await conversations.read_history(record.head_id))[-1].id)
    assert texts(fork.messages) == ["one", "one!", "four", "four!"]
    rewritten = [asked("summary"), *left[2:]]
    await conversations.save(Conversation(conversation_id="c", messages=rewritten, revision=back.revision))
    totals = await (await lazy.here()).usage.totals()
    assert (totals.input_tokens, totals.model_calls) == (40, 4)
    await conversations.delete("c")
    assert (await (await lazy.here()).usage.totals()).input_tokens == 40
    found = await conversations.load("f")
    assert found is not None
    assert texts(found.messages) == ["one", "one!", "two", "two!"]


async def test_branches_are_in_no_list_and_go_with_their_conversation(
    conversations: StatestoreConversationStore, lazy: LazyStore
) -> None:
    conversation = await saved(conversations, "c", "one", "two", scope="ada")
    await conversations.branch("c", at=2, expected_revision=conversation.revision)
    store = await lazy.here()
    assert [record.conversation_id for record in await conversations.list_conversations()] == ["c"]
    assert (await store.sessions.count(), await store.sessions.count(include_parts=True)) == (1, 2)
    await store.sessions.delete_user("ada")
    assert await store.sessions.count(include_parts=True) == 0
    assert await conversations.load("c") is None


async def test_conversations_are_listed_by_scope_the_last_saved_first(
    conversations: StatestoreConversationStore, lazy: LazyStore, clock: MovableClock
) -> None:
    for name, scope in (("a", "ada"), ("b", "bob"), ("c", "ada"), ("a", None)):
        await saved(conversations, name, "x", scope=scope)
        clock.advance(seconds=1)
    await (await lazy.here()).sessions.create("of another agent", user_id="ada")

    async def listed(**conditions: Any) -> list[str]:
        return [record.conversation_id for record in await conversations.list_conversations(**conditions)]

    assert await listed() == ["a", "c", "b"]
    assert await listed(scope="ada") == ["a", "c"]
    assert await listed(limit=1) == ["a"]
    assert await listed(scope="nobody") == []
    assert await conversations.load("a", scope="bob") is None
    with pytest.raises(UserError):
        await conversations.list_conversations(limit=-1)


async def test_a_fork_made_through_the_store_is_a_conversation(
    conversations: StatestoreConversationStore, lazy: LazyStore
) -> None:
    await saved(conversations, "c", "one", "two", scope="ada")
    store = await lazy.here()
    await store.sessions.fork("c", "f", at_seq=2)
    await store.sessions.fork("c", "whole")
    fork = await conversations.load("f", scope="ada")
    assert fork is not None
    assert texts(fork.messages) == ["one", "one!"]
    record = await conversations.read_record("whole")
    assert record is not None
    assert record.forked_from == "c"
    await saved(conversations, "f", "three")
    await saved(conversations, "c", "four")
    assert texts((await saved(conversations, "f")).messages) == ["one", "one!", "three", "three!"]
    assert (await store.sessions.lineage("f")).session_id == "f"
    assert (await store.usage.totals()).input_tokens == 40


async def test_what_others_append_shows_and_a_stale_save_is_refused(
    conversations: StatestoreConversationStore, lazy: LazyStore
) -> None:
    conversation = await saved(conversations, "c", "one")
    store = await lazy.here()
    await store.sessions.fork("c", "other")
    await store.history.pop_last("c")
    with pytest.raises(ConversationConflict):
        await conversations.save(conversation)
    assert texts((await saved(conversations, "c", "two")).messages) == ["one", "two", "two!"]


async def test_a_conversation_expires_and_its_fork_lives_on(database_url: str, clock: MovableClock) -> None:
    lazy = LazyStore(database_url, clock=clock)
    conversations = StatestoreConversationStore(lazy, ttl=timedelta(hours=1))
    await saved(conversations, "c", "one")
    clock.advance(minutes=40)
    await conversations.fork("c", new_conversation_id="f")  # Reads it, so its hour begins again.
    clock.advance(minutes=40)
    await conversations.load("f")
    clock.advance(minutes=40)
    assert await conversations.load("c") is None
    for store in (conversations, StatestoreConversationStore(lazy)):
        found = await store.load("f")
        assert found is not None
        assert texts(found.messages) == ["one", "one!"]
    await (await lazy.here()).sweep()
    assert await StatestoreConversationStore(lazy).load("f") is not None
    await lazy.aclose()


async def test_of_two_that_save_at_once_one_is_refused(database_url: str) -> None:
    stores = [StatestoreConversationStore(database_url) for _ in range(2)]
    await saved(stores[0], "c", "one")

    async def write(who: int) -> int:
        done = 0
        while done < 10:
            try:
                await saved(stores[who], "c", f"{who}-{done}")
                done += 1
            except ConversationConflict:
                await asyncio.sleep(random.random() / 100)
        return done

    await asyncio.gather(write(0), write(1))
    found = await stores[0].load("c")
    assert found is not None
    for who in range(2):
        own = [text for text in texts(found.messages) if text.startswith(f"{who}-") and not text.endswith("!")]
        assert own == [f"{who}-{n}" for n in range(10)]
    for store in stores:
        await store.aclose()


async def test_a_conversation_is_begun_once(database_url: str) -> None:
    stores = [StatestoreConversationStore(database_url) for _ in range(4)]
    results = await asyncio.gather(*(saved(store, "c", "x") for store in stores), return_exceptions=True)
    assert sum(isinstance(one, Conversation) for one in results) >= 1
    assert all(isinstance(one, Conversation | ConversationConflict) for one in results)
    for store in stores:
        await store.aclose()


def _first_use(url: str, who: int) -> None:
    asyncio.run(saved(StatestoreConversationStore(url), str(who), "x"))  # type: ignore[arg-type]


@pytest.mark.timeout(300)
def test_eight_processes_at_once_use_it_first(request: pytest.FixtureRequest, database_url: str) -> None:
    if database_url.startswith("sqlite"):
        database_url = request.getfixturevalue("empty_sqlite_url").replace("statestore.db", "first.db")
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_first_use, args=(database_url, who)) for who in range(8)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(250)
    assert [process.exitcode for process in processes] == [0] * 8
    with StateStore.open(database_url) as store:
        assert store.sessions.count() == 8


async def test_loading_takes_two_statements(traffic: Traffic) -> None:
    async with AsyncStateStore.open(traffic.url) as store:
        conversations = StatestoreConversationStore(store)
        await saved(conversations, "c", *(str(n) for n in range(20)))
        for _ in range(8):
            traffic.clear()
            await conversations.load("c")
        assert len(traffic.statements) == 2
        for _ in range(8):
            traffic.clear()
            await conversations.load("c", limit=4)
        assert len(traffic.statements) == 2
        for _ in range(8):
            traffic.clear()
            await conversations.list_conversations()
        assert len(traffic.statements) == 1
