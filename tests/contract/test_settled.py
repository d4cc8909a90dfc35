"""What is over is over: nothing is written after a caller has had its answer, and nothing stays connected."""

import asyncio
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from typing import Any

import psycopg
import pytest

from statestore import AsyncStateStore, CommitUnknownError, NewEntry, StateStore, StateStoreError, StoreClosedError
from tests.contract.test_cancellation import run
from tests.contract.test_close import OPERATIONS, call
from tests.contract.test_connections import terminate
from tests.contract.test_transactions import Application
from tests.support.content import Content
from tests.support.crowd import at_once
from tests.support.portal import Portal
from tests.support.wire import Proxy

Store = Any

# Seconds. A connection that was used a moment ago is not looked at: that would cost every call.
IDLE = 0.7

OWN_ENGINE = pytest.mark.parametrize("world", ["sync", "async"], indirect=True)


@contextmanager
def no_writes(url: str) -> Iterator[Callable[[], int]]:
    """Nobody can write an entry within the block; how many there are can be asked."""
    with Content(url) as content:
        content.query("BEGIN IMMEDIATE" if content.is_sqlite else "BEGIN")
        if not content.is_sqlite:
            content.query("LOCK TABLE history_entries IN SHARE MODE")
        yield lambda: int(content.query("SELECT count(*) AS n FROM history_entries")[0]["n"])
        content.query("ROLLBACK")


def test_what_was_cancelled_in_a_group_is_settled_when_its_caller_goes_on(database_url: str) -> None:
    """Cancelled while the statement of its group waits for a table: what it finds then is what there will be."""
    answered_before = 0

    async def round_of(store: AsyncStateStore, session: str, own: int) -> None:
        nonlocal answered_before
        await store.sessions.create(session)
        with no_writes(database_url):
            tasks = [
                asyncio.ensure_future(store.history.append(session, [{"role": "user", "content": n}])) for n in range(6)
            ]
            await asyncio.sleep(0.05)
            tasks[own].cancel()
            for _ in range(20):
                await asyncio.sleep(0)
            answered_before += tasks[own].done()
        await asyncio.wait({tasks[own]}, timeout=60)
        assert tasks[own].done()
        found = [row["content"] for row in content.rows("history_entries", session_id=session)]
        results = await asyncio.gather(*tasks, return_exceptions=True)
        kept = [entry.content["content"] for entry in await store.history.read(session)]
        assert (str(own) in str(found)) == (own in kept), "it came after its caller had been told of its end"
        assert [n for n, result in enumerate(results) if isinstance(result, BaseException)] in ([], [own])
        assert sorted({*kept, own}) == list(range(6))
        assert len(set(kept)) == len(kept)

    async def main() -> None:
        async with await AsyncStateStore.open(database_url, pool_size=3) as store:
            for n in range(10):
                await round_of(store, f"s{n}", 1 + n % 5)

    with Content(database_url) as content:
        run(main())
    assert answered_before < 10, "nobody waited for what comes of it"


@OWN_ENGINE
@pytest.mark.parametrize("name", ["create", "update", "increment", "append"])
def test_a_connection_that_died_while_idle_is_noticed_before_a_write(
    connect: Callable[..., Store], postgres_url: str, name: str
) -> None:
    """Nothing was sent, so nothing is in doubt, for what must not be repeated either."""
    store = connect(postgres_url)
    store.sessions.create("s")
    write: dict[str, Callable[[int], Any]] = {
        "create": lambda n: store.sessions.create(f"new {n}"),
        "update": lambda n: store.sessions.update("s", title=f"{n}"),
        "increment": lambda n: store.state.increment("s", "n"),
        "append": lambda n: store.history.append("s", [NewEntry(n)]),
    }
    for n in range(3):
        at_once(*[partial(store.history.read, "s")] * 3)
        assert terminate(postgres_url) >= 1
        time.sleep(IDLE)
        write[name](n)
    assert store.sessions.count() == (4 if name == "create" else 1)
    assert store.history.count("s") == (3 if name == "append" else 0)
    assert store.state.get("s", "n", 0) == (3 if name == "increment" else 0)


@OWN_ENGINE
def test_nobody_writes_between_a_read_and_a_write_of_what_is_joined_on_sqlite(
    sqlite_url: str, world: str, portal: Portal
) -> None:
    with StateStore.open(sqlite_url) as store:
        store.sessions.create("s")
        store.state.set("s", "n", 1)
        application = Application(sqlite_url, world, portal)
        with Content(sqlite_url) as other:
            other.query("PRAGMA busy_timeout=0")
            with application.transaction() as connection:
                joined = application.join(connection)
                read = joined.state.get("s", "n")
                with pytest.raises(sqlite3.OperationalError) as caught:
                    other.query("UPDATE sessions SET title = 'theirs'")
                assert caught.value.sqlite_errorname == "SQLITE_BUSY"
                joined.state.set("s", "n", read + 1)
            other.query("UPDATE sessions SET title = 'theirs'")
        application.close()
        assert (store.state.get("s", "n"), store.sessions.get("s").title) == (2, "theirs")


@pytest.mark.parametrize("failed", ["by itself", "in a statement"])
def test_after_its_block_has_failed_a_transaction_does_nothing(store: Store, content: Content, failed: str) -> None:
    store.sessions.create("s")

    def fail() -> Any:
        with store.transaction() as tx:
            kept.append(tx)
            tx.history.append("s", [NewEntry("undone")])
            if failed == "by itself":
                raise ZeroDivisionError
            tx.sessions.create("s")

    kept: list[Any] = []
    with pytest.raises((ZeroDivisionError, StateStoreError)):
        fail()
    refuses_everything(kept[0])
    before = content.snapshot()
    with store.transaction() as another:
        another.history.append("s", [NewEntry("kept")])
        refuses_everything(kept[0])
    assert [entry.content for entry in store.history.read("s")] == ["kept"]
    assert len(before["history_entries"]) == 0


def test_after_a_commit_in_doubt_a_transaction_does_nothing(
    connect: Callable[..., Store], proxy: Proxy, postgres_url: str
) -> None:
    store = connect(proxy.url)
    store.sessions.create("s")

    def work() -> None:
        with store.transaction() as tx:
            kept.append(tx)
            tx.state.set("s", "k", 1)
            proxy.lose("reply", "COMMIT")

    kept: list[Any] = []
    with pytest.raises(CommitUnknownError):
        work()
    refuses_everything(kept[0])
    with Content(postgres_url) as content:
        assert len(content.rows("state_entries")) == 1


def refuses_everything(tx: Any) -> None:
    for group, name in OPERATIONS:
        if group in ("sessions", "history", "state"):
            with pytest.raises(StoreClosedError):
                call(tx, group, name)


@pytest.mark.parametrize("repeat", range(3))
def test_a_store_that_is_closed_during_a_call_leaves_no_connection(
    connect: Callable[..., Store], postgres_url: str, world: str, repeat: int
) -> None:
    """The call has its connection and waits for a lock when the store is closed."""
    store = connect(postgres_url, lock_timeout=timedelta(seconds=60)) if world != "engine" else connect(postgres_url)
    store.sessions.create("s")
    at_once(*[partial(store.history.read, "s")] * 3)
    outcome: list[Any] = []

    def append() -> None:
        try:
            outcome.append(store.history.append("s", [NewEntry(1)]))
        except StateStoreError as error:
            outcome.append(error)

    with psycopg.connect(postgres_url) as holder, Content(postgres_url) as monitor:
        holder.execute("SELECT 1 FROM statestore.sessions WHERE namespace = 'default' FOR UPDATE")
        caller = threading.Thread(target=append)
        caller.start()
        while not monitor.somebody_waits():
            time.sleep(0.005)
        closer = threading.Thread(target=store.close)
        closer.start()
        closer.join(1)
        holder.rollback()
        closer.join(60)
        caller.join(60)
        assert not closer.is_alive()
        assert not caller.is_alive()
        stored = [entry for entry in outcome if isinstance(entry, list)]
        assert stored or isinstance(outcome[0], StoreClosedError)
    nobody_is_connected(postgres_url)
    with StateStore.open(postgres_url) as after:
        assert after.history.count("s") == len(stored)


def nobody_is_connected(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as monitor:
        wait_for(monitor, "pid <> pg_backend_pid()", 0)


def wait_for(monitor: "psycopg.Connection[Any]", which: str, backends: int) -> None:
    """Wait until there are so many backends of the database. Who they are is kept until a transaction's end."""
    query = f"SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND {which}"
    for _ in range(6000):
        if monitor.execute(query).fetchone() == (backends,):  # type: ignore[arg-type]
            return
        time.sleep(0.005)
    raise AssertionError(f"there never were {backends} backends with {which}")


def test_an_async_store_that_is_closed_during_a_call_leaves_no_connection(postgres_url: str) -> None:
    async def main() -> None:
        store = await AsyncStateStore.open(postgres_url)
        await store.sessions.create("s")
        tasks = [asyncio.ensure_future(store.history.append("s", [NewEntry(n)])) for n in range(6)]
        await asyncio.sleep(0)
        await store.close()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(result, list | StoreClosedError) for result in results)
        await asyncio.to_thread(nobody_is_connected, postgres_url)
        with Content(postgres_url) as content:
            assert len(content.rows("history_entries")) == sum(isinstance(result, list) for result in results)

    run(main())


@pytest.mark.parametrize("world", ["sync", "async", "engine"], indirect=True)
def test_what_a_lost_connection_left_is_not_done_later(connect: Callable[..., Store], postgres_url: str) -> None:
    """Its statement waits for a lock when the connection is cut. The error says: read before you repeat it."""
    proxy = Proxy(postgres_url)
    store = connect(proxy.url, pool_size=1)
    store.sessions.create("s")
    store.state.set("s", "n", 5)
    errors: list[Exception] = []

    def increment() -> None:
        try:
            store.state.increment("s", "n")
        except StateStoreError as exc:
            errors.append(exc)

    with Content(postgres_url) as content:
        content.query("BEGIN")
        content.query("SELECT 1 FROM state_entries WHERE namespace = 'default' AND key = 'n' FOR UPDATE")
        thread = threading.Thread(target=increment)
        thread.start()
        while not content.somebody_waits():
            time.sleep(0.01)
        proxy.cut()
        thread.join(60)
        assert [type(exc) for exc in errors] == [CommitUnknownError]
        found = store.state.get("s", "n")
        waits = content.somebody_waits()
        content.query("ROLLBACK")
        assert not waits
    assert store.state.get("s", "n") == found == 5
    proxy.close()
