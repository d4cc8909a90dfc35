"""How calls travel in groups: who goes when, past whom, and what becomes of those that leave. Without a store."""

import asyncio
import math
import threading
import time
from collections.abc import Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import nullcontext
from functools import partial
from typing import Any

import pytest

from statestore import StateStoreError, UnavailableError
from statestore.engine import schedule
from statestore.engine.async_database import locked
from statestore.engine.batching import ThreadBatches
from statestore.engine.calls import Mode
from statestore.engine.workers import TaskBatches, Workers


class Named(str):
    """A call, as far as a group is concerned."""

    attempt = 1
    ends_at = math.inf
    mode = Mode.WRITE
    unsettled = given_up = False


class Held:
    """Calls that come to their end when they are let go."""

    def __init__(self) -> None:
        self.free = threading.Event()
        self.started: list[list[Hashable]] = []

    def alone(self, call: Any) -> Any:
        return self.together([call])[0]

    def together(self, calls: Sequence[Any], until: float = math.inf) -> list[Any]:
        self.started.append(list(calls))
        if "stuck" in calls:
            assert self.free.wait(20)
        return list(calls)


def test_what_takes_long_is_overtaken_but_not_by_its_own_key() -> None:
    held = Held()
    groups = ThreadBatches(held.alone, held.together, patience=0.01)
    with ThreadPoolExecutor(20) as pool:
        stuck = []
        for n in range(6):
            stuck.append(pool.submit(groups.run, Named("stuck"), f"stuck {n}"))
            assert wait(stuck, timeout=0.1).done == set()
        assert held.started == [["stuck"]] * 6
        same_key = pool.submit(groups.run, Named("late"), "stuck 0")
        assert pool.submit(groups.run, Named("free"), "free").result(20) == "free"
        assert wait([same_key], timeout=0.1).done == set()
        held.free.set()
        assert [future.result(20) for future in stuck] == ["stuck"] * 6
        assert same_key.result(20) == "late"
    assert groups.run(Named("again"), "stuck 0") == "again"
    assert groups._schedule._busy == {}


def test_what_is_stuck_behind_a_stuck_group_goes_past_it_too() -> None:
    async def main() -> None:
        held = Held()
        workers = Workers(10, "test")

        async def alone(call: Any) -> Any:
            return await workers.run(held.alone, call)

        groups = TaskBatches(alone, held.together, workers, lambda until: nullcontext(), to_the_end=True, patience=0.01)
        stuck = [asyncio.create_task(groups.run(Named("stuck"), "a"))]
        await asyncio.sleep(0.005)
        stuck += [asyncio.create_task(groups.run(Named("stuck" if n == 5 else n), f"b {n}")) for n in range(64)]
        free = [asyncio.create_task(groups.run(Named(n), f"c {n}")) for n in range(30)]
        done, _ = await asyncio.wait(free, timeout=10)
        assert len(done) == 30
        assert not any(task.done() for task in stuck)
        held.free.set()
        await asyncio.wait_for(asyncio.gather(*stuck), 10)
        assert groups._schedule._busy == {}
        workers.close()

    asyncio.run(main())


def behind(writer: asyncio.Lock, going: asyncio.Event, workers: Workers) -> TaskBatches:
    """Groups that take turns at *writer*; a call alone ends when it is *going*."""

    async def alone(call: Any) -> Any:
        await going.wait()
        return call

    turn = partial(locked, writer)
    return TaskBatches(alone, Held().together, workers, turn, to_the_end=True, patience=None)


def test_after_a_group_of_one_a_call_goes_alone_and_after_a_crowd_in_a_group() -> None:
    async def main() -> None:
        going, workers, went = asyncio.Event(), Workers(2, "test"), list[list[str]]()

        async def alone(call: Any) -> Any:
            went.append(["alone", call])
            await going.wait()
            return call

        def together(calls: Sequence[Any], until: float) -> list[Any]:
            went.append(["together", *calls])
            return list(calls)

        groups = TaskBatches(alone, together, workers, lambda until: nullcontext(), to_the_end=True, patience=None)

        async def come(*names: str) -> None:
            """The first is alone under way when the others come."""
            going.clear()
            tasks = []
            for name in names:
                tasks.append(asyncio.create_task(groups.run(Named(name), name)))
                await asyncio.sleep(0)
            going.set()
            await asyncio.wait_for(asyncio.gather(*tasks), 10)

        await come("a", "b")
        await come("c", "d", "e")
        await come("f")
        await come("g")
        assert went == [
            *(["alone", "a"], ["together", "b"], ["alone", "c"], ["together", "d", "e"]),
            *(["together", "f"], ["alone", "g"]),
        ]
        workers.close()

    asyncio.run(main())


def test_a_group_whose_callers_have_left_fails_nobody_who_comes_later() -> None:
    async def main() -> None:
        writer, going, workers = asyncio.Lock(), asyncio.Event(), Workers(2, "test")
        groups = behind(writer, going, workers)
        await writer.acquire()
        first = asyncio.create_task(groups.run(Named("first"), "a"))
        leaves = asyncio.create_task(groups.run(Named("leaves"), "b"))
        await asyncio.sleep(0)
        # The group is sent for, and before its first step nobody is left of it.
        going.set()
        leaves.cancel()
        await asyncio.sleep(0)
        later = asyncio.create_task(groups.run(Named("later"), "c"))
        await asyncio.sleep(0.01)
        writer.release()
        assert await asyncio.wait_for(later, 10) == "later"
        assert await first == "first"
        workers.close()

    asyncio.run(main())


def test_a_group_that_waits_for_its_turn_fails_those_alone_whose_time_is_over() -> None:
    async def main() -> None:
        writer, going, workers = asyncio.Lock(), asyncio.Event(), Workers(2, "test")
        groups = behind(writer, going, workers)
        await writer.acquire()
        first = asyncio.create_task(groups.run(Named("first"), "a"))
        await asyncio.sleep(0)
        hurried = Named("hurried")
        hurried.ends_at = time.monotonic() + 0.1
        out_of_time = asyncio.create_task(groups.run(hurried, "b"))
        await asyncio.sleep(0)
        going.set()
        await asyncio.sleep(0.01)
        later = asyncio.create_task(groups.run(Named("later"), "c"))
        with pytest.raises(UnavailableError):
            await out_of_time
        await asyncio.sleep(0.05)
        assert not later.done()
        writer.release()
        assert await asyncio.wait_for(later, 10) == "later"
        assert await first == "first"
        workers.close()

    asyncio.run(main())


def test_what_a_group_leaves_goes_by_itself_and_in_order_within_its_key() -> None:
    ran: list[Any] = []
    begun, go_on = threading.Event(), threading.Event()

    def alone(call: Any) -> Any:
        if call == "first":
            begun.set()
            assert go_on.wait(20)
        elif call == "fails":
            raise StateStoreError("no")
        elif call == "slow":
            time.sleep(0.2)
        ran.append(call)
        return call

    def together(calls: Sequence[Any], until: float) -> list[Any]:
        return [call if call == "plain" else None for call in calls]

    groups = ThreadBatches(alone, together)
    with ThreadPoolExecutor(20) as pool:
        first = pool.submit(groups.run, Named("first"), "first")
        assert begun.wait(20)
        calls = [("slow", "k"), ("plain", "p"), ("fails", "k"), ("last", "k"), ("other", "o")]
        futures = {}
        for call, key in calls:
            futures[call] = pool.submit(groups.run, Named(call), key)
            while len(groups._schedule.waiting) < len(futures):
                time.sleep(0.001)
        groups._schedule.overtake()
        go_on.set()
        assert first.result(20) == "first"
        with pytest.raises(StateStoreError):
            futures["fails"].result(20)
        assert [futures[call].result(20) for call in ("slow", "plain", "last", "other")] == [
            "slow", "plain", "last", "other",
        ]  # fmt: skip
    assert ran == ["first", "other", "slow", "last"]
    assert groups._schedule._busy == {}


@pytest.mark.parametrize("world", ["threads", "tasks"])
def test_a_long_row_of_quick_calls_is_not_overtaken_within_its_key(world: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schedule, "_PATIENCE_WITHIN_KEY", 0.3)
    ran: list[Any] = []

    def alone(call: Any) -> Any:
        time.sleep(0.1)
        ran.append(call)
        return call

    def together(calls: Sequence[Any], until: float) -> list[Any]:
        return [None for _ in calls]

    def in_threads() -> None:
        groups = ThreadBatches(alone, together, patience=0.01)
        with ThreadPoolExecutor(10) as pool:
            futures = []
            for n in range(8):
                futures.append(pool.submit(groups.run, Named(n), "k"))
                time.sleep(0.005)
            time.sleep(0.5)
            futures.append(pool.submit(groups.run, Named("last"), "k"))
            wait(futures)

    async def in_tasks() -> None:
        workers = Workers(4, "test")

        async def alone_in_thread(call: Any) -> Any:
            return await workers.run(alone, call)

        turn: Any = lambda until: nullcontext()  # noqa: E731
        groups = TaskBatches(alone_in_thread, together, workers, turn, to_the_end=True, patience=0.01)
        tasks = [asyncio.create_task(groups.run(Named(n), "k")) for n in range(8)]
        await asyncio.sleep(0.55)
        await asyncio.gather(*tasks, groups.run(Named("last"), "k"))
        workers.close()

    if world == "threads":
        in_threads()
    else:
        asyncio.run(in_tasks())
    assert ran == [*map(str, range(8)), "last"]


class Interrupted(BaseException):
    """As Ctrl-C is."""


def test_an_interrupt_is_for_its_own_thread_and_the_others_try_by_themselves() -> None:
    begun, go_on = threading.Event(), threading.Event()

    def alone(call: Named) -> str:
        if call == "first":
            begun.set()
            assert go_on.wait(20)
        return f"{call} {call.attempt}"

    def together(calls: Sequence[Any], until: float) -> list[Any]:
        raise Interrupted

    groups = ThreadBatches(alone, together)
    with ThreadPoolExecutor(20) as pool:
        first = pool.submit(groups.run, Named("first"), "first")  # type: ignore[arg-type]
        assert begun.wait(20)
        futures = [pool.submit(groups.run, Named(f"n{n}"), n) for n in range(4)]  # type: ignore[arg-type]
        while len(groups._schedule.waiting) < 4:
            time.sleep(0.001)
        go_on.set()
        assert first.result(20) == "first 1"
        outcomes = [repr(future.exception(20) or future.result()) for future in futures]
    # One of them led the group, and is interrupted once its own is done.
    assert outcomes.count("Interrupted()") == 1
    assert {outcome for outcome in outcomes if outcome != "Interrupted()"} < {repr(f"n{n} 2") for n in range(4)}
    assert groups._schedule._busy == {}
