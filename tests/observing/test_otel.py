"""Spans and metrics by OpenTelemetry's conventions, through its API alone."""

import asyncio
import logging
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from statestore import AsyncStateStore, NewEntry, StateStore, Usage, otel
from tests.observing.conftest import of

Store = Any


class Telemetry:
    """An SDK as an application sets it up."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self.tracer_provider = TracerProvider()
        self.tracer_provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self._reader = InMemoryMetricReader()
        self.meter_provider = MeterProvider([self._reader])

    def instrument(self, store: Any) -> Callable[[], None]:
        return otel.instrument(store, tracer_provider=self.tracer_provider, meter_provider=self.meter_provider)

    def spans(self) -> list[ReadableSpan]:
        return list(self._exporter.get_finished_spans())

    def span(self, name: str) -> ReadableSpan:
        [found] = [span for span in self.spans() if span.name == name]
        return found

    def metrics(self) -> dict[str, dict[frozenset[tuple[str, Any]], Any]]:
        data = self._reader.get_metrics_data()
        found: dict[str, dict[frozenset[tuple[str, Any]], Any]] = {}
        for resource in data.resource_metrics if data else ():
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    found[metric.name] = {
                        frozenset((point.attributes or {}).items()): getattr(
                            point, "value", getattr(point, "sum", None)
                        )
                        for point in metric.data.data_points
                    }
        return found


def figure(point: Any) -> Any:
    return point.value if hasattr(point, "value") else point.sum


def by(name: str, found: dict[frozenset[tuple[str, Any]], Any]) -> dict[Any, Any]:
    """Values by one of the attributes."""
    return {dict(attributes)[name]: value for attributes, value in found.items()}


@pytest.fixture
def telemetry() -> Telemetry:
    return Telemetry()


def test_an_operation_is_a_span(store: Store, telemetry: Telemetry, database_url: str) -> None:
    telemetry.instrument(of(store))
    store.sessions.create("s")
    span = telemetry.span("sessions.create")
    found = dict(span.attributes or {})
    assert span.kind is SpanKind.CLIENT
    assert span.status.status_code is StatusCode.UNSET
    assert found["db.system.name"] == ("sqlite" if database_url.startswith("sqlite") else "postgresql")
    assert found["db.operation.name"] == "sessions.create"
    assert found["statestore.namespace"] == "default"
    assert found["statestore.attempts"] == found["statestore.rows"] == 1
    if database_url.startswith("postgresql"):
        assert found["server.address"] == "127.0.0.1"
        assert isinstance(found["server.port"], int)
    assert span.start_time is not None
    assert span.end_time is not None
    assert span.start_time < span.end_time


def test_an_append_says_what_the_model_used_and_never_what_was_said(
    store: Store, telemetry: Telemetry, busy: Callable[[Store], None]
) -> None:
    telemetry.instrument(of(store))
    busy(store)
    found = dict(telemetry.span("history.append").attributes or {})
    assert found["gen_ai.conversation.id"] == "a secret session"
    assert found["gen_ai.response.model"] == "gpt-4o"
    assert found["gen_ai.provider.name"] == "openai"
    assert (found["gen_ai.usage.input_tokens"], found["gen_ai.usage.output_tokens"]) == (5, 7)
    shown = str([(span.name, {**(span.attributes or {}), "gen_ai.conversation.id": ""}) for span in telemetry.spans()])
    assert "secret" not in shown
    failed = telemetry.span("sessions.get")
    assert failed.status.status_code is StatusCode.ERROR
    assert dict(failed.attributes or {})["error.type"] == "SessionNotFoundError"


def test_a_turn_and_a_record_have_usage_too(store: Store, telemetry: Telemetry) -> None:
    from tests.support.worlds import entering

    telemetry.instrument(of(store))
    store.sessions.create("s")
    with entering(store, store.turn("s")) as turn:
        turn.append(NewEntry("x", usage=Usage(input_tokens=3, output_tokens=4), request_model="m"))
    store.usage.record(record_id="r", usage=Usage(input_tokens=9), model="e", session_id="s")
    assert dict(telemetry.span("turn.commit").attributes or {})["gen_ai.usage.output_tokens"] == 4
    assert dict(telemetry.span("usage.record").attributes or {})["gen_ai.conversation.id"] == "s"


def test_metrics_have_the_names_of_the_conventions(
    store: Store, telemetry: Telemetry, busy: Callable[[Store], None], database_url: str
) -> None:
    telemetry.instrument(of(store))
    busy(store)
    found = telemetry.metrics()
    assert "secret" not in str(found)
    durations = {dict(key)["db.operation.name"] for key in found["db.client.operation.duration"]}
    assert {"sessions.create", "history.append", "cache.get"} <= durations
    tokens = {(dict(key).get("gen_ai.response.model"), dict(key)["gen_ai.token.type"]): value
              for key, value in found["gen_ai.client.token.usage"].items()}  # fmt: skip
    assert tokens == {("gpt-4o", "input"): 5, ("gpt-4o", "output"): 7, ("embedder", "input"): 9}
    requests = {
        dict(key)["statestore.cache.result"]: value for key, value in found["statestore.cache.requests"].items()
    }
    assert requests == {"hit": 1, "miss": 1}
    sessions = {dict(key)["statestore.session.status"]: value for key, value in found["statestore.sessions"].items()}
    assert sessions["ready"] == 1


@pytest.mark.parametrize("world", ["sync"], indirect=True)
def test_a_span_is_the_child_of_the_callers(store: StateStore, telemetry: Telemetry, world: str) -> None:
    telemetry.instrument(store)
    with telemetry.tracer_provider.get_tracer("app").start_as_current_span("request") as request:
        store.sessions.create("s")
    parent = telemetry.span("sessions.create").parent
    assert parent is not None
    assert parent.span_id == request.get_span_context().span_id


def test_an_awaited_span_is_the_child_of_its_task(database_url: str, telemetry: Telemetry) -> None:
    tracer = telemetry.tracer_provider.get_tracer("app")

    async def main() -> None:
        async with AsyncStateStore.open(database_url) as store:
            telemetry.instrument(store)
            await store.sessions.create("s")

            async def request(n: int) -> None:
                with tracer.start_as_current_span(f"request {n}"):
                    await store.state.set("s", f"key {n}", n)

            await asyncio.gather(*[request(n) for n in range(5)])

    asyncio.run(main())
    requests = {span.context.span_id for span in telemetry.spans() if span.name.startswith("request") and span.context}
    children = [span for span in telemetry.spans() if span.name == "state.set"]
    assert {span.parent.span_id for span in children if span.parent} == requests
    assert len(requests) == 5


@pytest.mark.parametrize("world", ["sync"], indirect=True)
def test_several_stores_share_their_instruments(
    database_url: str, telemetry: Telemetry, caplog: pytest.LogCaptureFixture, world: str
) -> None:
    with caplog.at_level(logging.WARNING), StateStore.open(database_url) as a, StateStore.open(database_url) as b:
        stop = telemetry.instrument(a)
        telemetry.instrument(b)
        a.sessions.create("s")
        b.sessions.get("s")
        sessions = telemetry.metrics()["statestore.sessions"].values()
        assert sorted(sessions) == [0, 0, 0, 1]
        assert [span.name for span in telemetry.spans()] == ["sessions.create", "sessions.get"]
        stop()
        stop()
        a.sessions.get("s")
        assert len(telemetry.spans()) == 2
    assert caplog.records == []


def test_without_it_nothing_of_it_is_imported() -> None:
    code = "import sys, statestore; statestore.StateStore.open('sqlite://').close(); "
    code += "sys.exit(any(name.startswith(('opentelemetry', 'prometheus')) for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("module", ["otel", "prometheus"])
def test_without_the_package_it_says_what_to_install(module: str) -> None:
    code = f"""
import sys
sys.modules["opentelemetry"] = sys.modules["prometheus_client"] = None
try:
    import statestore.{module}
except ModuleNotFoundError as error:
    assert "pip install 'statestore[{module}]'" in str(error), error
else:
    sys.exit(1)"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
