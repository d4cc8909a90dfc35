"""Metrics of stores for Prometheus. Needs `statestore[prometheus]`.

    from prometheus_client import start_http_server
    from statestore import prometheus

    stop = prometheus.instrument(store)
    start_http_server(9100)

`docs/grafana.json` is a dashboard for them.
"""

import threading
import weakref
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

from statestore.async_store import AsyncStateStore
from statestore.engine import process_fork
from statestore.measures import FAMILIES, Bounded, Gathering, Measures
from statestore.store import StateStore
from statestore.values.operations import Operation

try:
    from prometheus_client import REGISTRY, CollectorRegistry, Counter, Histogram
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
    from prometheus_client.registry import Collector
except ModuleNotFoundError:  # pragma: no cover
    raise ModuleNotFoundError("statestore.prometheus needs its client: pip install 'statestore[prometheus]'") from None

__all__ = ["instrument"]

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_NAMESPACES, _MODELS = 50, 50


def instrument(
    store: StateStore | AsyncStateStore,
    *,
    registry: CollectorRegistry = REGISTRY,
    figures_every: timedelta | None = timedelta(minutes=1),
) -> Callable[[], None]:
    """Count the operations of *store*, and show its pool, its batches, its cache and its sessions at each scrape.

    Any number of stores can share a registry. Labels are bounded: there are no sessions, users or keys in them, and of
    namespaces and models the first 50 each; others are `other`. A scrape sends no statement, but for one at most once
    in *figures_every*, which counts sessions by status and what waits for a sweep, up to 10,000 each. If the database
    does not answer within a second, the scrape goes on without these.

    With several processes (`PROMETHEUS_MULTIPROC_DIR`) the counters of operations add up as those of prometheus_client
    do; what is read at the scrape is that of the process that is asked.

    Args:
        store: Of either kind.
        registry: Where the metrics go.
        figures_every: How old what is counted in the database may be; None to count nothing there.

    Returns:
        A function that ends it: what was counted stays. It may be called more than once.

    Raises:
        InvalidValueError: *store* is not a store.
    """
    measures = Measures(store, every=figures_every)
    exposed = _of(registry)
    exposed.stores.add(measures)
    unsubscribe = measures.watch(exposed.count)

    def stop() -> None:
        unsubscribe()
        exposed.stores.retire(measures)

    return stop


class _Exposed(Collector):
    """The metrics in one registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._namespaces, self._models = Bounded(_NAMESPACES), Bounded(_MODELS)
        self.stores = Gathering(self._namespaces)
        self._operations = Counter(
            "statestore_operations", "Operations that have ended; error is empty if they ended well.",
            ("namespace", "operation", "error"), registry=registry,
        )  # fmt: skip
        self._seconds = Histogram(
            "statestore_operation_seconds", "How long callers waited for operations.", ("operation",),
            buckets=_SECONDS, registry=registry,
        )  # fmt: skip
        self._attempts = Counter("statestore_attempts", "Attempts of operations.", ("operation",), registry=registry)
        self._rows = Counter("statestore_rows", "Items that were read or written.", ("operation",), registry=registry)
        self._tokens = Counter(
            "statestore_tokens", "Tokens of the model calls that were stored.", ("model", "type"), registry=registry
        )
        registry.register(self)

    def count(self, operation: Operation) -> None:
        """The hook of every store."""
        name = operation.name
        self._operations.labels(self._namespaces.label(operation.namespace), name, operation.error or "").inc()
        self._seconds.labels(name).observe(operation.duration)
        self._attempts.labels(name).inc(operation.attempts)
        if operation.rows:
            self._rows.labels(name).inc(operation.rows)
        for call in operation.model_calls:
            model = self._models.label(call.response_model or call.request_model or "")
            for kind, tokens in (("input", call.usage.input_tokens), ("output", call.usage.output_tokens)):
                if tokens:
                    self._tokens.labels(model, kind).inc(tokens)

    def describe(self) -> list[Metric]:
        """So that registering asks no store."""
        return list(self._families().values())

    def collect(self) -> Iterator[Metric]:
        """What is read off the stores when somebody scrapes."""
        families = self._families()
        for (name, labels), value in self.stores.read().items():
            families[name].add_metric(labels, value)
        yield from families.values()

    def _families(self) -> dict[str, Any]:
        kinds = {False: GaugeMetricFamily, True: CounterMetricFamily}
        return {one.name: kinds[one.counts](f"statestore_{one.name}", one.text, labels=one.labels) for one in FAMILIES}


_exposed: "weakref.WeakKeyDictionary[CollectorRegistry, _Exposed]" = weakref.WeakKeyDictionary()
_lock = threading.Lock()


def _in_child() -> None:
    global _lock
    _lock = threading.Lock()  # A thread that is not there may hold it.


process_fork.register(in_child=_in_child)


def _of(registry: CollectorRegistry) -> _Exposed:
    with _lock:
        found = _exposed.get(registry)
        if found is None:
            found = _exposed[registry] = _Exposed(registry)
        return found
