"""Every call ends within its time, whatever the network does, and tells what it knows of its write."""

import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import psycopg
import pytest

import statestore
from statestore import CommitUnknownError, InvalidValueError, NewEntry, UnavailableError
from statestore.engine.sql import Statement
from tests.support.content import Content
from tests.support.crowd import at_once
from tests.support.wire import Proxy

Store = Any

# Seconds. A test of a hang waits for it no longer: what ends at all here ends well before.
AMPLE = 25

SLEEP = Statement("SELECT pg_sleep(60)")


@pytest.fixture
def there(connect: Callable[..., Store], proxy: Proxy) -> Store:
    store = connect(proxy.url, timeout=1.5)
    store.sessions.create("s")
    store.state.set("s", "k", 0)
    return store


CALLS: dict[str, Callable[[Store], object]] = {
    "get": lambda store: store.state.get("s", "k"),
    "read": lambda store: store.history.read("s", last=5),
    "set": lambda store: store.state.set("s", "k", 1),
    "append": lambda store: store.history.append("s", [NewEntry("x")]),
    "fork": lambda store: store.sessions.fork("s"),
    "cache": lambda store: store.cache.set("k", 1),
    "load": lambda store: store.sessions.load("s"),
    "sweep": lambda store: store.sweep(),
}


def ended(call: Callable[[], object]) -> BaseException | None:
    """What a call raised. It has to end."""
    outcome: list[BaseException | None] = []

    def run() -> None:
        try:
            call()
        except BaseException as exc:
            outcome.append(exc)
        else:
            outcome.append(None)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(AMPLE)
    assert outcome, "the call never came to its end"
    return outcome[0]


@pytest.mark.parametrize("name", CALLS)
def test_a_call_ends_behind_a_network_that_swallows_everything(there: Store, proxy: Proxy, name: str) -> None:
    proxy.swallow()
    assert isinstance(ended(lambda: CALLS[name](there)), UnavailableError | CommitUnknownError)
    proxy.recover()
    CALLS[name](there)


def test_a_read_that_was_swallowed_wrote_nothing_and_a_write_may_have(there: Store, proxy: Proxy) -> None:
    proxy.swallow("state_entries")
    assert isinstance(ended(lambda: there.state.get("s", "k")), UnavailableError)
    proxy.swallow("INSERT INTO")
    assert isinstance(ended(lambda: there.history.append("s", [NewEntry("x")])), CommitUnknownError)


def test_a_transaction_ends_where_its_connection_died(there: Store, proxy: Proxy) -> None:
    def inside() -> None:
        with there.transaction() as tx:
            tx.state.set("s", "k", 1)
            proxy.swallow()
            tx.state.set("s", "k", 2)

    def commit() -> None:
        with there.transaction() as tx:
            tx.state.set("s", "k", 3)
            proxy.swallow("COMMIT")

    assert isinstance(ended(inside), UnavailableError)
    proxy.recover()
    assert there.state.get("s", "k") == 0
    assert isinstance(ended(commit), CommitUnknownError)
    assert there.state.get("s", "k") == 0


def test_a_narrower_deadline_counts(connect: Callable[..., Store], proxy: Proxy, world: str) -> None:
    if world != "sync":
        pytest.skip("the portal runs each call in a task of its own; tests/concurrency has the async twin")
    store = connect(proxy.url, timeout=1000)
    store.sessions.create("s")
    proxy.swallow()

    def read() -> None:
        with statestore.deadline(1000), statestore.deadline(0.3), statestore.deadline(timedelta(hours=1)):
            store.history.read("s")

    assert isinstance(ended(read), UnavailableError)


def test_one_dead_connection_does_not_stop_its_session(connect: Callable[..., Store], proxy: Proxy) -> None:
    store = connect(proxy.url, timeout=AMPLE / 3)
    store.sessions.create("s")
    proxy.swallow("INSERT INTO")
    dead = threading.Thread(target=lambda: ended(lambda: store.history.append("s", [NewEntry("dead")])), daemon=True)
    dead.start()
    while proxy.faults_left:
        time.sleep(0.01)
    alive = threading.Event()

    def others() -> None:
        for n in range(10):
            store.history.append("s", [NewEntry(n)])
        alive.set()

    threading.Thread(target=others, daemon=True).start()
    assert alive.wait(AMPLE)
    assert dead.is_alive(), "the others have waited for the dead one"
    dead.join(AMPLE)
    assert [entry.content for entry in store.history.read("s")] == list(range(10))


def set_in_a_transaction(store: Store) -> None:
    with store.transaction() as tx:
        tx.state.set("s", "k", 1)


WAYS: dict[str, Callable[[Store], object]] = {"call": CALLS["set"], "transaction": set_in_a_transaction}


@pytest.mark.parametrize("way", WAYS)
def test_a_connection_whose_call_was_given_up_is_not_used_again(
    connect: Callable[..., Store], postgres_url: str, way: str
) -> None:
    """What asks the server to end the call may come there late, and would end another."""
    store = connect(postgres_url, timeout=0.7, pool_size=1)
    store.sessions.create("s")
    with (
        psycopg.connect(postgres_url, autocommit=True) as admin,
        psycopg.connect(postgres_url) as holder,
    ):
        store.state.set("s", "k", 0)
        before = backends(admin, holder)
        assert before
        holder.execute("SELECT 1 FROM statestore.sessions WHERE namespace = 'default' FOR UPDATE")
        with pytest.raises(UnavailableError):
            WAYS[way](store)
        holder.rollback()
        store.state.set("s", "k", 2)
        # A server takes a moment to see that its client has gone.
        for _ in range(1000):
            if not before & backends(admin, holder):
                break
            time.sleep(0.01)
        assert not before & backends(admin, holder)


def test_a_batch_that_was_given_up_leaves_its_connection(postgres_url: str) -> None:
    with (
        psycopg.connect(postgres_url, autocommit=True) as admin,
        statestore.StateStore.open(postgres_url, pool_size=1) as store,
    ):
        before = backends(admin)
        assert before
        with pytest.raises(Exception, match="canceling statement"):
            store._database.run_batch(lambda link: link.run(SLEEP), time.monotonic() + 0.3)
        store.sessions.create("s")
        assert not before & backends(admin)


def backends(*besides: psycopg.Connection[Any]) -> set[int]:
    """The processes of the server that serve this database, but for those of these connections."""
    query = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND backend_type = 'client backend'"
    return {row[0] for row in besides[0].execute(query)} - {one.info.backend_pid for one in besides}


def test_who_waits_for_a_lock_is_told_that_nothing_was_written(
    connect: Callable[..., Store], database_url: str, content: Content
) -> None:
    store = connect(database_url, timeout=0.7)
    store.sessions.create("s")
    store.state.set("s", "k", 0)
    begun, done = threading.Event(), threading.Event()

    def hold() -> None:
        if content.is_sqlite:
            with connect(database_url).transaction() as tx:
                tx.state.set("s", "other", 1)
                begun.set()
                done.wait(AMPLE)
        else:
            with psycopg.connect(database_url) as holder:
                holder.execute("SELECT 1 FROM statestore.sessions WHERE namespace = 'default' FOR UPDATE")
                begun.set()
                done.wait(AMPLE)

    holder = threading.Thread(target=hold, daemon=True)
    holder.start()
    assert begun.wait(AMPLE)
    for call in ("set", "append"):
        assert isinstance(ended(lambda call=call: CALLS[call](store)), UnavailableError)  # type: ignore[misc]
    done.set()
    holder.join(AMPLE)
    # What was given up is not done later, either.
    assert store.state.get("s", "k") == 0
    assert store.history.count("s") == 0
    store.state.set("s", "k", 1)


def test_callers_who_wait_for_a_connection_wait_until_their_own_deadline(
    connect: Callable[..., Store], postgres_url: str, world: str
) -> None:
    if world == "engine":
        pytest.skip("a caller's pool has a patience of its own")
    store = connect(postgres_url, pool_size=1, timeout=1)
    store.sessions.create("s")
    with store.transaction() as tx:
        tx.state.get_all("s")
        errors = [ended(lambda: store.state.set("s", "k", 1)) for _ in range(2)]
    assert [type(error) for error in errors] == [UnavailableError] * 2
    store.state.set("s", "k", 1)


def test_small_appends_do_not_wait_for_a_large_one(store: Store) -> None:
    store.sessions.create("large")
    for n in range(8):
        store.sessions.create(f"s{n}")
    large = {"role": "user", "content": [{"type": "text", "text": "x" * 3_000_000}]}

    def small(n: int) -> None:
        for _ in range(10):
            store.history.append(f"s{n}", [{"role": "user", "content": "x" * 30_000}])

    def big() -> None:
        for _ in range(3):
            store.history.append("large", [large])

    at_once(big, *[lambda n=n: small(n) for n in range(8)])  # type: ignore[misc]
    assert store.history.count("large") == 3
    assert [store.history.count(f"s{n}") for n in range(8)] == [10] * 8


@pytest.mark.parametrize("argument", ["timeout", "retry_for"])
@pytest.mark.parametrize("value", [0, -1, float("inf"), float("nan"), True, "5", None, timedelta(0)])
def test_a_wait_has_to_be_positive(connect: Callable[..., Store], sqlite_url: str, argument: str, value: Any) -> None:
    with pytest.raises(InvalidValueError, match=argument):
        connect(sqlite_url, **{argument: value})
