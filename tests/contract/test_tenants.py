"""A tenant that spreads over several namespaces, and operations that look over all of them."""

from collections.abc import Callable
from datetime import timedelta
from queue import Queue
from typing import Any

import pytest

from statestore import InvalidValueError, StateStore, Sweeper, SweepReport, spread
from tests.support.clock import MovableClock
from tests.support.content import Content

Store = Any

USERS = tuple(f"user-{number}" for number in range(8))
SHARDS = tuple(f"acme/{number}" for number in range(4))
# Beside acme's, in the order of their names: a prefix must not take them for acme's.
OTHERS = ("acme", "acme-eu/1", "acme0", "default", "ac%e/1", "acme/_", "ACME/1")


def at_home(user_id: str) -> str:
    return spread("acme", user_id, shards=4)


@pytest.fixture
def stores(open_store: Callable[..., Store], clock: MovableClock) -> dict[str, Store]:
    """A store of each namespace. `acme/_` is acme's, too."""
    assert {at_home(user_id) for user_id in USERS} == set(SHARDS)
    return {name: open_store(namespace=name, clock=clock) for name in (*SHARDS, *OTHERS)}


def test_a_sweep_is_of_the_namespaces_that_are_asked_for(stores: dict[str, Store], clock: MovableClock) -> None:
    for store in stores.values():
        store.sessions.create("short", ttl=timedelta(minutes=1))
    clock.advance(hours=1)
    operator = stores["default"]
    due = operator.sweep(namespaces="acme/*", dry_run=True)
    report = operator.sweep(namespaces="acme/*")
    assert due.kinds == report.kinds
    assert report["expired_sessions"].rows == 5
    # The store's own only if it is among them.
    assert stores["acme/1"].sweep().rows == 0
    assert operator.sweep(namespaces=["acme", "default", "nowhere"])["expired_sessions"].rows == 2
    assert operator.sweep(all_namespaces=True)["expired_sessions"].rows == 4


def test_the_limits_of_a_store_hold_for_its_own_namespace_only(
    stores: dict[str, Store], open_store: Callable[..., Store], clock: MovableClock
) -> None:
    for store in stores.values():
        store.cache.set_many({f"k{n}": n for n in range(5)})
    assert open_store(namespace="acme", clock=clock, cache_max_entries=2).sweep(namespaces="acme/*").rows == 0
    assert open_store(namespace="acme/3", clock=clock, cache_max_entries=2).sweep(namespaces="acme/*").rows == 3
    assert [stores[name].cache.stats().entries for name in SHARDS] == [5, 5, 5, 2]


def test_what_cannot_be_swept_is_refused(stores: dict[str, Store]) -> None:
    with pytest.raises(InvalidValueError, match="all_namespaces"):
        stores["acme"].sweep(namespaces="acme/*", all_namespaces=True)
    with pytest.raises(InvalidValueError, match="at least one"):
        stores["acme"].sweep(namespaces=[])


def test_a_sweeper_sweeps_the_namespaces_that_are_asked_for(database_url: str, content: Content) -> None:
    with StateStore.open(database_url) as operator:
        for name in (*SHARDS, *OTHERS):
            with StateStore.open(database_url, namespace=name) as store:
                store.sessions.create("short", ttl=timedelta(microseconds=1))
        found: Queue[SweepReport] = Queue()
        every = timedelta(hours=1)
        with Sweeper(operator, every=every, jitter=timedelta(0), on_sweep=found.put, namespaces="acme/*"):
            assert found.get(timeout=20)["expired_sessions"].rows == 5
    assert {row["namespace"] for row in content.rows("sessions")} == {*OTHERS} - {"acme/_"}
