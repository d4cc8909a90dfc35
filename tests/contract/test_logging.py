"""What a store logs: retries, deadlocks, lost connections and slow calls, and never anybody's data."""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import timedelta
from functools import partial
from typing import Any

import pytest

from statestore import InvalidValueError, NewEntry, Operation, SessionExistsError, StateStoreError, UnavailableError
from statestore.engine import telemetry
from tests.contract.test_connections import terminate
from tests.support.content import Content
from tests.support.crowd import at_once
from tests.support.wire import Proxy

Store = Any

MARKER = "x7marker7x"


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    with caplog.at_level(logging.DEBUG):
        yield caplog


def lines(log: pytest.LogCaptureFixture, level: int) -> list[str]:
    found = [record.getMessage() for record in log.records if record.name == "statestore" and record.levelno == level]
    log.clear()
    return found


def test_a_retry_is_told_once_with_its_reason(
    connect: Callable[..., Store], proxy: Proxy, log: pytest.LogCaptureFixture
) -> None:
    store = connect(proxy.url)
    store.sessions.create("s")
    log.clear()
    proxy.lose("request", "history_entries")
    store.history.read("s")
    [line] = [record for record in log.records if record.levelno == logging.INFO and record.name == "statestore"]
    assert line.getMessage().startswith("history.read failed (UnavailableError")
    assert line.getMessage().endswith("; attempt 2 follows in 0.000 seconds")
    assert not [record for record in log.records if record.levelno >= logging.INFO and record.name != "statestore"]


def test_a_retry_that_waits_says_how_long(
    connect: Callable[..., Store], proxy: Proxy, log: pytest.LogCaptureFixture
) -> None:
    store = connect(proxy.url)
    store.sessions.create("s")
    log.clear()
    proxy.lose("request", "history_entries", times=3)
    store.history.read("s")
    told = lines(log, logging.INFO)
    assert [line.partition("; ")[2].split()[1] for line in told] == ["2", "3", "4"]
    assert 0.02 <= float(told[1].split()[-2]) <= 0.041
    assert 0.04 <= float(told[2].split()[-2]) <= 0.061


def test_tries_to_begin_a_transaction_are_told(
    connect: Callable[..., Store], proxy: Proxy, log: pytest.LogCaptureFixture
) -> None:
    store = connect(proxy.url)
    store.sessions.create("s")
    log.clear()
    proxy.lose("request", "BEGIN")
    with store.transaction() as tx:
        tx.sessions.get("s")
    lost = [record for record in log.records if record.name == "statestore" and record.levelno == logging.WARNING]
    assert len(lost) == 1
    [line] = lines(log, logging.INFO)
    assert line.startswith("the beginning of a transaction failed (UnavailableError")


def test_a_transaction_that_is_repeated_is_told(
    connect: Callable[..., Store], proxy: Proxy, log: pytest.LogCaptureFixture
) -> None:
    store = connect(proxy.url)
    store.sessions.create("s")
    log.clear()
    proxy.lose("request", "INSERT INTO")
    store.run_transaction(lambda tx: tx.history.append("s", [NewEntry("x")]))
    [line] = lines(log, logging.INFO)
    assert line.startswith("transaction failed (UnavailableError")
    assert "; attempt 2 follows in 0.0" in line


@pytest.mark.parametrize("world", ["sync"], indirect=True)
def test_a_deadlock_is_told(connect: Callable[..., Store], postgres_url: str, log: pytest.LogCaptureFixture) -> None:
    store = connect(postgres_url)
    store.sessions.create("a")
    store.sessions.create("b")
    both = threading.Barrier(2)
    log.clear()

    def work(first: str, second: str) -> None:
        waited = False

        def move(tx: Any) -> None:
            nonlocal waited
            tx.history.append(first, [NewEntry("x")])
            if not waited:
                waited = True
                both.wait()
            tx.history.append(second, [NewEntry("x")])

        store.run_transaction(move)

    at_once(partial(work, "a", "b"), partial(work, "b", "a"))
    told = lines(log, logging.INFO)
    assert "history.append failed (UnavailableError, 40P01, a deadlock), and its transaction is undone" in told
    assert any(line.startswith("transaction failed (UnavailableError, 40P01, a deadlock); attempt 2") for line in told)


@pytest.mark.parametrize("world", ["sync", "async"], indirect=True)
def test_a_batch_that_failed_is_told_once(
    connect: Callable[..., Store], proxy: Proxy, log: pytest.LogCaptureFixture
) -> None:
    store = connect(proxy.url)
    sessions = [f"s{n}" for n in range(8)]
    for session in sessions:
        store.sessions.create(session)
    operations: list[Operation] = []
    store.on_operation(operations.append)
    for _ in range(20):
        proxy.lose("request", "unnest")
        at_once(*[partial(store.history.append, session, [NewEntry("x")]) for session in sessions])
        told = [line for line in lines(log, logging.INFO) if "a batch of" in line]
        if told:
            break
    proxy.faults_left = 0
    assert len(told) == 1
    assert "calls of history.append failed (UnavailableError" in told[0]
    assert {operation.error for operation in operations} == {None}
    assert max(operation.attempts for operation in operations) >= 2


@pytest.mark.parametrize("world", ["sync", "async", "engine"], indirect=True)
def test_a_loss_is_told_once_for_all_its_connections(
    connect: Callable[..., Store], postgres_url: str, log: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = connect(postgres_url)
    store.sessions.create("s")
    at_once(*[partial(store.sessions.get, "s")] * 5)
    lines(log, logging.WARNING)
    assert terminate(postgres_url) >= 1
    at_once(*[partial(store.sessions.get, "s")] * 5)
    [line] = lines(log, logging.WARNING)
    assert line.startswith("a connection to the database was lost (")
    monkeypatch.setattr(telemetry, "_OUTAGE", 0.0)
    assert terminate(postgres_url) >= 1
    store.sessions.get("s")
    assert len(lines(log, logging.WARNING)) >= 1, "a later loss is another"


def test_a_connection_that_is_lost_inside_a_transaction_is_told(
    connect: Callable[..., Store], proxy: Proxy, log: pytest.LogCaptureFixture
) -> None:
    store = connect(proxy.url)
    store.sessions.create("s")
    lines(log, logging.WARNING)
    proxy.lose("request", "INSERT INTO")
    with pytest.raises(UnavailableError), store.transaction() as tx:
        tx.history.append("s", [NewEntry("x")])
    assert len(lines(log, logging.WARNING)) == 1


def test_a_connection_that_is_lost_in_a_commit_is_told(
    connect: Callable[..., Store], proxy: Proxy, log: pytest.LogCaptureFixture
) -> None:
    store = connect(proxy.url)
    store.sessions.create("s")
    lines(log, logging.WARNING)
    proxy.lose("reply", "COMMIT")
    with pytest.raises(StateStoreError), store.transaction() as tx:
        tx.history.append("s", [NewEntry("x")])
    assert len(lines(log, logging.WARNING)) == 1


def test_a_slow_call_is_told(open_store: Callable[..., Store], log: pytest.LogCaptureFixture) -> None:
    store = open_store(slow_call=timedelta(microseconds=1))
    store.sessions.create("s")
    [line] = lines(log, logging.WARNING)
    assert line.startswith("sessions.create was slow: 0.")
    with store.transaction() as tx:
        tx.sessions.get("s")
    assert [line.split()[0] for line in lines(log, logging.WARNING)] == ["sessions.get", "transaction"]


def test_by_default_and_below_the_limit_no_call_is_slow(
    open_store: Callable[..., Store], log: pytest.LogCaptureFixture
) -> None:
    for options in ({}, {"slow_call": 60}, {"slow_call": None}):
        open_store(**options).sessions.open("s")
    assert lines(log, logging.WARNING) == []


@pytest.mark.parametrize("value", [0, -1, "1", True])
def test_slow_call_has_to_be_a_duration(open_store: Callable[..., Store], value: Any) -> None:
    with pytest.raises(InvalidValueError, match="slow_call"):
        open_store(slow_call=value)


def everything(store: Store) -> None:
    """Puts the marker wherever a caller can, so that it would be in whatever is told of any of it."""
    content = {"role": "user", "content": MARKER}
    store.sessions.open(MARKER, user_id=MARKER, title=MARKER, metadata={MARKER: MARKER}, agent_name=MARKER)
    store.history.append(MARKER, [NewEntry(content, metadata={MARKER: MARKER}, tool_name=MARKER)])
    store.history.read(MARKER)
    store.state.set(MARKER, MARKER, {MARKER: [MARKER]})
    store.state.get(MARKER, MARKER)
    store.cache.set(MARKER, MARKER, tags=[MARKER], agent_name=MARKER)
    store.cache.get(MARKER)
    store.cache.get_or_compute(f"{MARKER} 2", lambda: MARKER)
    with suppress(SessionExistsError):
        store.sessions.fork(MARKER, f"{MARKER} fork")
    with store.transaction() as tx:
        tx.history.append(MARKER, [content])
        tx.state.increment(MARKER, f"{MARKER} n")
    refused: list[Callable[[], Any]] = [
        lambda: store.sessions.get(f"none {MARKER}"),
        lambda: store.sessions.create(MARKER),
        lambda: store.state.get(MARKER, f"none {MARKER}"),
        lambda: store.state.set(MARKER, MARKER, object()),
        lambda: store.history.append(MARKER, [NewEntry(MARKER, entry_id=MARKER)], after_seq=99),
        lambda: store.state.increment(MARKER, MARKER),
    ]
    for call in refused:
        with suppress(StateStoreError):
            call()
        with suppress(StateStoreError), store.transaction() as tx:
            tx.sessions.get(f"none {MARKER}")


def test_nobodys_data_is_in_a_log_record_or_an_operation(
    open_store: Callable[..., Store], log: pytest.LogCaptureFixture
) -> None:
    store = open_store(slow_call=1e-6, retry_for=1)
    operations: list[Operation] = []

    def fail(operation: Operation) -> None:
        operations.append(operation)
        raise RuntimeError(operation.name)

    store.on_operation(fail)
    everything(store)
    assert len(log.records) > 20
    check(log, operations)


def test_nobodys_data_is_in_the_log_when_connections_are_lost(
    connect: Callable[..., Store], proxy: Proxy, log: pytest.LogCaptureFixture
) -> None:
    store = connect(proxy.url, retry_for=1)
    operations: list[Operation] = []
    store.on_operation(operations.append)
    for what, fragment in (("request", "session"), ("reply", "INSERT INTO"), ("reply", "COMMIT")):
        proxy.lose(what, fragment, times=4)  # type: ignore[arg-type]
        with suppress(StateStoreError):
            everything(store)
    proxy.faults_left = 0
    everything(store)
    assert any("attempt 2 follows" in record.getMessage() for record in log.records)
    assert any("was lost" in record.getMessage() for record in log.records)
    check(log, operations)


def test_nobodys_data_is_in_the_log_when_others_hold_it(
    open_store: Callable[..., Store], content: Content, log: pytest.LogCaptureFixture
) -> None:
    store = open_store(timeout=0.5, slow_call=0.1)
    store.sessions.create(MARKER)
    operations: list[Operation] = []
    store.on_operation(operations.append)
    content.query("BEGIN IMMEDIATE" if content.is_sqlite else "BEGIN")
    if not content.is_sqlite:
        content.query("LOCK TABLE history_entries, sessions IN EXCLUSIVE MODE")
    with pytest.raises(StateStoreError):
        store.history.append(MARKER, [NewEntry(MARKER)])
    content.query("ROLLBACK")
    assert any("history.append was slow" in record.getMessage() for record in log.records)
    check(log, operations)


def check(log: pytest.LogCaptureFixture, operations: list[Operation]) -> None:
    assert operations
    assert MARKER not in repr(operations)
    formatter = logging.Formatter()
    # The driver of the world on an engine of the caller's tells its own statements at DEBUG.
    for record in [record for record in log.records if record.name != "aiosqlite"]:
        assert MARKER not in formatter.format(record), record
        assert MARKER not in repr(vars(record)), record
