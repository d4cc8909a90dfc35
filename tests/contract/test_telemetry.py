"""What a store tells of its operations: names, counts and durations, and never anybody's data."""

import asyncio
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from io import BytesIO
from typing import Any

import pytest

from statestore import AsyncStateStore, InvalidValueError, NewEntry, Operation, SessionNotFoundError, StateStore
from statestore.engine.batching import carry_out
from statestore.engine.calls import Call
from statestore.portable import export_sessions, export_sessions_async
from statestore.repositories.history.append_batches import APPENDS
from statestore.repositories.history.repository import HistoryRepository
from tests.contract.test_close import OPERATIONS, call
from tests.contract.test_connections import terminate
from tests.support.crowd import at_once
from tests.support.wire import Proxy, Traffic

Store = Any

SYNC = pytest.mark.parametrize("world", ["sync"], indirect=True)
HOUR = timedelta(hours=1)


def words(n: int) -> list[NewEntry]:
    return [NewEntry({"role": "user", "content": f"word {index}"}) for index in range(n)]


@pytest.fixture
def heard(open_store: Callable[..., Store]) -> tuple[Store, list[Operation]]:
    """A store with a session `s` of five entries and two keys, and what it tells from then on."""
    store = open_store(namespace="tenant")
    store.sessions.create("s")
    store.history.append("s", words(5))
    store.state.set_many("s", {"list": [1, 2, 3], "n": 1})
    store.cache.set("key", [1, 2])
    operations: list[Operation] = []
    store.on_operation(operations.append)
    return store, operations


def told(operations: list[Operation]) -> list[tuple[str, int | None]]:
    found = [(operation.name, operation.rows) for operation in operations]
    operations.clear()
    return found


COUNTED: dict[str, tuple[Callable[[Store], Any], int | None]] = {
    "sessions.create": (lambda store: store.sessions.create("new"), 1),
    "sessions.open": (lambda store: store.sessions.open("new"), 1),
    "sessions.get": (lambda store: store.sessions.get("s"), 1),
    "sessions.find": (lambda store: store.sessions.find("none"), 0),
    "sessions.exists": (lambda store: store.sessions.exists("s"), None),
    "sessions.page": (lambda store: store.sessions.page(limit=10), 1),
    "sessions.count": (lambda store: store.sessions.count(), None),
    "sessions.fork": (lambda store: store.sessions.fork("s", "fork"), 1),
    "sessions.load": (lambda store: store.sessions.load("s"), 1),
    "sessions.stats": (lambda store: store.sessions.stats("s"), 1),
    "sessions.acquire": (lambda store: store.sessions.acquire("s", owner="me", ttl=HOUR), None),
    "sessions.delete": (lambda store: store.sessions.delete("s"), None),
    "history.append": (lambda store: store.history.append("s", words(3)), 3),
    "history.read": (lambda store: store.history.read("s", last=4), 4),
    "history.get": (lambda store: store.history.get("s", 1), 1),
    "history.window": (lambda store: store.history.window("s", max_entries=2), 2),
    "history.pop_last": (lambda store: store.history.pop_last("s", 2), 2),
    "history.trim": (lambda store: store.history.trim("s", keep_last=1), 4),
    "history.clear": (lambda store: store.history.clear("s"), 5),
    "state.set": (lambda store: store.state.set("s", "new", [1, 2, 3]), 1),
    "state.set_many": (lambda store: store.state.set_many("s", {"a": 1, "b": 2}), 2),
    "state.get": (lambda store: store.state.get("s", "list"), None),
    "state.get_all": (lambda store: store.state.get_all("s"), 2),
    "state.increment": (lambda store: store.state.increment("s", "n", 41), None),
    "state.delete": (lambda store: store.state.delete("s", "n"), 1),
    "state.clear": (lambda store: store.state.clear("s"), 2),
    "cache.get": (lambda store: store.cache.get("key"), None),
    "cache.get_many": (lambda store: store.cache.get_many(["key", "none"]), 1),
    "cache.set": (lambda store: store.cache.set("new", [1, 2, 3]), 1),
    "cache.get_or_compute": (lambda store: store.cache.get_or_compute("key", lambda: 1), None),
    "cache.invalidate": (lambda store: store.cache.invalidate("key"), 1),
    "usage.by_day": (lambda store: store.usage.by_day(), 1),
    "prices.set": (lambda store: store.prices.set("m", input_price=1, output_price=1), 1),
    "store.stats": (lambda store: store.stats(), 1),
    "store.retention": (lambda store: store.retention(), None),
}


@pytest.mark.parametrize("name", COUNTED)
def test_an_operation_tells_its_name_and_how_many_rows(heard: tuple[Store, list[Operation]], name: str) -> None:
    store, operations = heard
    act, rows = COUNTED[name]
    act(store)
    [operation] = operations
    assert (operation.name, operation.rows) == (name, rows)
    assert operation.namespace == "tenant"
    assert operation.attempts == 1
    assert operation.error is None
    assert 0 < operation.duration < 30


def test_an_operation_has_the_name_that_its_caller_knows(heard: tuple[Store, list[Operation]]) -> None:
    """Even where its arguments are refused."""
    store, operations = heard
    for group, name in OPERATIONS:
        if name.startswith("_"):
            continue
        with suppress(Exception):
            call(store, group, name)
        assert f"{group}.{name}" in {operation.name for operation in operations}
        operations.clear()


def test_an_operation_that_failed_tells_the_class_of_its_error(heard: tuple[Store, list[Operation]]) -> None:
    store, operations = heard
    with pytest.raises(SessionNotFoundError):
        store.history.append("none", words(1))
    with pytest.raises(InvalidValueError):
        store.history.read("s", last=-1)
    assert [(operation.name, operation.rows, operation.error) for operation in operations] == [
        ("history.append", None, "SessionNotFoundError"),
        ("history.read", None, "InvalidValueError"),
    ]


def test_a_transaction_tells_of_what_is_in_it_and_then_of_itself(heard: tuple[Store, list[Operation]]) -> None:
    store, operations = heard
    with store.transaction() as tx:
        tx.history.append("s", words(2))
        tx.state.get("s", "n")
        assert told(operations) == [("history.append", 2), ("state.get", None)]
    assert told(operations) == [("transaction", None)]
    with store.transaction(read_only=True) as tx:
        tx.history.read("s", last=2)
    assert told(operations) == [("history.read", 2), ("transaction", None)]


def test_a_transaction_that_was_undone_tells_why(heard: tuple[Store, list[Operation]]) -> None:
    store, operations = heard
    with pytest.raises(SessionNotFoundError), store.transaction() as tx:
        tx.history.append("none", words(1))
    assert [(operation.name, operation.error) for operation in operations] == [
        ("history.append", "SessionNotFoundError"),
        ("transaction", "SessionNotFoundError"),
    ]


def test_work_of_several_calls_tells_of_each(heard: tuple[Store, list[Operation]]) -> None:
    store, operations = heard
    store.history.append("s", words(6_000))
    operations.clear()
    store.history.trim("s", keep_last=1)
    assert told(operations) == [("history.trim", 5_000), ("history.trim", 1_004)]
    store.sweep()
    names = [name for name, _ in told(operations)]
    assert len(names) > 3
    assert {name.partition(".")[0] for name in names} <= {"expiry", "cache"}


@SYNC
def test_an_export_tells_of_each_of_its_reads(heard: tuple[StateStore, list[Operation]]) -> None:
    store, operations = heard
    store.history.append("s", words(1))
    store.state.set("s", "k", 1)
    operations.clear()
    export_sessions(store, BytesIO())
    names = {name for name, _ in told(operations)}
    assert {"portable.sessions", "portable.entries", "portable.rows"} <= names


async def test_an_awaited_export_tells_of_each_of_its_reads(database_url: str) -> None:
    async with AsyncStateStore.open(database_url) as store:
        await store.sessions.create("s")
        operations: list[Operation] = []
        store.on_operation(operations.append)
        await export_sessions_async(store, BytesIO())
    assert "portable.sessions" in {operation.name for operation in operations}


def test_calls_of_a_batch_tell_of_each(heard: tuple[Store, list[Operation]]) -> None:
    store, operations = heard
    at_once(*[lambda n=n: store.history.append("s", words(n)) for n in range(1, 9)])  # type: ignore[misc]
    assert sorted(told(operations)) == [("history.append", n) for n in range(1, 9)]
    at_once(*[lambda: store.history.read("s", last=2)] * 8)
    assert told(operations) == [("history.read", 2)] * 8


@SYNC
def test_batches_and_their_calls_are_counted(store: StateStore) -> None:
    store.sessions.create("s")
    for size in (5, 3):
        calls = [Call(HistoryRepository.append, ("s", words(1))) for _ in range(size)]
        assert None not in carry_out(APPENDS, store._database, calls, time.monotonic() + 30)
    assert store._database.telemetry.batches == {"history.append": (2, 8)}


def test_a_second_try_is_counted(connect: Callable[..., Store], postgres_url: str) -> None:
    store = connect(postgres_url)
    store.sessions.create("s")
    operations: list[Operation] = []
    store.on_operation(operations.append)
    store.history.read("s")
    assert terminate(postgres_url) >= 1
    store.history.read("s")
    store.history.read("s")
    assert [operation.attempts > 1 for operation in operations] == [False, True, False]
    assert {operation.error for operation in operations} == {None}


def test_the_tries_of_a_transaction_are_counted(connect: Callable[..., Store], proxy: Proxy, world: str) -> None:
    store = connect(proxy.url)
    store.sessions.create("s")
    operations: list[Operation] = []
    store.on_operation(operations.append)

    def work(tx: Any) -> Any:
        return tx.history.append("s", words(1))

    proxy.lose("reply", "INSERT INTO")
    store.run_transaction(work)
    found = [(operation.name, operation.attempts, operation.error) for operation in operations]
    if world != "sync":  # What was returned is a coroutine there, which the transaction awaits.
        found = [operation for operation in found if operation[0] == "transaction" or operation[2] is None]
    assert found[-1] == ("transaction", 2, None)
    assert ("history.append", 1, None) in found


def test_who_no_longer_listens_hears_no_more(heard: tuple[Store, list[Operation]]) -> None:
    store, operations = heard
    others: list[Operation] = []
    stop = store.on_operation(others.append)
    store.sessions.get("s")
    stop()
    stop()
    store.sessions.get("s")
    assert (len(operations), len(others)) == (2, 1)


def test_a_hook_that_fails_changes_nothing_and_is_logged_once(
    heard: tuple[Store, list[Operation]], caplog: pytest.LogCaptureFixture
) -> None:
    store, operations = heard

    def fail(operation: Operation) -> None:
        raise RuntimeError("the hook's own trouble")

    store.on_operation(fail)
    later: list[Operation] = []
    store.on_operation(later.append)
    with pytest.raises(SessionNotFoundError):
        store.sessions.get("a secret session")
    assert store.sessions.get("s").session_id == "s"
    assert len(operations) == len(later) == 2
    [record] = [record for record in caplog.records if record.name == "statestore"]
    assert record.levelname == "WARNING"
    assert "the hook's own trouble" in caplog.text
    assert "a secret session" not in caplog.text


@pytest.mark.parametrize("hook", [None, "print"])
def test_a_hook_has_to_be_callable(store: Store, hook: Any) -> None:
    with pytest.raises(InvalidValueError, match="hook"):
        store.on_operation(hook)


def test_a_hook_cannot_be_a_coroutine_function(store: Store) -> None:
    async def hook(operation: Operation) -> None: ...

    with pytest.raises(InvalidValueError, match="not awaited"):
        store.on_operation(hook)


@SYNC
def test_a_hook_may_use_the_store_and_is_not_told_of_that(heard: tuple[StateStore, list[Operation]]) -> None:
    store, operations = heard
    store.on_operation(lambda operation: store.state.increment("s", "calls"))
    store.sessions.get("s")
    store.sessions.get("s")
    assert store.state.get("s", "calls") == 2
    assert [name for name, _ in told(operations)] == ["sessions.get", "sessions.get", "state.get"]


@SYNC
def test_a_hook_is_called_in_the_thread_of_the_caller(heard: tuple[StateStore, list[Operation]]) -> None:
    store, _ = heard
    threads: list[threading.Thread] = []
    store.on_operation(lambda operation: threads.append(threading.current_thread()))
    callers = at_once(*[lambda: (store.history.append("s", words(1)), threading.current_thread())[1]] * 6)
    assert set(threads) == set(callers)
    assert len(set(threads)) == 6


def test_a_hook_is_called_on_the_event_loop(database_url: str) -> None:
    async def main() -> None:
        async with await AsyncStateStore.open(database_url) as store:
            await store.sessions.create("s")
            loops: list[asyncio.AbstractEventLoop] = []
            store.on_operation(lambda operation: loops.append(asyncio.get_running_loop()))
            await asyncio.gather(*[store.history.append("s", words(1)) for _ in range(6)])
            async with store.transaction() as tx:
                await tx.sessions.get("s")
            assert loops == [asyncio.get_running_loop()] * 8

    asyncio.run(main())


def test_a_cancelled_operation_is_told_of(database_url: str) -> None:
    async def main() -> None:
        async with await AsyncStateStore.open(database_url) as store:
            await store.sessions.create("s")
            operations: list[Operation] = []
            store.on_operation(operations.append)
            task = asyncio.create_task(store.sessions.get("s"))
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
            assert [(operation.name, operation.error) for operation in operations] == [
                ("sessions.get", "CancelledError")
            ]

    asyncio.run(main())


def test_hooks_cost_no_statements(connect: Callable[..., Store], traffic: Traffic) -> None:
    sent: list[int] = []
    for listens in (False, True):
        store = connect(traffic.url)
        store.sessions.open("s")
        operations: list[Operation] = []
        if listens:
            store.on_operation(operations.append)
        traffic.clear()
        store.history.append("s", words(2))
        store.history.read("s", last=1)
        with store.transaction() as tx:
            tx.state.set("s", "n", 1)
        sent.append(len(traffic.statements))
        assert len(operations) == (4 if listens else 0)
        store.close()
    assert sent[0] == sent[1] > 4
