"""A store's own connections stay at hand between calls: none is lost, none is made in vain, none outlives the store."""

import gc
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest

from statestore import StateStore, UnavailableError, deadline
from statestore.engine.watchdog import Watch, Watchdog
from tests.support.content import Content
from tests.support.crowd import at_once

# Seconds. A hang is noticed after these; what ends at all ends well before.
AMPLE = 20


@contextmanager
def stuck(store: StateStore, monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Connecting takes until the event is set; what is connected already is not touched."""
    engine, go_on = store._database.engine, threading.Event()
    connect = engine.raw_connection

    def wait() -> Any:
        assert go_on.wait(3 * AMPLE)
        return connect()

    with monkeypatch.context() as patched:
        patched.setattr(engine, "raw_connection", wait)
        yield go_on
        go_on.set()


def slots_of(store: StateStore) -> Any:
    return store._database._connections.slots


def test_who_waits_gets_what_comes_back_whatever_is_being_connected(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with StateStore.open(postgres_url, pool_size=2) as store:
        store.sessions.create("s")
        with stuck(store, monkeypatch) as go_on:
            held, free = threading.Event(), threading.Event()

            def hold() -> None:
                with store.transaction():
                    held.set()
                    assert free.wait(AMPLE)

            def connect() -> None:
                assert held.wait(AMPLE)
                with deadline(0.2), pytest.raises(UnavailableError):
                    store.state.get("s", "k", None)
                free.set()
                # The place of the one that is still being connected is taken, but the other's has come back.
                with deadline(AMPLE):
                    store.state.get("s", "k", None)
                assert not go_on.is_set()

            at_once(hold, connect)
            assert slots_of(store).taken == 1
        until = time.monotonic() + AMPLE
        while slots_of(store).taken and time.monotonic() < until:
            time.sleep(0.01)
        assert slots_of(store).taken == 0
        at_once(*[lambda: store.state.get("s", "k", None)] * 4)


class Contended(list[Any]):
    """Says that something is there, which another takes first."""

    def __bool__(self) -> bool:
        return True


def test_a_store_may_be_closed_while_others_put_connections_away(sqlite_url: str) -> None:
    store = StateStore.open(sqlite_url)
    store.sessions.create("s")
    connections = store._database._connections
    connections._idle = Contended(connections._idle)
    store.close()
    assert len(connections._idle) == 0


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_store_that_is_dropped_is_collected_with_its_connections(database_url: str) -> None:
    def use() -> tuple[weakref.ref[Any], Any]:
        store = StateStore.open(database_url)
        store.sessions.open("s")
        return weakref.ref(store._database._connections), store._database.engine

    dropped, engine = use()
    gc.collect()
    assert dropped() is None
    # What was out has come back to the pool.
    assert engine.pool.checkedout() == 0
    engine.dispose()


def test_the_watchdog_keeps_no_driver_beyond_its_use() -> None:
    class Driver:
        pass

    watchdog, driver = Watchdog(), Driver()
    known = weakref.ref(driver)
    watch = Watch(driver, time.monotonic())
    watchdog.begin(watch)
    until = time.monotonic() + AMPLE
    while not watch.fired and time.monotonic() < until:
        time.sleep(0.01)
    watchdog.end(watch)
    del watch, driver
    while known() is not None and time.monotonic() < until:
        time.sleep(0.01)
    assert known() is None
    watchdog.pause()


def test_a_connection_that_broke_before_its_first_use_is_not_noticed(postgres_url: str) -> None:
    with StateStore.open(postgres_url) as store:
        with psycopg.connect(postgres_url, autocommit=True) as other:
            other.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        time.sleep(0.6)
        store.sessions.create("s")
        assert store.sessions.exists("s")


def test_a_flush_that_finds_an_entry_held_to_the_end_is_tried_again_soon(postgres_url: str) -> None:
    with StateStore.open(postgres_url) as store, StateStore.open(postgres_url) as other:
        store.cache.set("k", 1)
        store.cache.get("k")
        with other.transaction() as tx:
            tx.cache.get("k")
            store.cache.flush()
        assert store.cache.stats().average_access_count == 1
        with Content(postgres_url) as content:
            assert content.rows("cache_entries")[0]["access_count"] == 1
