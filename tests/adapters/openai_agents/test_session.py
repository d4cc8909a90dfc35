"""The SDK's sessions in a store: what the SDK's own suite does not ask."""

import asyncio
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from agents.memory import Session, SessionSettings

from statestore import AsyncStateStore, InvalidValueError, LazyStore, NewSession, StateStore
from statestore.adapters.openai_agents import AdvancedStatestoreSession, StatestoreSession
from tests.adapters.openai_agents.support import assistant, requests, result, turns, user
from tests.support.clock import MovableClock
from tests.support.wire import Traffic

ROOT = Path(__file__).parents[3]
CALL = {"type": "function_call", "call_id": "1", "name": "lookup", "arguments": "{}"}
OUTPUT = {"type": "function_call_output", "call_id": "1", "output": "\ud83d found"}


@pytest.mark.parametrize("kind", [StatestoreSession, AdvancedStatestoreSession])
async def test_items_come_back_as_they_are(store: AsyncStateStore, kind: type[StatestoreSession]) -> None:
    session = kind("s", store)
    assert isinstance(session, Session)
    items: list[Any] = [user("a"), CALL, OUTPUT, {"role": "assistant", "z": 1, "content": [{"b": 1.0, "a": None}]}]
    await session.add_items(items)
    await session.add_items([])
    found = await session.get_items()
    assert found == items
    assert [list(item) for item in found] == [list(item) for item in items]
    assert await session.get_items(2) == items[-2:]
    assert await session.get_items(0) == []


async def test_the_settings_say_how_many_items_there_are(store: AsyncStateStore) -> None:
    session = StatestoreSession("s", store, session_settings=SessionSettings(limit=1))
    await session.add_items(turns("a", "b"))
    assert await session.get_items() == [assistant("b!")]
    assert len(await session.get_items(3)) == 3
    assert StatestoreSession("s", store, session_settings={"limit": 2}).session_settings == SessionSettings(limit=2)


async def test_what_is_refused_is_not_stored(store: AsyncStateStore) -> None:
    session = StatestoreSession("s", store)
    for name in ("", None, 7):
        with pytest.raises(InvalidValueError, match="session_id"):
            StatestoreSession(name, store)  # type: ignore[arg-type]
    for items in ([None], ["Hi"], [user("fine"), 7], "Hi", user("not in a list")):
        with pytest.raises(InvalidValueError, match="items"):
            await session.add_items(items)  # type: ignore[arg-type]
    with pytest.raises(InvalidValueError):
        await session.add_items([user("fine"), {"role": "user", "content": float("nan")}])  # type: ignore[typeddict-item, list-item]
    with pytest.raises(InvalidValueError, match="last"):
        await session.get_items(-1)
    assert not await store.sessions.exists("s")


async def test_nothing_is_connected_before_the_first_use(tmp_path: Path) -> None:
    path = tmp_path / "new.db"
    session = StatestoreSession("s", f"sqlite:///{path}")
    assert not path.exists()
    await session.add_items([user("a")])
    await session.aclose()
    assert await session.get_items() == [user("a")]
    await session.aclose()


async def test_only_what_was_opened_here_is_closed(store: AsyncStateStore, database_url: str) -> None:
    lazy = LazyStore(database_url)
    for given in (store, lazy):
        session = StatestoreSession("s", given)
        await session.add_items([user("a")])
        await session.aclose()
        assert await store.history.count("s") >= 1
    kept = await lazy.here()
    await kept.history.count("s")
    await lazy.aclose()


def test_one_session_serves_several_event_loops(database_url: str) -> None:
    session = StatestoreSession("s", database_url)
    for text in "abc":
        asyncio.run(session.add_items([user(text)]))
    assert asyncio.run(session.get_items()) == [user("a"), user("b"), user("c")]
    asyncio.run(session.aclose())


async def test_the_first_items_create_the_session_as_it_is_to_be(store: AsyncStateStore, clock: MovableClock) -> None:
    create = NewSession(user_id="ada", agent_name="support", ttl=timedelta(hours=1))
    session = StatestoreSession("s", store, create=create)
    await session.add_items([user("a")])
    made = await store.sessions.get("s")
    assert (made.user_id, made.agent_name, made.ttl) == ("ada", "support", timedelta(hours=1))
    clock.advance(hours=2)
    assert await session.get_items() == []
    assert await session.pop_item() is None
    await session.clear_session()
    await store.sweep()
    await session.add_items([user("b")])
    await store.sessions.delete_user("ada")
    assert await session.get_items() == []


async def test_a_cleared_session_keeps_its_user(store: AsyncStateStore) -> None:
    session = StatestoreSession("s", store, create=NewSession(user_id="ada"))
    await session.add_items([user("a")])
    await session.clear_session()
    assert await session.get_items() == []
    assert (await store.sessions.get("s")).user_id == "ada"


async def test_a_fork_of_the_store_is_a_session_of_the_sdk(store: AsyncStateStore) -> None:
    await StatestoreSession("s", store).add_items(turns("a", "b"))
    await store.sessions.fork("s", "again", at_seq=2)
    again = StatestoreSession("again", store)
    assert await again.get_items() == turns("a")
    await again.add_items([user("c")])
    assert await StatestoreSession("s", store).get_items() == turns("a", "b")


async def test_two_writers_lose_nothing(database_url: str) -> None:
    first, second = LazyStore(database_url), LazyStore(database_url)
    batches = [[user(f"{writer} {n}"), assistant(f"{writer} {n}")] for n in range(20) for writer in (0, 1)]
    sessions = [StatestoreSession("s", first), StatestoreSession("s", second)]
    await asyncio.gather(*(sessions[n % 2].add_items(batch) for n, batch in enumerate(batches)))
    found = await sessions[0].get_items()
    assert len(found) == 80
    for batch in batches:
        place = found.index(batch[0])
        assert found[place : place + 2] == batch
    popped = await asyncio.gather(*(sessions[n % 2].pop_item() for n in range(100)))
    assert sorted(str(item) for item in popped if item) == sorted(map(str, found))
    await first.aclose()
    await second.aclose()


async def test_order_does_not_depend_on_the_clock(store: AsyncStateStore, clock: MovableClock) -> None:
    session = StatestoreSession("s", store)
    for n in range(30):
        await session.add_items([user(str(n))])
        clock.advance(seconds=-(n % 2))
    assert await session.get_items(10) == [user(str(n)) for n in range(20, 30)]
    assert await session.pop_item() == user("29")


FIRST_USE = """
import asyncio, sys
from statestore.adapters.openai_agents import StatestoreSession

async def main():
    session = StatestoreSession("s", sys.argv[1])
    await session.add_items([{"role": "user", "content": sys.argv[2]}])
    await session.aclose()

asyncio.run(main())
"""


@pytest.mark.timeout(400)
def test_eight_processes_use_a_new_database_at_once(tmp_path: Path, postgres_url: str) -> None:
    for url in (f"sqlite:///{tmp_path / 'new.db'}", postgres_url):
        workers = [
            subprocess.Popen([sys.executable, "-c", FIRST_USE, url, str(n)], cwd=ROOT, stderr=subprocess.PIPE)
            for n in range(8)
        ]
        for worker in workers:
            _, errors = worker.communicate(timeout=300)
            assert worker.returncode == 0, errors.decode()
        with StateStore.open(url) as store:
            assert sorted(entry["content"] for entry in store.history.messages("s")) == [str(n) for n in range(8)]


async def test_what_it_costs(traffic: Traffic, database_url: str) -> None:
    store = LazyStore(traffic.url)
    session = StatestoreSession("s", store)
    await session.add_items(turns(*"abcdefgh"))
    await session.get_items()

    async def statements(act: Callable[[], Any]) -> int:
        traffic.clear()
        await act()
        return len(traffic.statements)

    on_postgresql = database_url.startswith("postgresql")
    assert await statements(session.get_items) == 1
    assert await statements(lambda: session.get_items(3)) == 1
    assert await statements(lambda: session.add_items([user("x")])) <= (1 if on_postgresql else 6)
    assert await statements(session.pop_item) <= (2 if on_postgresql else 12)
    await statements(lambda: session.store_run_usage(result(requests((10, 2)))))
    await store.aclose()
