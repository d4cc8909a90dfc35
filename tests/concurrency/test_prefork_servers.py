"""Servers that load an application once and then fork their workers: each worker gets its own answers."""

import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from statestore import StateStore
from tests.support.servers import AMPLE, free_port, running

pytest.importorskip("gunicorn")

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


def test_workers_of_gunicorn_that_were_forked_after_loading(database_url: str, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(APPLICATION)
    port = free_port()
    arguments = ("--preload", "--workers=4", "--worker-class=gthread", "--threads=4", f"--bind=127.0.0.1:{port}")

    def ask(n: int) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/?who=w{n}", timeout=AMPLE) as response:
            found, read, pid = response.read().decode().split()
        assert (found, read) == (f"w{n}", f"w{n}")
        return str(pid)

    def up() -> bool:
        try:
            ask(0)
        except OSError:
            return False
        return True

    with running("gunicorn", *arguments, "app", folder=tmp_path, APP_URL=database_url) as server:
        server.wait_for(up)
        with ThreadPoolExecutor(16) as pool:
            pids = set(pool.map(ask, range(1, 301)))
    assert len(pids) > 1, "one worker did it all"
    with StateStore.open(database_url) as store:
        assert all(store.history.count(f"session of w{n}") == 1 for n in range(1, 301))
        assert [entry.content for entry in store.history.read("loaded")] == ["before the fork"]
