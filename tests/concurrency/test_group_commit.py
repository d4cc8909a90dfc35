"""Group commit: appends that wait at the same moment travel together, and nobody notices but by the speed."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from statestore import AsyncStateStore, InvalidValueError, NewEntry, SessionNotFoundError, StateStoreError

Scene = Callable[[AsyncStateStore], Awaitable[None]]


def play(url: str, scene: Scene) -> None:
    async def main() -> None:
        async with await AsyncStateStore.open(url) as store:
            await scene(store)

    asyncio.run(main())


def test_appends_to_one_session_are_stored_in_the_order_of_the_calls(database_url: str) -> None:
    async def scene(store: AsyncStateStore) -> None:
        await store.sessions.create("s")
        stored = await asyncio.gather(*(store.history.append("s", [{"n": n}, {"n": n, "b": 1}]) for n in range(100)))
        assert [entry.seq for entries in stored for entry in entries] == list(range(1, 201))
        assert [entry.content["n"] for entry in await store.history.read("s")] == [n // 2 for n in range(200)]

    play(database_url, scene)


def test_appends_to_many_sessions_each_get_their_own_entries(database_url: str) -> None:
    async def scene(store: AsyncStateStore) -> None:
        for n in range(20):
            await store.sessions.create(f"s{n}")
        message = {"role": "user", "content": "Hi"}
        stored = await asyncio.gather(
            *(
                store.history.append(
                    f"s{n % 20}", [message, NewEntry(n, role="assistant", cost_usd=0.5, tool_name="t")]
                )
                for n in range(200)
            )
        )
        for n, entries in enumerate(stored):
            assert [entry.session_id for entry in entries] == [f"s{n % 20}"] * 2
            assert [entry.content for entry in entries] == [message, n]
            assert entries == [await store.history.get(f"s{n % 20}", entry.seq) for entry in entries]
        for n in range(20):
            read = await store.history.read(f"s{n}")
            assert [(entry.seq, entry.turn) for entry in read] == [(i + 1, i // 2 + 1) for i in range(20)]

    play(database_url, scene)


@pytest.mark.parametrize("repeat", range(3))
def test_who_fails_in_a_group_fails_alone(database_url: str, repeat: int) -> None:
    async def scene(store: AsyncStateStore) -> None:
        await store.sessions.create("s")
        await store.sessions.create("t")
        calls: list[Awaitable[Any]] = []
        for n in range(60):
            calls.append(store.history.append("s", [{"n": n}]))
            calls.append(store.history.append("missing", [{"n": n}]))
            calls.append(store.history.append("t", [{"n": float("nan")}]))
            calls.append(store.history.append("t", [NewEntry({"n": n}, entry_id="same" if n % 2 else None)]))
            calls.append(store.history.append("made", [{"n": n}], create=True))
            calls.append(store.history.append("s", [{"n": n}], after_seq=10_000))
        results = await asyncio.gather(*calls, return_exceptions=True)
        kinds = [type(result) if isinstance(result, BaseException) else list for result in results]
        assert kinds[1::6] == [SessionNotFoundError] * 60
        assert kinds[2::6] == [InvalidValueError] * 60
        assert all(issubclass(kind, StateStoreError) for kind in kinds[5::6])
        assert kinds[0::6] == kinds[4::6] == [list] * 60
        assert [entry.content["n"] for entry in await store.history.read("s")] == list(range(60))
        assert [entry.seq for entry in await store.history.read("made")] == list(range(1, 61))
        odd = [results[6 * n + 3] for n in range(1, 60, 2)]
        assert isinstance(odd[0], list)
        assert sum(not isinstance(result, list) for result in odd) == 29
        assert await store.history.count("t") == 31

    play(database_url, scene)


def test_a_cancelled_append_of_a_group_is_stored_or_not_and_the_others_are_stored(database_url: str) -> None:
    async def scene(store: AsyncStateStore) -> None:
        await store.sessions.create("s")
        tasks = [asyncio.create_task(store.history.append("s", [{"n": n}])) for n in range(60)]
        for step, task in enumerate(tasks):
            if step % 3 == 0:
                await asyncio.sleep(0)
                task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        kept = [entry.content["n"] for entry in await store.history.read("s")]
        assert kept == sorted(kept)
        assert len(set(kept)) == len(kept)
        assert {n for n, result in enumerate(results) if isinstance(result, list)} <= set(kept)
        assert {n for n in range(60) if n % 3} <= set(kept)

    play(database_url, scene)
