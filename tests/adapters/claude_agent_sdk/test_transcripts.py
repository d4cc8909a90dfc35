"""Transcripts of the Claude Agent SDK in a store: what its own suite does not ask."""

import asyncio
import json
import multiprocessing
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from claude_agent_sdk import fork_session_via_store, project_key_for_directory
from claude_agent_sdk.testing import run_session_store_conformance

from statestore import NEVER, AsyncStateStore, InvalidValueError, LazyStore, StateStore
from statestore.adapters.claude_agent_sdk import StatestoreSessionStore, statestore_id
from tests.adapters.claude_agent_sdk.transcripts import EXPLORER, KEY, answer, line
from tests.support.clock import MovableClock
from tests.support.wire import Traffic

WARM_UP = 8


async def test_the_sdk_s_own_kit_is_satisfied(database_url: str) -> None:
    made: list[StatestoreSessionStore] = []

    async def make() -> Any:
        # A namespace of its own for each contract.
        made.append(StatestoreSessionStore(LazyStore(database_url, namespace=f"contract-{len(made)}")))
        return made[-1]

    await run_session_store_conformance(make)
    for one in made:
        await one._store.aclose()


async def test_lines_come_back_exactly_in_order_and_once(transcripts: StatestoreSessionStore) -> None:
    first = [line("1"), line(None, "no id"), {"type": "x", "b": 1, "a": [1.0, -0.0, "ü\ud800", None]}]
    second = [line("1"), line("2"), line("2"), line(None, "no id")]
    await transcripts.append(KEY, first)
    await transcripts.append(KEY, second)
    found = await transcripts.load(KEY)
    assert json.dumps(found) == json.dumps([*first, line("2"), line(None, "no id")])


async def test_keys_that_look_alike_are_different_sessions(transcripts: StatestoreSessionStore) -> None:
    keys: list[Any] = [
        {"project_key": "a", "session_id": "b/c"},
        {"project_key": "a/b", "session_id": "c"},
        {"project_key": "a", "session_id": "b", "subpath": "c"},
        {"project_key": "a%2Fb", "session_id": "c"},
        {"project_key": "a", "session_id": "b%2Fc"},
    ]
    for n, key in enumerate(keys):
        await transcripts.append(key, [line("1", str(n))])
    assert [await transcripts.load(key) for key in keys] == [[line("1", str(n))] for n in range(len(keys))]
    assert len({statestore_id(key) for key in keys}) == len(keys)
    assert {one["session_id"] for one in await transcripts.list_sessions("a")} == {"b/c", "b%2Fc"}
    assert [one["session_id"] for one in await transcripts.list_sessions("a/b")] == ["c"]


async def test_a_sub_agent_s_lines_may_come_first(transcripts: StatestoreSessionStore) -> None:
    await transcripts.append(EXPLORER, [line("1")])
    assert await transcripts.load(KEY) is None
    assert await transcripts.list_sessions("-work-app") == []
    await transcripts.append(KEY, [line("1")])
    assert await transcripts.list_subkeys(KEY) == ["subagents/agent-explore"]
    assert [one["session_id"] for one in await transcripts.list_session_summaries("-work-app")] == ["s"]


async def test_the_sessions_of_others_are_not_in_the_list(transcripts: StatestoreSessionStore, lazy: LazyStore) -> None:
    await transcripts.append(KEY, [line("1")])
    store = await lazy.here()
    await store.history.append("-work-app/chat", [{"role": "user", "content": "Hi"}], create=True)
    assert [one["session_id"] for one in await transcripts.list_sessions("-work-app")] == ["s"]


@pytest.mark.parametrize("figure", [-1, 10**9 + 1, 1.5, "5", None])
@pytest.mark.parametrize("name", ["m" * 513, "nul\0", "\ud800", "", 5, ["x"], None])
async def test_what_is_odd_about_an_answer_keeps_no_line_out(
    transcripts: StatestoreSessionStore, lazy: LazyStore, figure: Any, name: Any
) -> None:
    odd = {"model": name, "id": name, "stop_reason": name, "usage": {"input_tokens": figure, "output_tokens": 3}}
    blocks = [{"type": "tool_use", "id": name, "name": name}]
    lines: list[Any] = [
        line("1"),
        {"type": "assistant", "uuid": "2", "message": {"role": "assistant", "content": blocks, **odd}},
        {"type": "assistant", "uuid": name, "message": {"role": "assistant", "content": "Hi", "usage": {}}},
    ]
    await transcripts.append(KEY, lines)
    assert json.dumps(await transcripts.load(KEY)) == json.dumps(lines)
    assert (await (await lazy.here()).usage.totals()).output_tokens == 3


@pytest.mark.parametrize("cwd", ["nul\0", "\ud800", "", 5, "/long" * 1000])
@pytest.mark.parametrize("at", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "soon", 5])
async def test_what_is_odd_about_a_first_line_keeps_it_not_out(
    transcripts: StatestoreSessionStore, cwd: Any, at: Any
) -> None:
    lines = [line("1", cwd=cwd, timestamp=at), line("2", cwd="/work")]
    await transcripts.append(KEY, lines)
    assert json.dumps(await transcripts.load(KEY)) == json.dumps(lines)


async def test_transcripts_may_stay_for_ever(lazy: LazyStore) -> None:
    await StatestoreSessionStore(lazy, ttl=NEVER).append(KEY, [line("1")])
    [session] = (await (await lazy.here()).sessions.page()).sessions
    assert session.ttl is None


async def test_what_is_not_a_key_or_a_line_is_refused(transcripts: StatestoreSessionStore, lazy: LazyStore) -> None:
    for key in ({}, {"project_key": "p"}, None, "x", {"project_key": "p", "session_id": "s", "subpath": 5}):
        for call in (transcripts.load, transcripts.delete, transcripts.list_subkeys):
            with pytest.raises(InvalidValueError):
                await call(key)  # type: ignore[operator]
        with pytest.raises(InvalidValueError):
            await transcripts.append(key, [line("1")])  # type: ignore[arg-type]
    for lines in ([None], ["x"], "x", [line("1"), None], None, line("1")):
        with pytest.raises(InvalidValueError, match="entries"):
            await transcripts.append(KEY, lines)  # type: ignore[arg-type]
    with pytest.raises(InvalidValueError, match="ttl"):
        StatestoreSessionStore(lazy, ttl=3600)  # type: ignore[arg-type]
    assert await transcripts.load(KEY) is None


async def test_a_key_that_names_nothing_is_refused(transcripts: StatestoreSessionStore) -> None:
    with pytest.raises(InvalidValueError, match="project_key"):
        await transcripts.append({"project_key": "", "session_id": "s"}, [line("1")])
    with pytest.raises(InvalidValueError, match="session_id"):
        await transcripts.load({"project_key": "p", "session_id": None})  # type: ignore[typeddict-item]


# Usage


async def test_what_a_response_used_is_counted_once_with_its_last_figures(
    transcripts: StatestoreSessionStore, lazy: LazyStore
) -> None:
    await transcripts.append(KEY, [line("1"), answer("2", "r", (10, 1)), answer("3", "r", (10, 5))])
    await transcripts.append(KEY, [answer("4", "r", (10, 7))])
    await transcripts.append(KEY, [answer("4", "r", (10, 7)), answer("5", "other", (3, 2))])
    await transcripts.append(EXPLORER, [answer("6", "sub", (100, 20))])
    store = await lazy.here()
    totals = await store.usage.totals()
    assert (totals.input_tokens, totals.output_tokens) == (113, 29)
    by_agent = {row.agent_name: row.input_tokens for row in await store.usage.by_agent()}
    assert by_agent == {"claude-code": 13, "claude-code/sub-agent": 100}
    assert {row.model for row in await store.usage.by_model() if row.model_calls} == {"claude-x"}


async def test_another_process_goes_on_with_a_response_that_was_partly_counted(database_url: str) -> None:
    for lines in ([answer("1", "r", (10, 1))], [answer("2", "r", (10, 9))], [line("3")]):
        async with StatestoreSessionStore(database_url) as transcripts:
            await transcripts.append(KEY, lines)
    async with AsyncStateStore.open(database_url) as store:
        totals = await store.usage.totals()
    assert (totals.input_tokens, totals.output_tokens) == (10, 9)


async def test_copies_of_lines_are_not_counted_again(transcripts: StatestoreSessionStore, lazy: LazyStore) -> None:
    await transcripts.append(KEY, [answer("1", "r", (10, 1))])
    resumed: Any = {**KEY, "session_id": "resumed"}
    await transcripts.append(resumed, [answer("1", "r", (10, 1)), answer("2", "new", (5, 1))])
    forked: Any = {**KEY, "session_id": "forked"}
    await transcripts.append(forked, [answer("9", "r", (10, 1), forkedFrom={"sessionId": "s", "messageUuid": "1"})])
    assert (await (await lazy.here()).usage.totals()).input_tokens == 15


async def test_tools_are_in_the_reports_and_their_results_begin_no_turn(
    transcripts: StatestoreSessionStore, lazy: LazyStore
) -> None:
    call = answer("2", "r", (1, 1))
    call["message"]["content"] = [{"type": "tool_use", "id": "t", "name": "Bash", "input": {}}]
    result = line("3")
    result["message"]["content"] = [{"type": "tool_result", "tool_use_id": "t", "content": "no", "is_error": True}]
    await transcripts.append(KEY, [line("1"), call, result])
    store = await lazy.here()
    assert [(row.tool_name, row.tool_calls) for row in await store.usage.by_tool() if row.tool_name] == [("Bash", 1)]
    stats = await store.sessions.stats(statestore_id(KEY))
    assert (stats.turns, stats.errors) == (1, 1)


# Summaries


async def test_a_summary_is_what_the_sdk_folds_from_all_lines(transcripts: StatestoreSessionStore) -> None:
    title = {"type": "custom-title", "customTitle": "Walk"}
    await transcripts.append(KEY, [line("1", "Is Saturday good?"), title])
    await transcripts.append(KEY, [answer("2", "r", (1, 1))])
    await transcripts.append(EXPLORER, [{"type": "custom-title", "customTitle": "of the explorer"}])
    [summary] = await transcripts.list_session_summaries("-work-app")
    assert (summary["data"]["custom_title"], summary["data"]["first_prompt"]) == ("Walk", "Is Saturday good?")
    [listed] = await transcripts.list_sessions("-work-app")
    assert summary["mtime"] >= listed["mtime"]


async def test_summaries_of_many_sessions_take_two_statements(
    counted: StatestoreSessionStore, traffic: Traffic
) -> None:
    for n in range(21):
        await counted.append({**KEY, "session_id": f"s{n}"}, [line("1", f"prompt {n}")])
        await counted.append({**EXPLORER, "session_id": f"s{n}"}, [line("1")])
    for _ in range(WARM_UP):
        traffic.clear()
        assert len(await counted.list_session_summaries("-work-app")) == 21
    assert len([sql for sql in traffic.statements if "SELECT" in sql]) == 2


async def test_a_list_extends_no_ttl(database_url: str, clock: MovableClock) -> None:
    lazy = LazyStore(database_url, clock=clock)
    transcripts = StatestoreSessionStore(lazy, ttl=timedelta(hours=1))
    await transcripts.append(KEY, [line("1")])
    await transcripts.append(EXPLORER, [line("1")])
    clock.advance(minutes=50)
    assert len(await transcripts.list_session_summaries("-work-app")) == 1
    assert len(await transcripts.list_sessions("-work-app")) == 1
    clock.advance(minutes=20)
    assert (await transcripts.load(KEY), await transcripts.load(EXPLORER)) == (None, None)
    report = await (await lazy.here()).sweep()
    assert report.kinds["expired_sessions"].rows == 2
    await lazy.aclose()


# The store's own operations, and others who write


async def test_a_fork_made_through_the_store_shows_with_its_summary(
    transcripts: StatestoreSessionStore, lazy: LazyStore
) -> None:
    await transcripts.append(KEY, [line("1", "first prompt")])
    await transcripts.append(KEY, [answer("2", "r", (10, 1)), {"type": "tag", "tag": "late"}])
    store = await lazy.here()
    for name, at_seq in (("whole", None), ("within", 2), ("start", 1)):
        await store.sessions.fork(statestore_id(KEY), statestore_id({**KEY, "session_id": name}), at_seq=at_seq)
    data = {one["session_id"]: one["data"] for one in await transcripts.list_session_summaries("-work-app")}
    assert (data["whole"]["tag"], data["start"]["first_prompt"]) == ("late", "first prompt")
    assert "within" not in data  # The SDK reads that one itself.
    await transcripts.append({**KEY, "session_id": "within"}, [line("3")])
    data = {one["session_id"]: one["data"] for one in await transcripts.list_session_summaries("-work-app")}
    assert data["within"]["first_prompt"] == "first prompt"
    assert (await store.usage.totals()).input_tokens == 10


async def test_a_fork_of_the_sdk_s_is_a_session_of_the_store(
    transcripts: StatestoreSessionStore, lazy: LazyStore
) -> None:
    session_id = str(uuid4())
    key: Any = {**KEY, "project_key": project_key_for_directory("/work/app"), "session_id": session_id}
    lines = [line(str(uuid4()), text, sessionId=session_id, parentUuid=None) for text in ("one", "two")]
    await transcripts.append(key, lines)
    fork = await fork_session_via_store(transcripts, session_id, "/work/app", up_to_message_id=lines[0]["uuid"])
    store = await lazy.here()
    found = await store.history.messages(statestore_id({**key, "session_id": fork.session_id}))
    assert [one["message"]["content"] for one in found if "message" in one] == ["one"]
    assert (await store.sessions.get(statestore_id(key))).entry_count == 2


async def test_order_survives_equal_times(transcripts: StatestoreSessionStore) -> None:
    lines = [line(str(n), timestamp="2026-11-22T09:00:00Z") for n in range(20)]
    for one in lines:
        await transcripts.append(KEY, [one])
    assert await transcripts.load(KEY) == lines


async def test_a_session_is_erased_with_its_user_and_what_it_used_stays(database_url: str) -> None:
    async with AsyncStateStore.open(database_url) as store:
        transcripts = StatestoreSessionStore(store, user_id="ada")
        await transcripts.append(KEY, [answer("1", "r", (10, 1))])
        await transcripts.append(EXPLORER, [answer("2", "e", (5, 1))])
        await store.sessions.delete_user("ada")
        assert (await transcripts.load(KEY), await transcripts.load(EXPLORER)) == (None, None)
        assert (await store.usage.totals()).input_tokens == 15
        await transcripts.append(KEY, [line("2")])
        assert await transcripts.load(KEY) == [line("2")]


async def test_two_stores_that_write_at_once_lose_nothing(database_url: str) -> None:
    stores = [StatestoreSessionStore(database_url) for _ in range(2)]

    async def write(who: int) -> None:
        for n in range(20):
            await stores[who].append(KEY, [line(f"{who}-{n}"), {"type": "mode", "n": n, "who": who}])

    await asyncio.gather(write(0), write(1))
    found = await stores[0].load(KEY) or []
    for who in range(2):
        own = [one["uuid"] for one in found if one.get("uuid", "").startswith(f"{who}-")]
        assert own == [f"{who}-{n}" for n in range(20)]
        assert [one["n"] for one in found if one.get("who") == who] == list(range(20))
    await stores[1].append(KEY, [{"type": "tag", "tag": "end"}])
    await stores[0].append(KEY, [line("last")])
    [summary] = await stores[0].list_session_summaries("-work-app")
    assert summary["data"]["tag"] == "end"
    for store in stores:
        await store.aclose()


async def test_tasks_that_append_at_once_keep_their_order(transcripts: StatestoreSessionStore) -> None:
    await asyncio.gather(*(transcripts.append(KEY, [line(str(n))]) for n in range(20)))
    assert [one["uuid"] for one in await transcripts.load(KEY) or []] == [str(n) for n in range(20)]


async def test_an_append_whose_reply_was_lost_can_be_sent_again(transcripts: StatestoreSessionStore) -> None:
    sent = [line(None, "no id"), {"type": "mode"}]
    await transcripts.append(KEY, sent)
    again = StatestoreSessionStore(transcripts._store)
    await again.append(KEY, [line("1")])
    again._tails[statestore_id(KEY)].seq = 2  # As if the answer had not come.
    await again.append(KEY, [line("1")])
    assert await transcripts.load(KEY) == [*sent, line("1")]


def _first_use(url: str, who: int) -> None:
    asyncio.run(StatestoreSessionStore(url).append(KEY, [line(str(who))]))


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
        assert {one["uuid"] for one in store.history.messages(statestore_id(KEY))} == {str(n) for n in range(8)}


# What it costs


async def test_a_line_costs_one_statement_and_so_does_reading(
    counted: StatestoreSessionStore, traffic: Traffic, database_url: str
) -> None:
    numbers = iter(range(1000))
    await counted.append(EXPLORER, [line("1")])

    async def cost(act: Any) -> int:
        for _ in range(WARM_UP):
            traffic.clear()
            await act()
        return len(traffic.statements)

    def append(key: Any) -> Any:
        return lambda: counted.append(key, [answer(f"{key}{next(numbers)}"[-20:], "r", (1, 1)), {"type": "mode"}])

    on_postgresql = database_url.startswith("postgresql")
    assert not on_postgresql or await cost(append(KEY)) == 1
    assert not on_postgresql or await cost(append(EXPLORER)) == 1
    assert await cost(lambda: counted.load(KEY)) == 1
    assert await cost(lambda: counted.list_sessions("-work-app")) == 1
    assert await cost(lambda: counted.list_subkeys(KEY)) == 1
