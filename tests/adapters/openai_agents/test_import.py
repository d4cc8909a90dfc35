"""What the SDK's own sessions wrote, its readers find the same through ours."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from agents import SQLiteSession
from agents.extensions.memory import AdvancedSQLiteSession, SQLAlchemySession
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from statestore import StateStore
from statestore.adapters.openai_agents import AdvancedStatestoreSession, StatestoreSession
from statestore.importers import openai_agents
from tests.adapters.openai_agents.support import requests, result, turns, user
from tests.postgres import PostgresServer


@pytest_asyncio.fixture(params=["sqlite", "postgresql"])
async def engine(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[AsyncEngine]:
    if request.param == "sqlite":
        engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path / 'theirs.db'}")
        yield engine
        await engine.dispose()
        return
    server: PostgresServer = request.getfixturevalue("postgres")
    with server.database() as name:
        engine = create_async_engine(server.url(name).replace("postgresql://", "postgresql+asyncpg://"))
        yield engine
        await engine.dispose()


async def test_sessions_of_sqlalchemy(engine: AsyncEngine, database_url: str) -> None:
    theirs = [SQLAlchemySession(name, engine=engine, create_tables=True) for name in ("a", "b/c", "\u00e9 %")]
    for number, session in enumerate(theirs):
        await session.add_items(turns(*(f"{n} \u00fc" for n in range(number * 10))))
        await session.add_items([{"type": "function_call", "call_id": "1", "name": "x", "arguments": "{}"}])
        await session.add_items([user("last")])
    url = engine.url.render_as_string(hide_password=False)
    with StateStore.open(database_url) as store:
        report = openai_agents(store, url)
        assert (report.sessions, report.added, report.complete) == (3, 66, True)
        assert openai_agents(store, url).added == 0
        await theirs[0].add_items([user("more")])
        assert openai_agents(store, url).added == 1
    for session in theirs:
        ours = StatestoreSession(session.session_id, database_url)
        assert await ours.get_items() == await session.get_items()
        assert await ours.get_items(3) == await session.get_items(3)
        await ours.aclose()


async def test_items_that_a_compaction_left_keep_their_place(engine: AsyncEngine, database_url: str) -> None:
    session = SQLAlchemySession("a", engine=engine, create_tables=True)
    await session.add_items(turns("one", "two"))
    snapshot: Any = await session._get_compaction_snapshot(2)
    assert await snapshot.replace_suffix(0, [user("summary")])
    await session.add_items([user("later")])
    with StateStore.open(database_url) as store:
        assert openai_agents(store, engine.url.render_as_string(hide_password=False)).complete
        assert store.history.messages("a") == await session.get_items()


async def test_sessions_of_sqlite(tmp_path: Path, database_url: str) -> None:
    path = tmp_path / "theirs.db"
    session = SQLiteSession("a", path)
    await session.add_items(turns(*map(str, range(700))))
    await session.pop_item()
    await session.add_items([user("again")])
    before = path.read_bytes()
    with StateStore.open(database_url) as store:
        report = openai_agents(store, path)
        assert (report.sessions, report.entries, report.added, report.complete) == (1, 1400, 1400, True)
        assert store.history.messages("a") == await session.get_items()
        assert path.read_bytes() == before
        await session.clear_session()
        await session.add_items([user("anew")])
        assert openai_agents(store, path).differing == ("a",)
    session.close()


async def test_branches_and_what_turns_used(tmp_path: Path, database_url: str) -> None:
    path = tmp_path / "theirs.db"
    theirs = AdvancedSQLiteSession(session_id="a", db_path=path, create_tables=True)
    await theirs.add_items(turns("one", "two", "three"))
    await theirs.store_run_usage(result(requests((100, 20), (50, 5))))
    await theirs.create_branch_from_turn(3, "retry")
    await theirs.add_items(turns("other three"))
    await theirs.store_run_usage(result(requests((7, 1))))
    await theirs.create_branch_from_turn(3, "retry of retry")
    await theirs.add_items(turns("third three", "four"))
    await theirs.switch_to_branch("main")
    await theirs.create_branch_from_turn(1, "from the start")
    await theirs.add_items(turns("another one"))
    await theirs.create_branch_from_turn(1, "gone")
    await theirs.add_items(turns("x"))
    await theirs.delete_branch("gone", force=True)
    other = AdvancedSQLiteSession(session_id="b", db_path=path, create_tables=True)
    await other.add_items(turns("b"))

    with StateStore.open(database_url) as store:
        for added in (16, 0):
            report = openai_agents(store, path)
            assert (report.sessions, report.added, report.complete) == (5, added, True)
            totals = store.usage.totals()
            assert (totals.model_calls, totals.input_tokens, totals.output_tokens) == (2, 157, 26)
        # What branches share is stored once.
        rows = {row.session_id: row.entries for row in store.usage.by_session()}
        assert sum(rows.values()) == 6 + 2 + 4 + 2 + 2

    ours = AdvancedStatestoreSession("a", database_url)
    for branch in ("main", "retry", "retry of retry", "from the start"):
        assert await ours.get_items(branch_id=branch) == await theirs.get_items(branch_id=branch)
        assert await ours.get_turn_usage(branch_id=branch) == await theirs.get_turn_usage(branch_id=branch)
        assert await ours.get_session_usage(branch) == await theirs.get_session_usage(branch)
        mine, its = await ours.get_conversation_turns(branch), await theirs.get_conversation_turns(branch)
        assert [turn["full_content"] for turn in mine] == [turn["full_content"] for turn in its]
        assert await ours.get_conversation_by_turns(branch) == await theirs.get_conversation_by_turns(branch)
    assert await ours.get_session_usage() == await theirs.get_session_usage()
    found = {branch["branch_id"]: branch["message_count"] for branch in await ours.list_branches()}
    assert found == {branch["branch_id"]: branch["message_count"] for branch in await theirs.list_branches()}
    with pytest.raises(ValueError, match="already been used"):
        await ours.create_branch_from_turn(1, "gone")
    await ours.store_run_usage(result(requests((100, 20), (50, 5))))
    await ours.aclose()
    with StateStore.open(database_url) as store:
        assert store.usage.totals().input_tokens == 157
    theirs.close()
    other.close()


async def test_an_id_that_no_session_can_have_keeps_no_other_session_out(tmp_path: Path, database_url: str) -> None:
    path = tmp_path / "theirs.db"
    for session_id, branch in (("a", "retry"), ("b" * 600, "retry"), ("c", "r" * 600), ("d", "retry")):
        theirs = AdvancedSQLiteSession(session_id=session_id, db_path=path, create_tables=True)
        await theirs.add_items(turns("one", "two"))
        await theirs.store_run_usage(result(requests((100, 20))))
        for name in (branch, "gone"):
            await theirs.create_branch_from_turn(2, name)
            await theirs.add_items(turns(name))
            await theirs.store_run_usage(result(requests((7, 1))))
            await theirs.switch_to_branch("main")
        await theirs.delete_branch("gone")
        theirs.close()
    problems: list[Any] = []
    with StateStore.open(database_url) as store:
        for added in (5 * 4 - 2 * 2, 0):
            report = openai_agents(store, path, on_problem=problems.append)
            assert (report.sessions, report.added, report.failed) == (5, added, 2)
        assert len(problems) == 4
        assert {session.session_id for session in store.sessions.page().sessions} == {"a", "c", "d"}
        assert store.usage.totals().input_tokens == 3 * 100 + 2 * 7
