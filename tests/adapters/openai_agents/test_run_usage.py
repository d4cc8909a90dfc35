"""What runs used reaches the reports, once."""

from typing import Any

import pytest
from agents import Usage

from statestore import AsyncStateStore, NewSession
from statestore.adapters.openai_agents import AdvancedStatestoreSession
from tests.adapters.openai_agents.support import requests, result, turns, user

Session = AdvancedStatestoreSession


@pytest.fixture
def session(store: AsyncStateStore) -> Session:
    return Session("s", store, create=NewSession(user_id="ada"))


async def totals(store: AsyncStateStore) -> tuple[int, int, int]:
    found = await store.usage.totals()
    return found.model_calls, found.input_tokens, found.output_tokens


async def test_a_run_is_recorded_by_request_and_once(store: AsyncStateStore, session: Session) -> None:
    await session.add_items(turns("a"))
    for _ in range(3):
        await session.store_run_usage(result(requests((100, 20), (150, 10))))
        assert await totals(store) == (2, 250, 30)
    [row] = await store.usage.by_session(session_id="s")
    assert (row.cache_read_input_tokens, row.cache_write_input_tokens, row.reasoning_output_tokens) == (125, 25, 15)
    assert [row.user_id for row in await store.usage.by_user()] == ["ada"]
    assert {row.model for row in await store.usage.by_model() if row.model_calls} == {"small-1"}


async def test_a_run_that_was_resumed_adds_what_is_new(store: AsyncStateStore, session: Session) -> None:
    await session.add_items(turns("a"))
    await session.store_run_usage(result(requests((100, 20))))
    await session.store_run_usage(result(requests((100, 20), (150, 10))))
    assert await totals(store) == (2, 250, 30)
    used = await session.get_turn_usage(1)
    assert isinstance(used, dict)
    assert (used["requests"], used["input_tokens"]) == (2, 250)


async def test_another_run_in_the_same_turn_counts_as_well(store: AsyncStateStore, session: Session) -> None:
    await session.add_items(turns("a"))
    await session.store_run_usage(result(requests((100, 20))))
    await session.store_run_usage(result(requests((30, 5))))
    await session.store_run_usage(result(requests((30, 5))))
    assert await totals(store) == (2, 130, 25)
    used = await session.get_turn_usage(1)
    assert isinstance(used, dict)
    assert used["input_tokens"] == 30


async def test_runs_at_the_same_time_count_once_each_by_the_ids_of_their_responses(
    store: AsyncStateStore, session: Session
) -> None:
    await session.add_items(turns("a", "b"))
    runs = [result(requests((100, 20)), responses={name: requests((100, 20))}) for name in ("resp_1", "resp_2")]
    for run in [*runs, *runs]:
        await session.store_run_usage(run)
    assert await totals(store) == (2, 200, 40)
    resumed = {name: requests((100, 20)) for name in ("resp_1", "resp_3")}
    await session.store_run_usage(result(requests((100, 20), (100, 20)), responses=resumed))
    assert await totals(store) == (3, 300, 60)


async def test_a_model_that_gives_one_id_to_all_its_responses_is_counted_by_what_they_used(
    store: AsyncStateStore, session: Session
) -> None:
    await session.add_items(turns("a"))
    for tokens in ((100, 20), (7, 1), (7, 1)):
        await session.store_run_usage(result(requests(tokens), responses={"fake": requests(tokens)}))
    assert await totals(store) == (2, 107, 21)


async def test_agents_that_were_tools_count_although_their_responses_are_not_in_the_result(
    store: AsyncStateStore, session: Session
) -> None:
    await session.add_items(turns("a"))
    run = result(requests((100, 20), (7, 1)), responses={"resp_1": requests((100, 20))})
    for _ in range(2):
        await session.store_run_usage(run)
    assert await totals(store) == (2, 107, 21)


async def test_what_was_used_outlives_the_items(store: AsyncStateStore, session: Session) -> None:
    await session.add_items(turns("a", "b"))
    await session.store_run_usage(result(requests((100, 20))))
    assert await session.get_session_usage() == {
        "requests": 1, "input_tokens": 100, "output_tokens": 20, "total_tokens": 120, "total_turns": 1,
    }  # fmt: skip
    await session.pop_item()
    await session.pop_item()
    assert await session.get_session_usage() is None
    await session.add_items(turns("c"))
    assert await session.get_turn_usage(2) == {}
    await session.store_run_usage(result(requests((100, 20))))
    await session.clear_session()
    await store.sessions.delete("s")
    assert await totals(store) == (2, 200, 40)


async def test_without_items_there_is_no_turn(store: AsyncStateStore, session: Session) -> None:
    await session.store_run_usage(result(requests((100, 20))))
    await session.add_items([user("a")])
    await session.pop_item()
    await session.store_run_usage(result(requests((100, 20))))
    assert await totals(store) == (0, 0, 0)


async def test_items_before_the_first_message_are_turn_0(store: AsyncStateStore, session: Session) -> None:
    await session.add_items([{"role": "system", "content": "Be brief."}])  # type: ignore[list-item]
    await session.store_run_usage(result(requests((10, 2))))
    found = await session.get_turn_usage()
    assert isinstance(found, list)
    assert [(turn["user_turn_number"], turn["input_tokens"]) for turn in found] == [(0, 10)]


async def test_a_branch_uses_for_itself(store: AsyncStateStore, session: Session) -> None:
    await session.add_items(turns("a", "b"))
    await session.store_run_usage(result(requests((100, 20))))
    await session.create_branch_from_turn(2, "retry")
    await session.store_run_usage(result(requests((7, 1))))
    await session.add_items(turns("c"))
    await session.store_run_usage(result(requests((50, 10))))
    assert (await session.get_session_usage("retry") or {})["input_tokens"] == 57
    assert (await session.get_session_usage("main") or {})["input_tokens"] == 100
    assert (await session.get_session_usage() or {})["input_tokens"] == 157
    assert await totals(store) == (3, 157, 31)
    of_all = await store.usage.totals(session_id="s", include_parts=True)
    assert of_all.input_tokens == 157
    await session.delete_branch("retry", force=True)
    assert await totals(store) == (3, 157, 31)


@pytest.mark.parametrize("model", [None, "", object()])
async def test_a_model_that_has_no_name(store: AsyncStateStore, session: Session, model: Any) -> None:
    await session.add_items(turns("a"))
    await session.store_run_usage(result(Usage(requests=1, input_tokens=5, output_tokens=1, total_tokens=6), model))
    assert await totals(store) == (1, 5, 1)
