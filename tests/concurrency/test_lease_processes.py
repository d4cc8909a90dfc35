"""One lease, many processes: never two holders, and who was stopped past the end of its lease can do nothing more.

`STATESTORE_HYPOTHESIS_PROFILE=long` makes it 32 processes for 30 seconds, and a thousand holders that are stopped.
"""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from itertools import pairwise
from pathlib import Path

import pytest

from statestore import AsyncStateStore, ConflictError, StateStore
from tests.support.content import Content
from tests.support.crowd import apart

LONG = os.environ.get("STATESTORE_HYPOTHESIS_PROFILE") == "long"
PROCESSES, SECONDS = (32, 30) if LONG else (4, 1)
STOPS = 1000 if LONG else 10


@contextmanager
def alone(folder: str, token: int) -> Iterator[None]:
    """Be where nobody else may be at the same time, and leave the token there."""
    place = Path(folder) / "place"
    os.close(os.open(place, os.O_CREAT | os.O_EXCL))
    with (Path(folder) / "tokens").open("a") as tokens:
        tokens.write(f"{token}\n")
    yield
    place.unlink()


TTL, WAIT = timedelta(seconds=60), timedelta(seconds=1)


def contend(url: str, folder: str, number: int) -> int:
    """Take the lease as often as possible; the place inside must be empty then."""
    held = 0
    with StateStore.open(url, pool_size=1) as store:
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            try:
                lease = store.sessions.acquire("s", owner=f"worker {number}", ttl=TTL, wait=WAIT)
            except ConflictError:
                continue
            with alone(folder, lease.token):
                store.history.append("s", [{"role": "user", "content": str(lease.token)}], lease=lease)
            store.sessions.release(lease)
            held += 1
    return held


async def contending(url: str, folder: str, number: int) -> int:
    """As `contend`, awaited."""
    held = 0
    async with await AsyncStateStore.open(url, pool_size=1) as store:
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            try:
                lease = await store.sessions.acquire("s", owner=f"worker {number}", ttl=TTL, wait=WAIT)
            except ConflictError:
                continue
            with alone(folder, lease.token):
                await store.history.append("s", [{"role": "user", "content": str(lease.token)}], lease=lease)
            await store.sessions.release(lease)
            held += 1
    return held


def contend_async(url: str, folder: str, number: int) -> int:
    return asyncio.run(contending(url, folder, number))


@pytest.mark.timeout(120 + 10 * SECONDS)
@pytest.mark.parametrize("work", [contend, contend_async], ids=["sync", "async"])
def test_there_are_never_two_holders(database_url: str, tmp_path: Path, work: Callable[[str, str, int], int]) -> None:
    with StateStore.open(database_url) as store:
        store.sessions.create("s")
        with ProcessPoolExecutor(PROCESSES, mp_context=apart()) as pool:
            workers = [pool.submit(work, database_url, str(tmp_path), number) for number in range(PROCESSES)]
            held = [worker.result() for worker in workers]
        tokens = [int(line) for line in (tmp_path / "tokens").read_text().split()]
        assert len(tokens) == sum(held) > 0
        assert all(before < after for before, after in pairwise(tokens))
        assert [entry.content["content"] for entry in store.history.read("s")] == [str(token) for token in tokens]


# Both print "held" with the token, wait for a line, and write then; what they print next is what came of it.
HOLDER = """
import sys
from datetime import timedelta
from statestore import StaleLeaseError, StateStore

store = StateStore.open(sys.argv[1], pool_size=2)


def hold():
    held = False
    try:
        with store.sessions.acquire(
            "s", owner="holder", ttl=timedelta(seconds=0.1), wait=timedelta(seconds=30)
        ) as lease:
            held = True
            print("held", lease.token, flush=True)
            sys.stdin.readline()
            try:
                store.history.append("s", [{"role": "user", "content": "too late"}], lease=lease)
                print("written", flush=True)
            except StaleLeaseError:
                print("refused", flush=True)
    except StaleLeaseError:
        if held:
            print("told", flush=True)
    return held


for line in sys.stdin:
    while not hold():  # So slow a machine that the lease ran out before the block began.
        pass
"""


ASYNC_HOLDER = """
import asyncio
import sys
from datetime import timedelta
from statestore import AsyncStateStore, StaleLeaseError


async def hold(store):
    held = False
    try:
        async with store.sessions.acquire(
            "s", owner="holder", ttl=timedelta(seconds=0.1), wait=timedelta(seconds=30)
        ) as lease:
            held = True
            print("held", lease.token, flush=True)
            await asyncio.to_thread(sys.stdin.readline)
            try:
                await store.history.append("s", [{"role": "user", "content": "too late"}], lease=lease)
                print("written", flush=True)
            except StaleLeaseError:
                print("refused", flush=True)
    except StaleLeaseError:
        if held:
            print("told", flush=True)
    return held


async def main():
    async with await AsyncStateStore.open(sys.argv[1], pool_size=2) as store:
        while await asyncio.to_thread(sys.stdin.readline):
            while not await hold(store):  # So slow a machine that the lease ran out before the block began.
                pass


asyncio.run(main())
"""


@pytest.mark.timeout(120 + STOPS)
@pytest.mark.parametrize("program", [HOLDER, ASYNC_HOLDER], ids=["sync", "async"])
def test_a_holder_that_was_stopped_past_its_lease_is_refused(database_url: str, content: Content, program: str) -> None:
    with (
        StateStore.open(database_url) as store,
        subprocess.Popen(
            [sys.executable, "-c", program, database_url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as holder,
    ):
        assert holder.stdin is not None
        assert holder.stdout is not None
        store.sessions.create("s")
        try:
            for _ in range(STOPS):
                print("go", file=holder.stdin, flush=True)
                held, token = holder.stdout.readline().split()
                assert held == "held"
                holder.send_signal(signal.SIGSTOP)
                ours = store.sessions.acquire("s", owner="other", ttl=timedelta(minutes=5), wait=timedelta(seconds=30))
                assert ours.token > int(token)
                before = content.snapshot()
                holder.send_signal(signal.SIGCONT)
                print("write", file=holder.stdin, flush=True)
                assert holder.stdout.readline() == "refused\n"
                assert holder.stdout.readline() == "told\n"
                assert content.snapshot() == before
                assert store.sessions.release(ours)
        finally:
            holder.kill()
