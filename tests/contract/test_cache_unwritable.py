"""A cache that cannot be written still serves: what is computed is returned, and one warning tells of it."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Pool, event

from statestore import DatabaseError, ReadOnlyError
from tests.support.clock import MovableClock
from tests.support.content import Content
from tests.support.crowd import at_once
from tests.support.portal import BlockingStore

Store = Any


class Computation:
    """Counts how often it runs."""

    def __init__(self, store: Store, value: Any = "computed") -> None:
        self.times = 0
        self._value = value
        self._is_async = isinstance(store, BlockingStore)

    def __call__(self) -> Any:
        self.times += 1
        return self._later() if self._is_async else self._value

    async def _later(self) -> Any:
        return self._value


@contextmanager
def read_only(content: Content) -> Iterator[None]:
    """New connections accept no writes, as those to a standby or to a file on a disk that is mounted so."""
    if content.is_sqlite:

        def refuse(connection: Any, record: Any, fairy: Any) -> None:
            cursor = connection.cursor()
            cursor.execute("PRAGMA query_only = ON")
            cursor.close()

        event.listen(Pool, "checkout", refuse)
        try:
            yield
        finally:
            event.remove(Pool, "checkout", refuse)
    else:
        [database] = content.query("SELECT current_database() AS name")
        content.query(f"ALTER DATABASE {database['name']} SET default_transaction_read_only = on")
        yield


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name.split(".")[0] == "statestore"]


def test_what_is_computed_is_returned_and_one_warning_says_so(
    open_store: Callable[..., Store], content: Content, caplog: pytest.LogCaptureFixture
) -> None:
    open_store().cache.set("there", {"a": 1})
    caplog.set_level(logging.WARNING, "statestore")
    with read_only(content):
        store = open_store()
        assert store.cache.get("there") == {"a": 1}
        computation = Computation(store, ["SECRET"])
        first = store.cache.get_or_compute("k", computation)
        second = store.cache.get_or_compute("k", computation)
        assert (first, second) == (["SECRET"], ["SECRET"])
        assert first is not second
        assert computation.times == 2
        assert store.cache.get_or_compute("there", computation) == {"a": 1}
        # Counts that are due are not written either, which fails nothing.
        now = store._cache_state._timer() + 1000
        store._cache_state._timer = lambda: now
        assert store.cache.get("there") == {"a": 1}
        assert store.cache.entry("there").access_count == 3
        assert store.cache.stats().hits == 3
        store.cache.flush()
        with pytest.raises(ReadOnlyError):
            store.cache.set("k", 1)
        [said] = warnings(caplog)
        assert "is not writable" in said
        assert "SECRET" not in said
        other = open_store()
        assert other.cache.get_or_compute("k", Computation(other)) == "computed"
        assert len(warnings(caplog)) == 2
        other.close()
    assert content.query("SELECT key FROM cache_entries") == [{"key": "there"}]
    assert content.rows("cache_claims") == []


def test_many_at_once_are_served(
    open_store: Callable[..., Store], content: Content, caplog: pytest.LogCaptureFixture
) -> None:
    with read_only(content):
        store = open_store()
        computation = Computation(store)
        for round in range(10):
            calls = [lambda: store.cache.get_or_compute(f"k{round}", computation)] * 4  # noqa: B023
            assert at_once(*calls) == ["computed"] * 4
        assert computation.times >= 10
    assert len(warnings(caplog)) == 1


def test_an_error_of_the_computation_is_not_hidden(open_store: Callable[..., Store], content: Content) -> None:
    def fail() -> Any:
        raise ZeroDivisionError

    with read_only(content):
        store = open_store()
        with pytest.raises(ZeroDivisionError):
            store.cache.get_or_compute("k", fail)
        for bad in (object(), float("nan")):
            with pytest.raises(ValueError, match=r"^value: "):
                store.cache.get_or_compute("k", Computation(store, bad))


def test_a_stale_value_is_computed_anew(
    open_store: Callable[..., Store], content: Content, clock: MovableClock
) -> None:
    hour = timedelta(hours=1)
    open_store(clock=clock).cache.set("k", "old", ttl=timedelta(seconds=1), stale_ttl=hour)
    clock.advance(seconds=2)
    with read_only(content):
        store = open_store(clock=clock)
        assert store.cache.get_or_compute("k", Computation(store), stale_ttl=hour) == "computed"


@pytest.mark.parametrize("table", ["cache_claims", "cache_entries"])
def test_a_full_disk_keeps_nothing_and_fails_nothing(
    connect: Callable[..., Store], postgres_url: str, table: str, caplog: pytest.LogCaptureFixture
) -> None:
    content = Content(postgres_url)
    store = connect(postgres_url)
    content.fill_up(table)
    assert store.cache.get_or_compute("k", Computation(store)) == "computed"
    assert store.cache.get_or_compute("k", Computation(store), tags=["t"]) == "computed"
    assert len(warnings(caplog)) == 1
    assert content.rows("cache_claims") == []
    content.close()


def test_a_value_that_the_database_refuses_is_returned(
    store: Store, content: Content, caplog: pytest.LogCaptureFixture
) -> None:
    content.fill_up("cache_entries")
    computation = Computation(store)
    assert store.cache.get_or_compute("k", computation) == "computed"
    assert store.cache.get_or_compute("k", computation) == "computed"
    assert len(warnings(caplog)) == 1
    assert content.rows("cache_claims") == []
    content.query("DROP TRIGGER filled" + ("" if content.is_sqlite else " ON cache_entries"))
    assert store.cache.get_or_compute("k", computation) == "computed"
    assert store.cache.get_or_compute("k", computation) == "computed"
    assert computation.times == 3


def test_in_a_transaction_the_failure_counts(store: Store, content: Content) -> None:
    content.fill_up("cache_entries")

    def work() -> None:
        with store.transaction() as tx:
            tx.cache.get_or_compute("k", Computation(store))

    with pytest.raises(DatabaseError):
        work()
