"""Group commit: appends that wait at the same moment travel together, and nobody notices but by the speed."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from datetime import timedelta
from functools import partial
from typing import Any

import psycopg
import pytest

from statestore import (
    AsyncStateStore,
    InvalidValueError,
    NewEntry,
    SessionNotFoundError,
    StateStore,
    StateStoreError,
    UnavailableError,
)
from statestore.engine.waits import FairLock
from tests.support.crowd import at_once

Scene = Callable[[AsyncStateStore], Awaitable[None]]


def play(url: str, scene: Scene) -> None:
    async def main() -> None:
        async with await AsyncStateStore.open(url) as store:
            await scene(store)

    asyncio.run(main())


def test_appends_to_one_session_are_stored_in_the_order_of_the_calls(database_url: str) -> None:
    async def scene(store: AsyncStateStore) -> None:
        await store.sessions.create("s")
        stored = await asyncio.gather(
            *(store.history.append("s", [{"role": "a", "n": n}, {"role": "a", "n": n, "b": 1}]) for n in range(100))
        )
        assert [entry.seq for entries in stored for entry in entries] == list(range(1, 201))
        assert [entry.content["n"] for entry in await store.history.read("s")] == [n // 2 for n in range(200)]

    play(database_url, scene)


def test_results_in_a_batch_have_the_name_of_the_call_in_their_own_session(database_url: str) -> None:
    async def scene(store: AsyncStateStore) -> None:
        for n in range(20):
            await store.sessions.create(f"s{n}")
            calls = [{"id": id, "function": {"name": f"{id}_{n}"}} for id in ("one", "two")]
            await store.history.append(f"s{n}", [{"role": "assistant", "tool_calls": calls}])
        stored = await asyncio.gather(
            *(
                store.history.append(f"s{n}", [{"role": "tool", "tool_call_id": id, "content": "?"}])
                for n in range(20)
                for id in ("two", "one", "three")
            )
        )
        named = [entry.tool_name for entries in stored for entry in entries]
        assert named == [name for n in range(20) for name in (f"two_{n}", f"one_{n}", None)]
        for n in range(20):
            own = [entry for [entry] in stored[3 * n : 3 * n + 3]]
            assert await store.history.read(f"s{n}", last=3) == sorted(own, key=lambda entry: entry.seq)

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
            calls.append(store.history.append("s", [{"role": "a", "n": n}]))
            calls.append(store.history.append("missing", [{"role": "a", "n": n}]))
            calls.append(store.history.append("t", [{"role": "a", "n": float("nan")}]))
            calls.append(
                store.history.append("t", [NewEntry({"role": "a", "n": n}, entry_id="same" if n % 2 else None)])
            )
            calls.append(store.history.append("made", [{"role": "a", "n": n}], create=True))
            calls.append(store.history.append("s", [{"role": "a", "n": n}], after_seq=10_000))
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
        tasks = [asyncio.create_task(store.history.append("s", [{"role": "a", "n": n}])) for n in range(60)]
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


@pytest.mark.parametrize("world", ["sync", "async"])
def test_a_session_that_somebody_holds_holds_up_no_other(postgres_url: str, connect: Callable[..., Any]) -> None:
    store = connect(postgres_url)
    for name in ("held", *(f"s{n}" for n in range(10))):
        store.sessions.create(name)
    with ThreadPoolExecutor(30) as pool, psycopg.connect(postgres_url.replace("+psycopg", "")) as other:
        other.execute("SELECT 1 FROM statestore.sessions WHERE session_id = 'held' FOR UPDATE")
        stuck = []
        for n in range(3):
            stuck.append(pool.submit(store.history.append, "held", [{"role": "a", "n": n}]))
            # One after the other, whichever way each of them goes.
            wait(stuck, timeout=0.05)
        free = [pool.submit(store.history.append, f"s{n % 10}", [{"role": "a", "n": n}]) for n in range(20)]
        done, late = wait(free, timeout=20)
        assert not late
        assert not any(future.done() for future in stuck)
        other.rollback()
        assert [future.result(20)[0].seq for future in stuck] == [1, 2, 3]
    assert [entry.content["n"] for entry in store.history.read("held")] == [0, 1, 2]
    assert sum(store.history.count(f"s{n}") for n in range(10)) == len(done) == 20


@pytest.mark.parametrize("world", ["sync", "async"])
@pytest.mark.parametrize("gives_up", [False, True], ids=["waits", "gives up"])
def test_a_held_session_in_a_group_holds_up_none_of_the_group(
    postgres_url: str, connect: Callable[..., Any], gives_up: bool
) -> None:
    store = connect(postgres_url, lock_timeout=timedelta(seconds=1) if gives_up else None)
    # In the middle of the crowd, so that it is not alone.
    names = [*(f"s{n}" for n in range(6)), "held", *(f"s{n}" for n in range(6, 12))]
    for name in names:
        store.sessions.create(name)
    with ThreadPoolExecutor(40) as pool, psycopg.connect(postgres_url.replace("+psycopg", "")) as other:
        for turn in range(5):
            other.execute("SELECT 1 FROM statestore.sessions WHERE session_id = 'held' FOR UPDATE")
            futures = {name: pool.submit(store.history.append, name, [{"role": "a", "n": turn}]) for name in names}
            held = futures.pop("held")
            try:
                assert not wait(futures.values(), timeout=10).not_done
                assert all(future.result()[0].seq == turn + 1 for future in futures.values())
                if gives_up:
                    with pytest.raises(UnavailableError):
                        held.result(20)
                else:
                    assert not held.done()
            finally:
                other.rollback()
            wait([held], timeout=20)
    assert store.history.count("held") == (0 if gives_up else 5)


def test_entries_that_can_be_gone_through_once_are_stored_all_or_none(store: Any) -> None:
    store.sessions.create("s")
    store.sessions.create("t")

    def spoiled() -> Iterator[Any]:
        yield {"role": "a", "n": 1}
        yield {"role": "a", "n": float("nan")}
        yield {"role": "a", "n": 3}

    def raising() -> Iterator[Any]:
        yield {"role": "a", "n": 1}
        raise LookupError

    class Odd(dict[str, Any]):
        def __iter__(self) -> Iterator[str]:
            raise LookupError

        keys = values = items = __iter__  # type: ignore[assignment]

    def outcome(session_id: str, entries: Any) -> Any:
        try:
            return len(store.history.append(session_id, entries))
        except (InvalidValueError, LookupError) as error:
            return type(error)

    said = {"role": "a", "n": 0}
    for _ in range(5):
        found = at_once(
            *(
                partial(outcome, session_id, entries)
                for session_id, entries in [
                    ("t", [said]), ("s", spoiled()), ("t", [said]), ("s", raising()),
                    ("t", iter([said, said])), ("t", [said]), ("t", (one for one in [said])),
                ]
            )
        )  # fmt: skip
        assert found == [1, InvalidValueError, 1, LookupError, 2, 1, 1]
    assert store.history.count("s") == 0
    assert store.history.count("t") == 30


@pytest.mark.timeout(60)
def test_threads_share_one_connection_to_a_database_in_memory() -> None:
    with StateStore.open("sqlite://") as store:
        # Nobody is overtaken: were connection and turn taken in two orders, two threads would wait for each other.
        database: Any = store._database
        database._fair_lock = FairLock(patience=3600)
        for n in range(8):
            store.sessions.create(f"s{n}")

        def work(session_id: str) -> None:
            for n in range(1, 26):
                store.history.append(session_id, [{"role": "a", "n": n}])
                assert [entry.seq for entry in store.history.read(session_id, last=1)] == [n]

        at_once(*(partial(work, f"s{n}") for n in range(8)))
