"""One answer about what happened: what may have been done is never reported as not done."""

from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from statestore import CommitUnknownError, NewEntry, ReadOnlyError, UnavailableError
from tests.support.crowd import at_once
from tests.support.wire import Proxy

Store = Any


@pytest.fixture
def there(connect: Callable[..., Store], proxy: Proxy) -> Store:
    store = connect(proxy.url, retry_for=1)
    store.sessions.create("s")
    return store


def test_an_append_whose_replies_are_all_lost_is_in_doubt(there: Store, proxy: Proxy) -> None:
    proxy.lose("reply", "INSERT INTO", times=10_000)
    with pytest.raises(CommitUnknownError) as caught:
        there.history.append("s", [NewEntry("x")])
    assert not caught.value.retryable
    proxy.faults_left = 0
    assert [entry.content for entry in there.history.read("s")] == ["x"]


def test_an_append_that_never_arrived_was_not_done(there: Store, proxy: Proxy) -> None:
    proxy.cut()
    proxy.lose("request", "session", times=10_000)
    with pytest.raises((UnavailableError, CommitUnknownError)):
        there.history.append("s", [NewEntry("x")])
    proxy.faults_left = 0
    assert there.history.read("s") == []


def test_an_append_whose_reply_was_lost_ends_well_when_it_can_find_out(there: Store, proxy: Proxy) -> None:
    for n in range(10):
        proxy.lose("reply", "INSERT INTO")
        [entry] = there.history.append("s", [NewEntry(n)])
        assert entry.seq == n + 1
    assert there.history.count("s") == 10


def test_a_read_that_is_repeated_asks_for_all_keys_of_an_iterator(there: Store, proxy: Proxy) -> None:
    there.state.set_many("s", {"a": 1, "b": 2})
    there.cache.set_many({"a": 1, "b": 2})
    for read, found in (
        (lambda: there.state.get_many("s", iter("ab")), {"a": 1, "b": 2}),
        (lambda: there.state.get_all_many(iter(["s"])), {"s": {"a": 1, "b": 2}}),
        (lambda: list(there.sessions.load_many(iter(["s"]))), ["s"]),
        (lambda: list(there.history.last_many(iter(["s"]), 1)), ["s"]),
        (lambda: there.cache.get_many(iter("ab")), {"a": 1, "b": 2}),
    ):
        proxy.lose("reply", "SELECT")
        assert read() == found
        assert proxy.faults_left == 0


def test_appends_of_a_group_whose_reply_was_lost_are_done_once(there: Store, proxy: Proxy) -> None:
    names = [f"s{n}" for n in range(12)]
    for name in names:
        there.sessions.create(name)
    for _ in range(5):
        proxy.lose("reply", "INSERT INTO", times=2)
        at_once(*[lambda name=name: there.history.append(name, [NewEntry("x")]) for name in names])  # type: ignore[misc]
    assert [there.history.count(name) for name in names] == [5] * 12


def test_a_write_that_was_lost_before_the_database_refused_writes_is_in_doubt(
    there: Store, proxy: Proxy, postgres_url: str
) -> None:
    proxy.lose("reply", "INSERT INTO")
    with psycopg.connect(postgres_url, autocommit=True) as owner:
        name = owner.info.dbname
        # The next connection finds a server that has become a standby.
        owner.execute(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')
        with pytest.raises(CommitUnknownError):
            there.history.append("s", [NewEntry("x")])
        with pytest.raises(ReadOnlyError):
            there.history.append("s", [NewEntry("y")])
        owner.execute("SET default_transaction_read_only = off")
        owner.execute(f'ALTER DATABASE "{name}" RESET default_transaction_read_only')
    proxy.cut()
    assert [entry.content for entry in there.history.read("s")] == ["x"]


def test_run_transaction_repeats_what_the_database_undid(there: Store, proxy: Proxy, world: str) -> None:
    times = []

    def work(tx: Any) -> int:
        times.append(1)
        [entry] = tx.history.append("s", [NewEntry(len(times))])
        return int(entry.seq)

    async def work_async(tx: Any) -> int:
        times.append(1)
        [entry] = await tx.history.append("s", [NewEntry(len(times))])
        return int(entry.seq)

    proxy.lose("reply", "INSERT INTO")
    assert there.run_transaction(work if world == "sync" else work_async) == 1
    assert len(times) == 2
    assert [entry.content for entry in there.history.read("s")] == [2]
    proxy.lose("reply", "COMMIT")
    with pytest.raises(CommitUnknownError):
        there.run_transaction(work if world == "sync" else work_async)
    assert len(times) == 3


def test_a_transaction_that_only_reads_sees_one_moment_and_writes_nothing(
    open_store: Callable[..., Store],
) -> None:
    store, other = open_store(), open_store()
    store.sessions.create("s")
    store.state.set("s", "k", 1)
    with store.transaction(read_only=True) as tx:
        assert tx.state.get("s", "k") == 1
        other.state.set("s", "k", 2)
        assert tx.state.get("s", "k") == 1
        with pytest.raises(ReadOnlyError):
            tx.state.set("s", "k", 3)
        with pytest.raises(ReadOnlyError):
            tx.history.append("s", [NewEntry("x")])
        assert tx.state.get("s", "k") == 1
    assert store.state.get("s", "k") == 2
