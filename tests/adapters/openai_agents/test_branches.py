"""Branches are forks that belong to their session."""

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from agents.memory import OpenAIResponsesCompactionSession

from statestore import AsyncStateStore, LazyStore, NewSession
from statestore.adapters.openai_agents import AdvancedStatestoreSession, StatestoreSession
from tests.adapters.openai_agents.support import requests, result, turns, user
from tests.support.clock import MovableClock
from tests.support.wire import Traffic

Session = AdvancedStatestoreSession


async def test_a_branch_is_a_fork_that_belongs_to_the_session(store: AsyncStateStore) -> None:
    session = Session("s", store, create=NewSession(user_id="ada", ttl=timedelta(hours=1)))
    await session.add_items(turns("a", "b"))
    await session.create_branch_from_turn(2, "retry")
    place = session.branch_session_id("retry")
    fork = await store.sessions.get(place)
    assert (fork.belongs_to, fork.parent_session_id, fork.forked_at_seq, fork.user_id) == ("s", "s", 2, "ada")
    assert await store.sessions.count() == 1
    assert await StatestoreSession(place, store).get_items() == turns("a")
    await store.history.append(place, [user("from the store")])
    assert await session.get_items() == [*turns("a"), user("from the store")]


async def test_a_fork_made_through_the_store_is_a_branch(store: AsyncStateStore) -> None:
    session = Session("s", store)
    await session.add_items(turns("a", "b"))
    await store.sessions.fork("s", session.branch_session_id("ours"), at_seq=2, as_part=True)
    await session.switch_to_branch("ours")
    await session.add_items(turns("c"))
    listed = [(branch["branch_id"], branch["user_turns"]) for branch in await session.list_branches()]
    assert listed == [("main", 2), ("ours", 2)]
    # Other sessions that belong to it are none.
    await store.sessions.create("helper", belongs_to="s")
    assert len(await session.list_branches()) == 2


async def test_branches_go_with_the_session(store: AsyncStateStore, clock: MovableClock) -> None:
    async def branched(session_id: str) -> Session:
        session = Session(session_id, store, create=NewSession(user_id="ada", ttl=timedelta(hours=1)))
        await session.add_items(turns("a", "b"))
        await session.create_branch_from_turn(2, "retry")
        await session.add_items(turns("c"))
        return session

    deleted, erased, expired = [await branched(name) for name in ("deleted", "erased", "expired")]
    await store.sessions.delete("deleted")
    assert await deleted.get_items() == []
    await store.sessions.update("erased", user_id="bob")
    await store.sessions.delete_user("bob")
    clock.advance(hours=2)
    for session in (erased, expired):
        assert await session.get_items() == []
        assert await session.list_branches() == []
    await store.sweep()
    assert await store.sessions.count(include_parts=True) == 0


async def test_a_cleared_session_is_on_main_for_everybody(store: AsyncStateStore) -> None:
    one, other = Session("s", store), Session("s", store)
    await one.add_items(turns("a", "b"))
    await one.create_branch_from_turn(2, "retry")
    await other.switch_to_branch("retry")
    await other.clear_session()
    assert await store.sessions.count(belongs_to="s") == 0
    await one.add_items(turns("c"))
    assert one.current_branch == "main"
    assert await other.get_items() == turns("c")
    with pytest.raises(ValueError, match="already been used"):
        await one.create_branch_from_turn(1, "retry")


async def test_a_branch_that_others_deleted_is_an_error(store: AsyncStateStore) -> None:
    one, other = Session("s", store), Session("s", store)
    await one.add_items(turns("a", "b"))
    await one.create_branch_from_turn(2, "retry")
    await other.delete_branch("retry")
    for act in (one.get_items, one.pop_item, lambda: one.add_items(turns("c"))):
        with pytest.raises(ValueError, match="'retry' does not exist"):
            await act()
    await one.switch_to_branch("main")
    assert await one.get_items() == turns("a", "b")


async def test_no_two_branches_share_a_name(database_url: str) -> None:
    stores = [LazyStore(database_url) for _ in range(2)]
    sessions = [Session("s", stores[n % 2]) for n in range(6)]
    await sessions[0].add_items(turns("a", "b"))
    made = await asyncio.gather(
        *(session.create_branch_from_turn(2, "same") for session in sessions), return_exceptions=True
    )
    assert sorted(map(str, made))[-1] == "same"
    assert sum(isinstance(each, ValueError) for each in made) == 5
    named = await asyncio.gather(*(Session("s", stores[n % 2]).create_branch_from_turn(2) for n in range(4)))
    assert len(set(named)) == 4
    for store in stores:
        await store.aclose()


@pytest.mark.parametrize("turn", [0, -1, 3, 10**6])
async def test_a_turn_that_is_not_there(store: AsyncStateStore, turn: int) -> None:
    session = Session("s", store)
    with pytest.raises(ValueError, match="does not contain"):
        await session.create_branch_from_turn(turn)
    await session.add_items(turns("a", "b"))
    with pytest.raises(ValueError, match="does not contain"):
        await session.create_branch_from_turn(turn)
    assert session.current_branch == "main"


async def test_ids_with_separators_do_not_meet(store: AsyncStateStore) -> None:
    pairs = [("a", "b/c"), ("a/b", "c"), ("a/b/c", "main2")]
    for session_id, branch in pairs:
        session = Session(session_id, store)
        await session.add_items(turns("x", session_id))
        await session.create_branch_from_turn(2, branch)
        await session.add_items([user(f"{session_id} {branch}")])
    for session_id, branch in pairs:
        items = await Session(session_id, store).get_items(branch_id=branch)
        assert items == [*turns("x"), user(f"{session_id} {branch}")]
    assert len({Session(*pair).branch_session_id(branch) for *pair, branch in pairs}) == 3


async def test_turns_can_be_found(store: AsyncStateStore) -> None:
    session = Session("s", store)
    await session.add_items(
        [*turns("Straße 1"), {"role": "user", "content": [{"type": "input_text", "text": "HELLO"}]}]
    )
    await store.history.append("s", [user("x" * 200)])
    assert [turn["turn"] for turn in await session.find_turns_by_content("hello")] == [2]
    assert [turn["turn"] for turn in await session.find_turns_by_content("straße")] == [1]
    assert await session.find_turns_by_content("%") == []
    last = (await session.get_conversation_turns())[-1]
    assert (len(last["content"]), len(last["full_content"])) == (103, 200)
    assert await session.create_branch_from_content("hello", "again") == "again"
    assert await session.get_items() == turns("Straße 1")


async def test_a_compaction_replaces_what_is_still_there(database_url: str) -> None:
    store = LazyStore(database_url)
    session = StatestoreSession("s", store)
    assert OpenAIResponsesCompactionSession("s", session) is not None
    await session.add_items(turns("a", "b", "c"))
    snapshot: Any = await session._get_compaction_snapshot(4)
    assert (snapshot.items, snapshot.complete) == (turns("b", "c"), False)
    outcomes = await asyncio.gather(*(snapshot.replace_suffix(2, [user(f"sum {n}")]) for n in range(4)))
    assert sorted(outcomes) == [False, False, False, True]
    items = await session.get_items()
    assert items[:4] == turns("a", "b")
    assert len(items) == 5
    snapshot = await session._get_compaction_snapshot(10, prune_prefix=lambda item: item in turns("a"))
    assert snapshot.complete
    await session.add_items([user("meanwhile")])
    assert not await snapshot.replace_suffix(4, [user("lost")])
    snapshot = await session._get_compaction_snapshot(2, prune_prefix=lambda item: item in turns("a"))
    assert await snapshot.replace_suffix(1, [user("kept")])
    assert (await session.get_items()) == [*turns("b"), items[4], user("kept")]
    assert await session._atomic_replace_items([user("all")])
    assert await session.get_items() == [user("all")]
    await store.aclose()


async def test_what_branches_cost(traffic: Traffic, database_url: str) -> None:
    store = LazyStore(traffic.url)
    session = Session("s", store)
    await session.add_items(turns(*map(str, range(20))))
    await session.create_branch_from_turn(10, "b")
    await session.add_items(turns("x"))
    await session.get_items()
    await session.store_run_usage(result(requests((1, 1))))

    async def statements(act: Callable[[], Any]) -> int:
        traffic.clear()
        await act()
        return len(traffic.statements)

    assert await statements(session.get_items) == 1
    assert await statements(lambda: session.get_items(branch_id="main")) == 1
    assert await statements(session.get_conversation_turns) == 1
    assert await statements(lambda: session.get_turn_usage(10)) == 1
    assert await statements(session.list_branches) == 3
    if database_url.startswith("postgresql"):
        assert await statements(lambda: session.add_items([user("x")])) == 1
    await store.aclose()
