"""Servers that load an application once and then fork their workers: each worker gets its own answers."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from statestore import StateStore

pytest.importorskip("gunicorn")
pytest.importorskip("celery")

# Seconds. A server that hangs is found by this.
AMPLE = 60

APPLICATION = """
import os
from urllib.parse import parse_qs
from statestore import NewEntry, StateStore

store = StateStore.open(os.environ["APP_URL"], pool_size=2)
store.sessions.open("loaded")
store.history.append("loaded", [NewEntry("before the fork")])


def answer(who):
    store.cache.set(f"secret of {who}", who)
    [entry] = store.history.append(f"session of {who}", [NewEntry(who)], create=True)
    [read] = store.history.read(f"session of {who}", last=1)
    return f"{store.cache.get(f'secret of {who}')} {read.content} {os.getpid()}"


def application(environ, start_response):
    [who] = parse_qs(environ["QUERY_STRING"])["who"]
    body = answer(who).encode()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]
"""

TASKS = (
    APPLICATION
    + """
from celery import Celery

app = Celery("app", broker="filesystem://")
folder = os.environ["APP_FOLDER"]
app.conf.broker_transport_options = {
    "data_folder_in": folder, "data_folder_out": folder, "processed_folder": folder, "control_folder": folder,
}


@app.task
def work(who):
    found, read, pid = answer(who).split()
    assert (found, read) == (who, who)
    store.history.append("done", [NewEntry([who, int(pid)])], create=True)
"""
)


@contextmanager
def running(*command: str, folder: Path, url: str) -> Iterator[subprocess.Popen[bytes]]:
    environment = os.environ | {
        "APP_URL": url,
        "APP_FOLDER": str(folder / "queue"),
        "PYTHONPATH": f"{folder}{os.pathsep}{os.getcwd()}",
    }
    (folder / "queue").mkdir(exist_ok=True)
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", *command], env=environment, stdout=log, stderr=log, start_new_session=True
        )
        try:
            yield server
        finally:
            server.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                server.wait(20)
            os.killpg(server.pid, signal.SIGKILL) if server.poll() is None else None
            server.wait()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


def test_workers_of_gunicorn_that_were_forked_after_loading(database_url: str, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(APPLICATION)
    port = free_port()
    arguments = ("--preload", "--workers=4", "--worker-class=gthread", "--threads=4", f"--bind=127.0.0.1:{port}")

    def ask(n: int) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/?who=w{n}", timeout=AMPLE) as response:
            found, read, pid = response.read().decode().split()
        assert (found, read) == (f"w{n}", f"w{n}")
        return str(pid)

    with running("gunicorn", *arguments, "app", folder=tmp_path, url=database_url) as server:
        until = time.monotonic() + AMPLE
        while True:
            try:
                ask(0)
                break
            except OSError:
                assert server.poll() is None, (tmp_path / "log").read_text()
                assert time.monotonic() < until, (tmp_path / "log").read_text()
                time.sleep(0.1)
        with ThreadPoolExecutor(16) as pool:
            pids = set(pool.map(ask, range(1, 301)))
    assert len(pids) > 1, "one worker did it all"
    with StateStore.open(database_url) as store:
        assert all(store.history.count(f"session of w{n}") == 1 for n in range(1, 301))
        assert [entry.content for entry in store.history.read("loaded")] == ["before the fork"]


def test_workers_of_celery(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "app.py").write_text(TASKS)
    send = "import app; [app.work.delay(f'w{n}') for n in range(60)]; app.store.close()"
    arguments = ("-A", "app", "worker", "--pool=prefork", "--concurrency=4", "--loglevel=WARNING", "--without-gossip")
    names = {f"w{n}" for n in range(60)}
    with running("celery", *arguments, folder=tmp_path, url=database_url) as server:
        subprocess.run(
            [sys.executable, "-c", send],
            env=os.environ
            | {
                "APP_URL": database_url,
                "APP_FOLDER": str(tmp_path / "queue"),
                "PYTHONPATH": f"{tmp_path}{os.pathsep}{os.getcwd()}",
            },
            check=True,
            timeout=AMPLE,
        )
        until = time.monotonic() + AMPLE
        with StateStore.open(database_url) as store:
            done: list[list[object]] = []
            while {name for name, _ in done} != names:
                assert server.poll() is None, (tmp_path / "log").read_text()
                assert time.monotonic() < until, (tmp_path / "log").read_text()
                time.sleep(0.1)
                if store.sessions.exists("done"):
                    done = [entry.content for entry in store.history.read("done")]  # type: ignore[misc]
    assert len({pid for _, pid in done}) > 1, "one worker did it all"
