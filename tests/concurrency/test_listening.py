"""The connection that listens for all followers of a store."""

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import psycopg
import pytest

from statestore import AsyncStateStore, StateStore, StateStoreError
from statestore.engine import listening as listening_for_all
from statestore.operations import follow
from statestore.repositories.history.follows import LISTENING
from tests.support.wire import Proxy

FOLLOWERS = 40
POOL = 3
LATE = timedelta(seconds=120)


@pytest.fixture
def admin(postgres_url: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(postgres_url, autocommit=True, application_name="admin") as connection:
        yield connection


@pytest.fixture(autouse=True)
def _only_when_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """A follower that is not told looks again long after the test's end."""
    monkeypatch.setattr(follow, "_PAUSE_WHEN_NOTIFIED", 3600.0)


def connections(admin: psycopg.Connection[Any]) -> int:
    """How many there are; autovacuum works in a database, too."""
    query = """SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name <> 'admin'
        AND backend_type = 'client backend'"""
    return int(admin.execute(query).fetchone()[0])  # type: ignore[index]


def listening(admin: psycopg.Connection[Any]) -> list[int]:
    """The backends that hold followers' locks."""
    query = "SELECT DISTINCT pid FROM pg_locks WHERE locktype = 'advisory' AND mode = 'ShareLock' AND granted"
    return [row[0] for row in admin.execute(query)]


def wait_until(condition: Callable[[], bool]) -> None:
    for _ in range(3000):
        if condition():
            return
        time.sleep(0.01)
    pytest.fail("it never came to that")


def message(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


class Followers:
    """Threads, each of which follows a session and keeps what it gets."""

    def __init__(self, store: StateStore, sessions: list[str], end: str = "end") -> None:
        self._end = end
        self.got: list[list[str]] = [[] for _ in sessions]
        self.ended: list[Exception] = []
        self._threads = [
            threading.Thread(target=self._run, args=(store, session, got), daemon=True)
            for session, got in zip(sessions, self.got, strict=True)
        ]
        for thread in self._threads:
            thread.start()

    def _run(self, store: StateStore, session: str, got: list[str]) -> None:
        try:
            for entry in store.history.follow(session, after=0, timeout=LATE):
                got.append(entry.content["content"])
                if got[-1] == self._end:
                    return
        except StateStoreError as error:
            self.ended.append(error)

    def join(self) -> None:
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive()


def test_forty_threads_that_follow_share_one_connection(postgres_url: str, admin: psycopg.Connection[Any]) -> None:
    sessions = [f"s{n % 20}" for n in range(FOLLOWERS)]
    with StateStore.open(postgres_url, pool_size=POOL) as store:
        for session in set(sessions):
            store.sessions.create(session)
        for round_ in range(3):  # They come and go.
            followers = Followers(store, sessions, f"end {round_}")
            for number, session in enumerate(sorted(set(sessions)) * 2):
                store.history.append(session, message(f"{round_}-{number}"))
                assert connections(admin) <= POOL + 1
            wait_until(lambda: len(listening(admin)) == 1)
            for session in set(sessions):
                store.history.append(session, message(f"end {round_}"))
            followers.join()
            assert all(len(got) == 3 * (round_ + 1) for got in followers.got)
            wait_until(lambda: listening(admin) == [])
            wait_until(lambda: connections(admin) <= POOL)


async def test_forty_tasks_that_follow_share_one_connection(postgres_url: str, admin: psycopg.Connection[Any]) -> None:
    async with await AsyncStateStore.open(postgres_url, pool_size=POOL) as store:
        for n in range(FOLLOWERS):
            await store.sessions.create(f"s{n}")

        async def run(session: str, count: int) -> list[str]:
            got = []
            async for entry in store.history.follow(session, after=0, timeout=LATE):
                got.append(entry.content["content"])
                if len(got) == count:
                    break
            return got

        for round_ in range(1, 4):
            tasks = [asyncio.create_task(run(f"s{n}", 2 * round_)) for n in range(FOLLOWERS)]
            for part in range(2):
                for n in range(FOLLOWERS):
                    await store.history.append(f"s{n}", message(f"{n}-{round_}-{part}"))
                assert await asyncio.to_thread(connections, admin) <= POOL + 1
            async with asyncio.timeout(60):
                for n, got in enumerate(await asyncio.gather(*tasks)):
                    assert got[-2:] == [f"{n}-{round_}-0", f"{n}-{round_}-1"]
        await asyncio.to_thread(wait_until, lambda: listening(admin) == [])
        assert await asyncio.to_thread(connections, admin) <= POOL


def test_followers_go_on_when_the_connection_dies(postgres_url: str, admin: psycopg.Connection[Any]) -> None:
    with StateStore.open(postgres_url) as store:
        sessions = [f"s{n}" for n in range(5)]
        for session in sessions:
            store.sessions.create(session)
        followers = Followers(store, sessions)
        for round_ in range(10):
            wait_until(lambda: len(listening(admin)) == 1 and len(locked(admin)) == len(sessions))
            admin.execute("SELECT pg_terminate_backend(%s)", listening(admin))
            for session in sessions:  # Some before it listens again, some behind.
                store.history.append(session, message(str(round_)))
            wait_until(lambda round_=round_: all(got[-1:] == [str(round_)] for got in followers.got))  # type: ignore[misc]
        for session in sessions:
            store.history.append(session, message("end"))
        followers.join()
        assert followers.got == [[*map(str, range(10)), "end"]] * 5
        assert followers.ended == []


def locked(admin: psycopg.Connection[Any]) -> list[Any]:
    query = "SELECT objid FROM pg_locks WHERE locktype = 'advisory' AND mode = 'ShareLock' AND granted"
    return admin.execute(query).fetchall()


def test_closing_the_store_hangs_up(postgres_url: str, admin: psycopg.Connection[Any]) -> None:
    store = StateStore.open(postgres_url)
    store.sessions.create("s")
    followers = Followers(store, ["s"] * 3)
    wait_until(lambda: len(listening(admin)) == 1)
    store.close()
    followers.join()
    assert [type(error).__name__ for error in followers.ended] == ["StoreClosedError"] * 3
    wait_until(lambda: connections(admin) == 0)
    wait_until(lambda: not any(thread.name == "statestore-listening" for thread in threading.enumerate()))


def test_followers_hear_of_the_end_though_the_thread_ends_first() -> None:
    connections_: Any = SimpleNamespace()  # Nothing is connected.
    listener = listening_for_all.Listener(connections_, "default", LISTENING)
    lock, heard = threading.Lock(), list[str]()

    class Overtaken:
        """A lock behind which the thread is quicker."""

        def __enter__(self) -> None:
            lock.acquire()

        def __exit__(self, *_: object) -> None:
            lock.release()
            if listener._closed and listener._ears:
                assert listener._has_ended()

    answers: list[Any] = []
    with patch.object(listening_for_all.Listener, "_work", lambda self, answer: answers.append(answer)):
        for name in ("a", "b"):
            listening_for_all.Ear(listener, name, partial(heard.append, name)).open()
    listener._lock = Overtaken()  # type: ignore[assignment]
    with patch.object(listener, "_ring"):
        listener.close()
    answers[0].close()
    assert sorted(heard) == ["a", "b"]


def test_closing_the_store_hangs_up_on_a_network_that_has_died(
    proxy: Proxy, admin: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listening_for_all, "_LEAVE_TIME", 0.1)
    monkeypatch.setattr(listening_for_all, "_PATIENCE", 3600.0)
    store = StateStore.open(proxy.url)
    for session in ("s", "other"):
        store.sessions.create(session)
    followers = Followers(store, ["s"])
    wait_until(lambda: len(listening(admin)) == 1)
    [thread] = [thread for thread in threading.enumerate() if thread.name == "statestore-listening"]
    proxy.swallow("LISTEN")
    others = Followers(store, ["other"])
    wait_until(lambda: proxy.faults_left == 0)
    store.close()
    thread.join(60)
    assert not thread.is_alive()
    for one in (followers, others):
        one.join()
        assert [type(error).__name__ for error in one.ended] == ["StoreClosedError"]


FORKED = """
import os, sys, threading
from datetime import timedelta
from statestore import StateStore
from statestore.operations import follow

follow._PAUSE_WHEN_NOTIFIED = 3600.0
store = StateStore.open(sys.argv[1])
store.sessions.create("s")
got = threading.Semaphore(0)

def run():
    for entry in store.history.follow("s", after=0, timeout=timedelta(seconds=60)):
        got.release()

threading.Thread(target=run, daemon=True).start()
say = lambda text: store.history.append("s", [{"role": "user", "content": text}])
say("before")
assert got.acquire(timeout=30)
mine = store._database.listener
for _ in range(3000):
    if mine.hears("s"):
        break
    threading.Event().wait(0.01)
backend = mine._driver.pgconn.backend_pid
child = os.fork()
if child == 0:
    code = 1
    try:
        assert mine._driver is None and not mine.hears("s")
        followed = store.history.follow("s", after=1, timeout=timedelta(seconds=60))
        threading.Timer(0.5, say, ("of the child",)).start()
        assert next(followed).content["content"] == "of the child"
        assert mine._driver is None or mine._driver.pgconn.backend_pid != backend
        followed.close()
        store.close()
        code = 0
    finally:
        os._exit(code)
assert os.waitpid(child, 0)[1] == 0
assert got.acquire(timeout=30)
say("behind")
assert got.acquire(timeout=30)
assert mine._driver.pgconn.backend_pid == backend
"""


def test_a_forked_child_listens_by_itself(postgres_url: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FORKED, postgres_url], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
