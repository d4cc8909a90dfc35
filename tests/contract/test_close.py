"""A store that was closed answers nothing any more, and says so."""

import gc
import inspect
import warnings
from collections.abc import Callable
from typing import Any

import pytest

from statestore import NewEntry, StateStore, StoreClosedError
from statestore.operations.base import Operations, operation
from tests.support.content import Content
from tests.support.crowd import at_once
from tests.support.engines import sync_engine

Store = Any


def operations(groups: Any) -> list[tuple[str, str]]:
    """Every operation of every group: what is added later is tested too."""
    names = []
    for group_name, group in vars(groups).items():
        if isinstance(group, Operations):
            for name, member in inspect.getmembers_static(type(group)):
                if isinstance(member, operation):
                    names.append((group_name, name))
    return sorted(names)


def call(groups: Any, group: str, name: str) -> Any:
    """Call an operation with something for each argument that it needs."""
    method = getattr(getattr(groups, group), name)
    needed = [p for p in inspect.signature(method).parameters.values() if p.default is p.empty]
    kwargs = {p.name: "x" for p in needed if p.kind is p.KEYWORD_ONLY}
    args = ["x" for p in needed if p.kind is p.POSITIONAL_OR_KEYWORD]
    return method(*args, **kwargs)


with StateStore.open("sqlite://") as _store:
    OPERATIONS = operations(_store)


def test_the_operations_are_known() -> None:
    assert {group for group, _ in OPERATIONS} >= {"sessions", "history", "state"}
    assert len(OPERATIONS) > 25


def test_after_close_every_operation_says_so(store: Store) -> None:
    store.sessions.create("s")
    store.close()
    for group, name in OPERATIONS:
        with pytest.raises(StoreClosedError):
            call(store, group, name)


def test_after_close_no_transaction_begins(store: Store) -> None:
    store.close()
    with pytest.raises(StoreClosedError), store.transaction():
        pass


def test_a_store_may_be_closed_twice(store: Store) -> None:
    store.close()
    store.close()


def test_a_store_closes_at_the_end_of_its_block(open_store: Callable[..., Store]) -> None:
    store = open_store()
    with store:
        store.sessions.create("s")
    with pytest.raises(StoreClosedError):
        store.sessions.get("s")
    with pytest.raises(StoreClosedError), store:
        pass


def test_after_its_end_a_transaction_does_nothing(store: Store) -> None:
    store.sessions.create("s")
    with store.transaction() as tx:
        tx.history.append("s", [NewEntry(1)])
    for group, name in OPERATIONS:
        if group in ("sessions", "history", "state"):
            with pytest.raises(StoreClosedError):
                call(tx, group, name)
    assert store.history.count("s") == 1


def test_after_a_rollback_a_transaction_does_nothing(store: Store) -> None:
    store.sessions.create("s")
    with pytest.raises(ZeroDivisionError), store.transaction() as tx:
        raise ZeroDivisionError
    with pytest.raises(StoreClosedError):
        tx.history.append("s", [NewEntry(1)])


def test_an_engine_of_the_callers_is_left_open(database_url: str) -> None:
    engine = sync_engine(database_url)
    with StateStore(engine) as store:
        store.sessions.create("s")
    with engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT 1").scalar() == 1
    with StateStore(engine) as store:
        assert store.sessions.exists("s")
    engine.dispose()


def test_nothing_is_left_connected(postgres_url: str, connect: Callable[..., Store]) -> None:
    # What earlier tests of this process have left is not this store's.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()
    store = connect(postgres_url)
    store.sessions.create("s")
    store.close()
    gc.collect()
    others = "SELECT count(*) AS n FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    with Content(postgres_url) as content:
        for _ in range(6000):  # A backend takes a moment to go.
            if content.query(others)[0]["n"] == 0:
                return
            content.query("SELECT pg_sleep(0.005)")
    raise AssertionError("a connection was left open")


@pytest.mark.parametrize("world", ["sync", "async"], indirect=True)
def test_a_close_among_calls_lets_each_end(open_store: Callable[..., Store]) -> None:
    """Each call is answered, or says that the store is closed; none hangs and none fails in another way."""
    store = open_store()
    store.sessions.create("s")

    def work() -> int:
        done = 0
        try:
            for n in range(100):
                store.history.append("s", [NewEntry(n)])
                done += 1
        except StoreClosedError:
            pass
        return done

    def close() -> int:
        while store.history.count("s") < 5:
            pass
        store.close()
        return 0

    done = sum(at_once(*[work] * 6, close))
    assert open_store().history.count("s") == done
