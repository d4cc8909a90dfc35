"""Reads in groups: those that wait at the same moment travel together, and nobody notices but by the speed."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from functools import partial
from typing import Any

import psycopg
import pytest

from statestore import AsyncStateStore, Entry, InvalidValueError, NewEntry, SessionNotFoundError, Usage
from tests.support.clock import MovableClock
from tests.support.crowd import at_once
from tests.support.wire import Traffic

HOUR = timedelta(hours=1)


def numbers(n: int) -> list[NewEntry]:
    return [
        NewEntry({"role": "user", "n": i}, metadata={"i": i}, usage=Usage(input_tokens=i), duration=HOUR, cost_usd=i)
        for i in range(1, n + 1)
    ]


WINDOWS: list[dict[str, int]] = [
    {"last": 5},
    {"last": 0},
    {"last": 100},
    {"limit": 3},
    {"limit": 100, "after": 7},
    {"last": 2, "before": 6},
    {"limit": 2, "after": 3, "before": 9},
    {"last": 4, "after": 28},
    {"last": 4, "after": 2**62},
    {"limit": 4, "before": 1},
]


def test_each_reader_gets_what_it_asked_for(store: Any) -> None:
    expected: list[list[Entry]] = []
    reads: list[Callable[[], list[Entry]]] = []
    for number in range(4):
        session_id = f"s {number} 🙂'"
        store.sessions.create(session_id)
        store.history.append(session_id, numbers(10 * number))
        for window in WINDOWS:
            expected.append(store.history.read(session_id, **window))
            reads.append(partial(store.history.read, session_id, **window))
    for _ in range(5):
        assert at_once(*reads) == expected


def test_who_is_no_simple_case_is_read_all_the_same(store: Any, clock: MovableClock) -> None:
    store.sessions.create("s")
    store.history.append("s", numbers(30))
    store.sessions.create("empty")
    store.sessions.create("fork", ttl=HOUR)
    store.sessions.fork("s", "a fork", at_seq=20)
    end = store.sessions.create("ends", ttl=HOUR).expires_at
    store.history.append("ends", numbers(3))
    store.sessions.create("ended", ttl=timedelta(minutes=1))
    clock.advance(minutes=30)

    def result(session_id: Any, **window: Any) -> Any:
        try:
            return [entry.seq for entry in store.history.read(session_id, **window)]
        except (SessionNotFoundError, InvalidValueError) as error:
            return type(error), str(error).partition(" ")[0].rstrip(":")

    asked = [
        ("s", {"last": 2}, [29, 30]),
        ("empty", {"last": 2}, []),
        ("a fork", {"last": 2}, [19, 20]),
        ("ends", {"last": 2}, [2, 3]),
        ("ended", {"last": 2}, (SessionNotFoundError, "session")),
        ("missing", {"last": 2}, (SessionNotFoundError, "session")),
        ("s", {"last": -1}, (InvalidValueError, "last")),
        ("s", {"last": 1, "limit": 1}, (InvalidValueError, "limit")),
        ("", {"last": 1}, (InvalidValueError, "session_id")),
        (7, {"last": 1}, (InvalidValueError, "session_id")),
        ("s", {"limit": 1, "after": "x"}, (InvalidValueError, "after")),
        ("s", {"last": True}, (InvalidValueError, "last")),
    ]
    for _ in range(4):
        found = at_once(*(partial(result, session_id, **window) for session_id, window, _ in asked))
        assert found == [expected for *_, expected in asked]
    # To list a session is no use of it, and extends nothing.
    [listed] = [session for session in store.sessions.page().sessions if session.session_id == "ends"]
    assert listed.expires_at == end + timedelta(minutes=30)


def test_a_reader_sees_what_was_written_before_it_began(store: Any) -> None:
    for n in range(16):
        store.sessions.create(f"s{n}")

    def write_and_read(session_id: str) -> None:
        for n in range(1, 20):
            store.history.append(session_id, [{"role": "a", "n": n}])
            assert [entry.seq for entry in store.history.read(session_id, last=1)] == [n]

    at_once(*(partial(write_and_read, f"s{n}") for n in range(16)))


@pytest.mark.parametrize("world", ["async"])
def test_many_reads_take_few_statements(postgres_url: str, proxy: Any, connect: Callable[..., Any]) -> None:
    traffic: Traffic = proxy.traffic
    store = connect(traffic.url)
    store.sessions.create("s")
    store.history.append("s", numbers(30))

    async def all_at_once() -> None:
        target: AsyncStateStore = store._target
        await asyncio.gather(*(target.history.read("s", last=20) for _ in range(50)))

    for _ in range(8):
        traffic.clear()
        store._portal.run(all_at_once())
    # Once it is known that they come in crowds, none goes ahead of the others.
    assert len(traffic.statements) == traffic.round_trips == 1


def play(url: str, scene: Callable[[AsyncStateStore], Awaitable[None]]) -> None:
    async def main() -> None:
        async with await AsyncStateStore.open(url) as store:
            await scene(store)

    asyncio.run(main())


def test_a_cancelled_read_of_a_group_leaves_at_once_and_the_others_are_served(postgres_url: str) -> None:
    async def scene(store: AsyncStateStore) -> None:
        await store.sessions.create("s")
        await store.history.append("s", numbers(3))
        with psycopg.connect(postgres_url.replace("+psycopg", "")) as other:
            other.execute("LOCK TABLE statestore.history_entries IN ACCESS EXCLUSIVE MODE")
            tasks = [asyncio.create_task(store.history.read("s", last=2)) for _ in range(20)]
            await asyncio.sleep(0.05)
            tasks[0].cancel()  # Alone, and interrupted; now the others are on their way.
            await asyncio.wait(tasks[:1], timeout=10)
            await asyncio.sleep(0.05)
            for task in tasks[1:10]:
                task.cancel()
            done, _ = await asyncio.wait(tasks, timeout=0.5)
            assert done == set(tasks[:10])
        assert all(task.cancelled() for task in tasks[:10])
        for task in tasks[10:]:
            assert [entry.seq for entry in await task] == [2, 3]

    play(postgres_url, scene)
