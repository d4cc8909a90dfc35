"""The messages of a run, as they are stored while it runs, and an agent that is killed."""

import asyncio
import re
import signal
import subprocess
import sys
import traceback
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic_ai import Agent
from pydantic_ai.messages import ModelRequest, ModelResponse, ToolCallPart, UserPromptPart
from pydantic_ai.models.test import TestModel
from pydantic_ai.usage import RequestUsage

from statestore import ConflictError, InvalidValueError, LazyStore, NewEntry, StateStore
from statestore.adapters.pydantic_ai import MessageHistory, StatestoreConversationStore
from tests.adapters.pydantic_ai.agent_loop import SEATS, booked
from tests.support.clock import MovableClock
from tests.support.wire import Traffic

ROOT = Path(__file__).parents[3]


def agent() -> Agent[None, str]:
    agent = Agent(TestModel())

    @agent.tool_plain
    def forecast(place: str) -> str:
        return f"clear in {place}"

    return agent


async def test_what_is_not_a_message_is_refused(lazy: LazyStore) -> None:
    history = MessageHistory("s", lazy)
    message = ModelRequest(parts=[UserPromptPart("Hi")])
    for messages in (None, "Hi", message, [None], [message, {"kind": "request"}]):
        with pytest.raises(InvalidValueError, match="messages"):
            await history.append(messages)  # type: ignore[arg-type]
    assert not await (await lazy.here()).sessions.exists("s")


@pytest.mark.parametrize("figure", [-1, 10**9 + 1])
async def test_what_a_model_has_made_up_keeps_no_message_out(lazy: LazyStore, figure: int) -> None:
    history = MessageHistory("s", lazy)
    used = RequestUsage(input_tokens=figure, output_tokens=3)
    call = ToolCallPart("n" * 513, {}, tool_call_id="i" * 513)
    answer = ModelResponse(parts=[call], usage=used, model_name="m" * 513)
    await history.append([answer])
    assert await history.load() == [answer]
    totals = await (await lazy.here()).usage.totals()
    assert (totals.input_tokens, totals.output_tokens) == (0, 3)


async def test_a_run_is_stored_and_continued_exactly(lazy: LazyStore) -> None:
    history = MessageHistory("s", lazy, user_id="ada", agent_name="guide")
    assert await history.load() == []
    first = await agent().run("Is Saturday good?", message_history=await history.load())
    await history.append(first.new_messages())
    second = await agent().run("And Sunday?", message_history=await history.load())
    await history.append(second.new_messages())
    assert await history.load() == second.all_messages()
    assert await history.load(last=2) == second.all_messages()[-2:]
    assert {message.run_id for message in await history.load()} == {first.run_id, second.run_id}
    assert {message.conversation_id for message in await history.load()} == {first.conversation_id}

    store = await lazy.here()
    totals = await store.usage.totals(user_id="ada")
    used = [result.usage for result in (first, second)]
    assert totals.input_tokens == sum(one.input_tokens or 0 for one in used)
    assert totals.output_tokens == sum(one.output_tokens or 0 for one in used)
    assert [row.tool_calls for row in await store.usage.by_tool() if row.tool_name == "forecast"] == [1]
    assert {row.agent_name for row in await store.usage.by_agent()} == {"guide"}
    assert (await store.sessions.stats("s")).turns == 2


async def test_a_run_is_stored_step_by_step_and_each_message_once(lazy: LazyStore) -> None:
    history = MessageHistory("s", lazy)
    lengths = []
    async with agent().iter("Is Saturday good?") as run:
        async for _ in run:
            await history.append(run.new_messages())
            lengths.append(len(await history.load()))
    for _ in range(2):
        await history.append(run.new_messages())
    assert await history.load() == run.new_messages()
    assert lengths == sorted(lengths)
    assert len(set(lengths)) > 2


@pytest.mark.parametrize(
    "bad", [{"text": "secret"}, {"kind": "request", "parts": "secret"}, ["secret"], "secret", None]
)
async def test_an_entry_that_is_not_a_message_is_named_and_not_quoted(lazy: LazyStore, bad: Any) -> None:
    history = MessageHistory("s", lazy)
    await history.append([ModelRequest(parts=[UserPromptPart("one")])])
    await (await lazy.here()).history.append("s", [NewEntry(bad, entry_id="e")])
    conversations = StatestoreConversationStore(lazy)
    for read, named in ((history.load(), "entry 2 of the 2 of 's'"), (conversations.read_entry("e"), "of 'e'")):
        with pytest.raises(InvalidValueError, match=named) as refused:
            await read
        assert "secret" not in "".join(traceback.format_exception(refused.value))


def test_a_run_can_be_stored_without_an_event_loop(database_url: str) -> None:
    history = MessageHistory("s", database_url)
    assert history.load_sync() == []
    with asyncio.Runner() as runner:  # `run_sync` would make an event loop, and leave it open.
        asyncio.set_event_loop(runner.get_loop())
        result = agent().run_sync("Is Saturday good?", message_history=history.load_sync())
    history.append_sync(result.new_messages())
    assert history.load_sync() == result.all_messages()
    history.close()


async def test_two_runs_at_once_lose_nothing(database_url: str) -> None:
    histories = [MessageHistory("s", database_url) for _ in range(2)]
    results = [await agent().run(f"Question {n}") for n in range(10)]

    async def write(who: int) -> None:
        for result in results[who::2]:
            for end in range(1, len(result.new_messages()) + 1):
                await histories[who].append(result.new_messages()[:end])

    await asyncio.gather(write(0), write(1))
    stored = await histories[0].load()
    for result in results:
        assert [message for message in stored if message.run_id == result.run_id] == result.new_messages()
    assert len(stored) == sum(len(result.new_messages()) for result in results)
    for history in histories:
        await history.aclose()


async def test_order_survives_equal_times_and_a_clock_that_goes_back(lazy: LazyStore) -> None:
    history = MessageHistory("s", lazy)
    at = datetime(2026, 11, 22, 9, tzinfo=UTC)
    messages = [ModelRequest([UserPromptPart(str(n))], timestamp=at - timedelta(seconds=n // 10)) for n in range(20)]
    for message in messages:
        await history.append([message])
    assert await history.load() == messages


async def test_another_message_in_the_place_of_a_stored_one_is_refused(lazy: LazyStore) -> None:
    history = MessageHistory("s", lazy)
    result = await agent().run("Is Saturday good?")
    await history.append(result.new_messages())
    with pytest.raises(ConflictError):
        await history.append(result.new_messages()[1:])
    assert await history.load() == result.new_messages()
    with pytest.raises(InvalidValueError, match="session_id"):
        await MessageHistory("", lazy).load()


async def test_a_history_is_forked_and_expires_and_is_a_conversation(database_url: str, clock: MovableClock) -> None:
    lazy = LazyStore(database_url, clock=clock)
    history = MessageHistory("s", lazy, ttl=timedelta(hours=1))
    result = await agent().run("Is Saturday good?")
    await history.append(result.new_messages())
    store = await lazy.here()
    await store.sessions.fork("s", "f", at_seq=1)
    assert await MessageHistory("f", lazy).load() == result.new_messages()[:1]

    conversation = await StatestoreConversationStore(lazy).load("s")
    assert conversation is not None
    assert conversation.messages == result.all_messages()
    await StatestoreConversationStore(lazy).save(await agent().run("And Sunday?", conversation=conversation))
    assert len(await history.load()) == len(result.all_messages()) + 2
    clock.advance(hours=2)
    assert await history.load() == []
    await lazy.aclose()


async def test_an_append_and_a_load_are_one_statement_each(traffic: Traffic, database_url: str) -> None:
    history = MessageHistory("s", traffic.url)
    for _ in range(8):
        result = await agent().run("Is Saturday good?")
        traffic.clear()
        await history.append(result.new_messages())
    assert len(traffic.statements) == 1 or database_url.startswith("sqlite")
    traffic.clear()
    await history.load(last=4)
    assert len(traffic.statements) == 1
    await history.aclose()


def loop(url: str, file: Path, *more: str) -> Any:
    command = [sys.executable, "-m", "tests.adapters.pydantic_ai.agent_loop", url, str(file), *more]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize("killed_at", [1, 4, 9])
async def test_an_agent_that_was_killed_goes_on_in_another_process(
    database_url: str, tmp_path: Path, killed_at: int
) -> None:
    seats = tmp_path / "seats"
    with loop(database_url, seats, "--slow") as process:
        for line in process.stdout:
            if (said := re.match(r"stored (\d+)", line)) and int(said[1]) >= killed_at:
                break
        process.send_signal(signal.SIGKILL)
    with StateStore.open(database_url) as store:
        acknowledged = store.history.messages("trip")
    assert killed_at <= len(acknowledged) < 2 * SEATS + 2

    with loop(database_url, seats) as process:
        assert "done" in process.stdout.read()
    assert process.returncode == 0
    history = MessageHistory("trip", database_url)
    messages = await history.load()
    with StateStore.open(database_url) as store:
        assert store.history.messages("trip", limit=len(acknowledged)) == acknowledged
    assert [message.kind for message in messages] == ["request", "response"] * (SEATS + 1)
    assert booked(messages) == SEATS
    # A tool whose result was not stored yet runs again; all others have run once.
    done = [int(seat) for seat in seats.read_text().split()]
    assert sorted(set(done)) == list(range(1, SEATS + 1))
    assert len(done) <= SEATS + 1
    await history.aclose()
