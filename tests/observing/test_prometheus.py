"""Metrics for Prometheus: what they say, how many labels there are, and what a scrape costs."""

import asyncio
import gc
import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics

from statestore import AsyncStateStore, InvalidValueError, StateStore, prometheus
from statestore.measures import Measures
from tests.observing.conftest import of
from tests.support.clock import MovableClock
from tests.support.crowd import at_once
from tests.support.wire import Proxy, Traffic

Store = Any


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


def values(registry: CollectorRegistry) -> dict[tuple[str, ...], float]:
    """By name and the values of the labels in their order."""
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in registry.collect()
        for sample in family.samples
        if not sample.name.endswith(("_bucket", "_created"))
    }


def test_what_a_store_does_is_counted(store: Store, registry: CollectorRegistry, busy: Callable[[Store], None]) -> None:
    prometheus.instrument(of(store), registry=registry)
    busy(store)
    found = values(registry)
    assert found["statestore_operations_total", "default", "history.append", ""] == 1
    assert found["statestore_operations_total", "default", "sessions.get", "SessionNotFoundError"] == 1
    assert found["statestore_operation_seconds_count", "cache.get"] == 2
    assert found["statestore_attempts_total", "cache.get"] == 2
    assert found["statestore_rows_total", "history.append"] == 2
    assert found["statestore_tokens_total", "gpt-4o", "output"] == 7
    assert found["statestore_tokens_total", "embedder", "input"] == 9
    assert found["statestore_cache_requests_total", "default", "hit"] == 1
    assert found["statestore_cache_requests_total", "default", "miss"] == 1
    assert found["statestore_up", "default"] == 1
    assert found["statestore_sessions", "default", "ready"] == 1
    assert found["statestore_sessions", "default", "busy"] == 0
    assert found["statestore_sweep_backlog", "default", "expired_sessions"] == 0


def test_nothing_secret_is_in_it(store: Store, registry: CollectorRegistry, busy: Callable[[Store], None]) -> None:
    prometheus.instrument(of(store), registry=registry)
    busy(store)
    assert "secret" not in generate_latest(registry).decode()
    assert generate_openmetrics(registry).endswith(b"# EOF\n")


def test_the_backlog_and_its_age(store: Store, registry: CollectorRegistry, clock: MovableClock) -> None:
    prometheus.instrument(of(store), registry=registry, figures_every=timedelta(microseconds=1))
    store.sessions.create("s", ttl=timedelta(minutes=1))
    store.cache.set("k", 1, ttl=timedelta(minutes=2))
    assert values(registry)["statestore_sweep_backlog", "default", "expired_cache"] == 0
    clock.advance(minutes=5)
    found = values(registry)
    assert found["statestore_sweep_backlog", "default", "expired_sessions"] == 1
    assert found["statestore_sweep_lag_seconds", "default", "expired_sessions"] == 240
    assert found["statestore_sweep_lag_seconds", "default", "expired_cache"] == 180
    assert found["statestore_sweep_lag_seconds", "default", "expired_state"] == 0
    store.sweep()
    assert values(registry)["statestore_sweep_backlog", "default", "expired_sessions"] == 0


@pytest.mark.parametrize("world", ["sync", "async"], indirect=True)
def test_the_pool_and_the_batches(open_store: Callable[..., Store], registry: CollectorRegistry) -> None:
    store = open_store(pool_size=3)
    prometheus.instrument(of(store), registry=registry)
    store.sessions.create("s")
    at_once(*[lambda: store.history.append("s", [{"role": "user", "content": "x"}])] * 12)
    found = values(registry)
    [size] = [value for (name, *_), value in found.items() if name == "statestore_pool_size"]
    assert size == 3
    idle = {labels[-1]: value for (name, *labels), value in found.items() if name == "statestore_pool_connections"}
    assert idle["idle"] >= 1
    batches = found.get(("statestore_batches_total", "history.append"), 0)
    calls = found.get(("statestore_batched_calls_total", "history.append"), 0)
    assert 0 < batches <= calls <= 12


def test_a_scrape_sends_one_statement_and_then_none(
    connect: Callable[..., Store], traffic: Traffic, registry: CollectorRegistry
) -> None:
    store = connect(traffic.url)
    prometheus.instrument(of(store), registry=registry)
    store.sessions.create("s")
    values(registry)
    traffic.clear()
    for _ in range(3):
        values(registry)
    assert traffic.statements == []


def test_figures_can_be_left_out(connect: Callable[..., Store], traffic: Traffic, registry: CollectorRegistry) -> None:
    store = connect(traffic.url)
    prometheus.instrument(of(store), registry=registry, figures_every=None)
    store.sessions.create("s")
    traffic.clear()
    found = values(registry)
    assert traffic.statements == []
    assert not [name for name, *_ in found if name in ("statestore_sessions", "statestore_up")]


@pytest.mark.parametrize("world", ["sync"], indirect=True)
def test_a_database_that_is_gone_is_down_and_the_scrape_goes_on(
    connect: Callable[..., Store], postgres_url: str, registry: CollectorRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    proxy = Proxy(postgres_url)
    store = connect(proxy.url, timeout=2, retry_for=0.1)
    prometheus.instrument(store, registry=registry, figures_every=timedelta(microseconds=1))
    assert values(registry)["statestore_up", "default"] == 1
    proxy.close()
    found = values(registry)
    assert found["statestore_up", "default"] == 0
    assert ("statestore_sessions", "default", "ready") not in found
    values(registry)
    assert sum("no figures" in record.message for record in caplog.records) == 1


@pytest.mark.parametrize("world", ["sync"], indirect=True)
def test_labels_are_bounded(database_url: str, registry: CollectorRegistry, world: str) -> None:
    first = StateStore.open(database_url, namespace="n0")
    stops = [prometheus.instrument(first, registry=registry, figures_every=None)]
    hook = next(iter(first._database.telemetry.watchers.values()))
    first.ping()
    from statestore import ModelCall, Operation, Usage

    for n in range(200):
        calls = (ModelCall(usage=Usage(input_tokens=1), response_model=f"m{n}"),)
        hook(Operation(name="history.append", namespace=f"n{n}", duration=0.0, attempts=1, rows=1, error=None,
                       session_id=f"s{n}", model_calls=calls))  # fmt: skip
    found = values(registry)
    namespaces = {labels[0] for (name, *labels) in found if name == "statestore_operations_total"}
    models = {labels[0] for (name, *labels) in found if name == "statestore_tokens_total"}
    assert len(namespaces) == len(models) == 51
    assert "other" in namespaces & models
    assert found["statestore_operations_total", "other", "history.append", ""] == 150
    stops[0]()
    first.close()


@pytest.mark.parametrize("world", ["sync"], indirect=True)
def test_stores_share_a_registry_and_leave_their_counts(
    database_url: str, registry: CollectorRegistry, world: str
) -> None:
    for _ in range(2):
        with StateStore.open(database_url) as store, StateStore.open(database_url) as same:
            for one in (store, same):
                prometheus.instrument(one, registry=registry)
                one.cache.get("none")
            one.sessions.open("s")
            found = values(registry)
            assert found["statestore_sessions", "default", "ready"] == 1, "two stores do not make two of one session"
    found = values(registry)
    assert found["statestore_cache_requests_total", "default", "miss"] == 4
    assert found["statestore_operations_total", "default", "sessions.open", ""] == 2
    assert ("statestore_pool_size", "statestore.db") not in found


@pytest.mark.parametrize("world", ["sync"], indirect=True)
def test_who_stops_is_counted_no_more(database_url: str, registry: CollectorRegistry, world: str) -> None:
    with StateStore.open(database_url) as store:
        stop = prometheus.instrument(store, registry=registry)
        store.ping()
        stop()
        stop()
        store.ping()
        assert not store._database.telemetry.watchers
        assert values(registry)["statestore_operations_total", "default", "store.ping", ""] == 1


async def test_a_scrape_on_the_event_loop_does_not_block_it(
    sqlite_url: str, registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_answer, ask = threading.Event(), Measures._ask_in_thread

    def asked(self: Measures, done: Any) -> None:
        may_answer.wait(30)
        ask(self, done)

    monkeypatch.setattr(Measures, "_ask_in_thread", asked)
    async with AsyncStateStore.open(sqlite_url) as store:
        prometheus.instrument(store, registry=registry)
        await store.sessions.create("s")
        assert ("statestore_sessions", "default", "ready") not in values(registry)
        may_answer.set()
        for _ in range(200):
            await asyncio.sleep(0.01)
            found = values(registry)
            if ("statestore_sessions", "default", "ready") in found:
                break
        assert found["statestore_sessions", "default", "ready"] == 1
    gc.collect()


@pytest.mark.parametrize("given", [None, "store"])
def test_only_a_store_is_instrumented(given: Any, registry: CollectorRegistry) -> None:
    with pytest.raises(InvalidValueError, match="store"):
        prometheus.instrument(given, registry=registry)


@pytest.mark.parametrize("world", ["sync"], indirect=True)
def test_a_transactions_hits_count_with_its_commit(store: StateStore, registry: CollectorRegistry, world: str) -> None:
    prometheus.instrument(store, registry=registry)
    store.cache.set("k", 1)
    with store.transaction() as tx:
        tx.cache.get("k")
    with suppress(RuntimeError), store.transaction() as tx:
        tx.cache.get("k")
        raise RuntimeError
    for _ in range(2):
        assert values(registry)["statestore_cache_requests_total", "default", "hit"] == 1
        store.cache.flush()
