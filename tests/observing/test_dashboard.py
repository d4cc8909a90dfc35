"""The dashboard for Grafana: it asks for metrics that there are, and a real Prometheus answers each of its queries."""

import json
import re
import shutil
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, start_http_server

from statestore import StateStore, UnavailableError, prometheus
from tests.observing.conftest import busy
from tests.support.crowd import at_once

DASHBOARD = json.loads((Path(__file__).parents[2] / "docs" / "grafana.json").read_text())
PANELS = DASHBOARD["panels"]
QUERIES = [(panel["title"], target["expr"]) for panel in PANELS for target in panel["targets"]]


def exposed() -> dict[str, set[str]]:
    """The metrics of a registry, with their labels."""
    registry = CollectorRegistry()
    with StateStore.open("sqlite://") as store:
        prometheus.instrument(store, registry=registry)
        work(store)
        found: dict[str, set[str]] = {}
        for family in registry.collect():
            for sample in family.samples:
                found.setdefault(sample.name, set()).update(sample.labels)
    return found


def work(store: Any) -> None:
    busy.__wrapped__()(store)  # type: ignore[attr-defined]
    at_once(*[lambda: store.history.append("a secret session", [{"role": "user", "content": "x"}])] * 16)


# As soon as there are batches, these exist; whether there are any is a matter of threads.
BATCHES = {"statestore_batches_total": {"operation"}, "statestore_batched_calls_total": {"operation"}}


def test_every_query_asks_for_metrics_and_labels_that_there_are() -> None:
    known = BATCHES | exposed()
    for title, query in QUERIES:
        names = re.findall(r"statestore_\w+", query)
        assert names, title
        for name in names:
            assert name in known, (title, name)
        labels = set(re.findall(r"(\w+)(?:=~|!=|=)\"", query))
        for by in re.findall(r"by \(([^)]*)\)", query):
            labels |= set(by.split(", "))
        allowed = set().union(*(known[name] for name in names))
        assert labels <= allowed, (title, labels - allowed)
    [variable] = [one["query"] for one in DASHBOARD["templating"]["list"] if one["name"] == "namespace"]
    assert "statestore_operations_total, namespace" in variable


def test_every_metric_is_on_the_dashboard() -> None:
    shown = " ".join(query for _, query in QUERIES)
    for name in exposed():
        if not name.endswith(("_created", "_sum", "_count", "_bucket")):
            assert name in shown, name


def test_panels_fill_the_page_without_overlapping() -> None:
    places = set()
    for panel in PANELS:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & places, panel["title"]
        assert at["x"] + at["w"] <= 24
        places |= cells
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)
    assert all(panel["description"] for panel in PANELS)


def free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running(folder: Path, scraped: int) -> Iterator[Callable[[str], Any]]:
    """A Prometheus that scrapes a port; gives what asks its API."""
    program = shutil.which("prometheus")
    if program is None:
        pytest.skip("Prometheus is not installed: apt install prometheus")
    config = folder / "prometheus.yml"
    config.write_text(
        "global: {scrape_interval: 1s, scrape_timeout: 1s}\n"
        f"scrape_configs: [{{job_name: app, static_configs: [{{targets: ['127.0.0.1:{scraped}']}}]}}]\n"
    )
    port = free_port()
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [program, f"--config.file={config}", f"--storage.tsdb.path={folder / 'data'}",
             f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn"],
            stdout=log, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def ask(query: str) -> Any:
        address = f"http://127.0.0.1:{port}/api/v1/query?{urllib.parse.urlencode({'query': query})}"
        with urllib.request.urlopen(address, timeout=10) as answer:
            found = json.load(answer)
        assert found["status"] == "success"
        return found["data"]["result"]

    try:
        yield ask
    finally:
        process.terminate()
        process.wait(30)


@pytest.mark.timeout(300)
def test_a_real_prometheus_answers_every_panel(sqlite_url: str, tmp_path: Path) -> None:
    registry, port = CollectorRegistry(), free_port()
    server, thread = start_http_server(port, addr="127.0.0.1", registry=registry)
    try:
        with running(tmp_path, port) as ask, StateStore.open(sqlite_url) as store:
            prometheus.instrument(store, registry=registry)
            work(store)
            answered: dict[str, Any] = {}
            until = time.monotonic() + 60
            while len(answered) < len(QUERIES) and time.monotonic() < until:
                with suppress(UnavailableError):  # Rates need something that goes on.
                    at_once(*[lambda: store.history.append("a secret session", [{"role": "user", "content": "x"}])] * 8)
                store.cache.get("a secret key")
                with suppress(Exception):
                    store.sessions.get("none")
                for _, query in QUERIES:
                    concrete = query.replace("$__rate_interval", "10s").replace("$namespace", ".*")
                    with suppress(OSError):  # Not up yet.
                        result = ask(concrete)
                        if result and all(one["value"][1] != "NaN" for one in result[:1]):
                            answered[query] = result
                time.sleep(0.5)
        unanswered = [title for title, query in QUERIES if query not in answered]
        assert not unanswered, (tmp_path / "log").read_text()[-2000:]
        [ready] = [one for one in answered[next(q for t, q in QUERIES if t == "Sessions")]
                   if one["metric"]["status"] == "ready"]  # fmt: skip
        assert ready["value"][1] == "1"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
