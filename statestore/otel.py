"""Spans and metrics of a store's operations, by OpenTelemetry's semantic conventions. Needs `statestore[otel]`.

    from statestore import otel

    stop = otel.instrument(store)

Only OpenTelemetry's API is used: an application's SDK decides what becomes of it, and without one this costs next to
nothing.
"""

import threading
import time
import weakref
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from statestore import __version__
from statestore.async_store import AsyncStateStore
from statestore.engine import process_fork
from statestore.measures import FAMILIES, Bounded, Family, Gathering, Measures
from statestore.store import StateStore
from statestore.values.operations import ModelCall, Operation

try:
    from opentelemetry import metrics, trace
    from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation
    from opentelemetry.trace import SpanKind, Status, StatusCode, Tracer, TracerProvider
except ModuleNotFoundError:  # pragma: no cover
    raise ModuleNotFoundError("statestore.otel needs OpenTelemetry: pip install 'statestore[otel]'") from None

__all__ = ["instrument"]

# As the conventions advise, for databases and for tokens.
_SECONDS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10)
_TOKENS = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576, 4194304, 16777216, 67108864)
_NAMESPACES, _MODELS = 100, 100


def instrument(
    store: StateStore | AsyncStateStore,
    *,
    tracer_provider: TracerProvider | None = None,
    meter_provider: MeterProvider | None = None,
    figures_every: timedelta | None = timedelta(minutes=1),
) -> Callable[[], None]:
    """Make a span of each operation of *store*, and metrics of all.

    A span is the child of the one that is current where the operation is called. It has the name of the operation, and
    where calls of models are stored, the conversation, the models and the tokens; never content, keys or values.
    Attributes of metrics are bounded: no sessions, no users.

    Args:
        store: Of either kind.
        tracer_provider: Where spans go; by default the global one.
        meter_provider: Where metrics go; by default the global one.
        figures_every: How old sessions by status and the backlog of the sweep may be when metrics are collected: they
            take a statement. None for none of them.

    Returns:
        A function that ends it. It may be called more than once.

    Raises:
        InvalidValueError: *store* is not a store.
    """
    measures = Measures(store, every=figures_every)
    meters = _meters_of(meter_provider)
    meters.stores.add(measures)
    watcher = _Watcher(meters, trace.get_tracer("statestore", __version__, tracer_provider), _names(measures.identity))
    unsubscribe = measures.watch(watcher)

    def stop() -> None:
        unsubscribe()
        meters.stores.retire(measures)

    return stop


# Families of `measures` as the conventions have them: name, unit and attributes.
_OBSERVED: dict[str, tuple[str, str, dict[str, str]]] = {
    "pool_connections": (
        "db.client.connection.count",
        "{connection}",
        {"database": "db.client.connection.pool.name", "state": "db.client.connection.state"},
    ),
    "pool_size": ("db.client.connection.max", "{connection}", {"database": "db.client.connection.pool.name"}),
    "pool_waiting": (
        "db.client.connection.pending_requests",
        "{request}",
        {"database": "db.client.connection.pool.name"},
    ),
    "up": ("statestore.up", "1", {}),
    "sessions": ("statestore.sessions", "{session}", {"status": "statestore.session.status"}),
    "sweep_backlog": ("statestore.sweep.backlog", "{row}", {"kind": "statestore.sweep.kind"}),
    "sweep_lag_seconds": ("statestore.sweep.lag", "s", {"kind": "statestore.sweep.kind"}),
    "batches": ("statestore.batches", "{batch}", {}),
    "batched_calls": ("statestore.batched_calls", "{call}", {}),
    "cache_requests": ("statestore.cache.requests", "{request}", {"result": "statestore.cache.result"}),
}
_ATTRIBUTES = {"namespace": "statestore.namespace", "operation": "db.operation.name"}


class _Meters:
    """The instruments of one provider, for all stores."""

    def __init__(self, provider: MeterProvider | None) -> None:
        self.stores = Gathering(Bounded(_NAMESPACES))
        self.names = Bounded(_MODELS)
        meter = metrics.get_meter("statestore", __version__, provider)
        self.duration = meter.create_histogram(
            "db.client.operation.duration", "s", "How long operations took.",
            explicit_bucket_boundaries_advisory=_SECONDS,
        )  # fmt: skip
        self.tokens = meter.create_histogram(
            "gen_ai.client.token.usage", "{token}", "Tokens of stored model calls.",
            explicit_bucket_boundaries_advisory=_TOKENS,
        )  # fmt: skip
        self.retries = meter.create_counter("statestore.operation.retries", "{retry}", "Second and later attempts.")
        for family in FAMILIES:
            name, unit, _ = _OBSERVED[family.name]
            create: Any = meter.create_observable_counter if family.counts else meter.create_observable_gauge
            if name.startswith("db.client."):
                create = meter.create_observable_up_down_counter
            create(name, [self._observing(family)], unit, family.text)

    def _observing(self, family: Family) -> Callable[[CallbackOptions], list[Observation]]:
        names = [(_ATTRIBUTES | _OBSERVED[family.name][2])[label] for label in family.labels]

        def observe(_: CallbackOptions) -> list[Observation]:
            return [
                Observation(value, dict(zip(names, labels, strict=True)))
                for (name, labels), value in self.stores.read().items()
                if name == family.name
            ]

        return observe


_meters: "weakref.WeakKeyDictionary[MeterProvider, _Meters]" = weakref.WeakKeyDictionary()
_global_meters: list[_Meters] = []
_lock = threading.Lock()


def _in_child() -> None:
    global _lock
    _lock = threading.Lock()  # A thread that is not there may hold it.


process_fork.register(in_child=_in_child)


def _meters_of(provider: MeterProvider | None) -> _Meters:
    """Made once: an instrument that is made again is a warning of the SDK's."""
    with _lock:
        if provider is None:
            if not _global_meters:
                _global_meters.append(_Meters(None))
            return _global_meters[0]
        found = _meters.get(provider)
        if found is None:
            found = _meters[provider] = _Meters(provider)
        return found


class _Watcher:
    """The hook of one store."""

    def __init__(self, meters: _Meters, tracer: Tracer, names: dict[str, str | int]) -> None:
        self._meters = meters
        self._tracer = tracer
        self._names = names

    def __call__(self, operation: Operation) -> None:
        shared: dict[str, Any] = {"db.operation.name": operation.name, **self._names}
        if operation.error is not None:
            shared["error.type"] = operation.error
        self._meters.duration.record(operation.duration, shared)
        if operation.attempts > 1:
            self._meters.retries.add(operation.attempts - 1, shared)
        for call in operation.model_calls:
            self._count_tokens(call)
        self._trace(operation, shared)

    def _trace(self, operation: Operation, attributes: dict[str, Any]) -> None:
        end = time.time_ns()
        begun = end - int(operation.duration * 1e9)
        attributes |= {"statestore.namespace": operation.namespace, "statestore.attempts": operation.attempts}
        if operation.rows is not None:
            attributes["statestore.rows"] = operation.rows
        if operation.model_calls:
            attributes |= _gen_ai(operation)
        span = self._tracer.start_span(operation.name, kind=SpanKind.CLIENT, start_time=begun, attributes=attributes)
        if operation.error is not None:
            span.set_status(Status(StatusCode.ERROR))
        span.end(end)

    def _count_tokens(self, call: ModelCall) -> None:
        for kind in ("input", "output"):
            tokens: int | None = getattr(call.usage, f"{kind}_tokens")
            if tokens is not None:
                named = {name: self._meters.names.label(value) for name, value in _model(call).items()}
                self._meters.tokens.record(tokens, named | {"gen_ai.token.type": kind})


def _names(identity: dict[str, str | int]) -> dict[str, str | int]:
    names = {"system": "db.system.name", "name": "db.namespace", "host": "server.address", "port": "server.port"}
    return {names[key]: value for key, value in identity.items()}


def _model(call: ModelCall) -> dict[str, str]:
    given = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": call.provider_name,
        "gen_ai.request.model": call.request_model,
        "gen_ai.response.model": call.response_model,
    }
    return {name: value for name, value in given.items() if value is not None}


def _gen_ai(operation: Operation) -> dict[str, Any]:
    """Of all calls of models that an operation has stored: the last one's model, and the sum of the tokens."""
    found: dict[str, Any] = dict(_model(operation.model_calls[-1]))
    if operation.session_id is not None:
        found["gen_ai.conversation.id"] = operation.session_id
    for kind in ("input", "output"):
        known = [getattr(call.usage, f"{kind}_tokens") for call in operation.model_calls]
        if any(tokens is not None for tokens in known):
            found[f"gen_ai.usage.{kind}_tokens"] = sum(tokens or 0 for tokens in known)
    return found
