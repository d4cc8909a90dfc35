"""Among processes, too, one computes; and if it dies, another does."""

import json
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from statestore import StateStore
from tests.support.warm import programs

ROOT = Path(__file__).parents[2]


@pytest.fixture(params=["sync", "async"])
def world(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "computed.log"
    path.touch()
    return path


@contextmanager
def process(**orders: Any) -> Iterator[subprocess.Popen[str]]:
    command = [programs() / "python", "-m", "tests.concurrency.cache_caller", json.dumps(orders)]
    with subprocess.Popen(command, cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as running:
        try:
            assert running.stdout is not None
            assert running.stdout.readline() == "ready\n"
            yield running
        finally:
            running.kill()


def go(running: subprocess.Popen[str]) -> None:
    assert running.stdin is not None
    running.stdin.write("go\n")
    running.stdin.flush()


def result(running: subprocess.Popen[str]) -> list[dict[str, str]]:
    assert running.stdout is not None
    found: list[dict[str, str]] = json.loads(running.stdout.readline())
    assert running.wait(60) == 0
    return found


def all_at_once(count: int, **orders: Any) -> list[dict[str, str]]:
    with ExitStack() as stack:
        running = [stack.enter_context(process(**orders)) for _ in range(count)]
        for one in running:
            go(one)
        return [caller for one in running for caller in result(one)]


def test_of_many_processes_with_twenty_callers_each_one_computes(database_url: str, world: str, log: Path) -> None:
    count = 5 if world == "sync" else 3
    orders = {"url": database_url, "world": world, "log": str(log), "keys": ["k"], "timeout": 60}
    found = all_at_once(count, **orders, callers=20, seconds=0.3)
    assert found == [{"k": "k computed"}] * 20 * count
    assert log.read_text() == "k\n"


def test_hundreds_of_keys_are_computed_once_each(database_url: str, world: str, log: Path) -> None:
    keys = [f"k{n}" for n in range(300)]
    found = all_at_once(3, url=database_url, world=world, log=str(log), keys=keys, callers=3, seconds=0, timeout=60)
    assert found == [{key: f"{key} computed" for key in keys}] * 9
    assert Counter(log.read_text().split()) == Counter(keys)


def test_a_process_that_is_killed_while_it_computes_is_replaced(database_url: str, world: str, log: Path) -> None:
    orders = {"url": database_url, "world": world, "log": str(log), "keys": ["k"], "callers": 1, "timeout": 10}
    with process(**orders, seconds=3600) as first, process(**orders, seconds=0) as second:
        go(first)
        while log.read_text() != "k\n":
            assert first.poll() is None
            time.sleep(0.01)
        go(second)
        first.kill()
        first.wait()
        assert result(second) == [{"k": "k computed"}]
    assert log.read_text() == "k\nk\n"
    with StateStore.open(database_url) as store:
        assert store.cache.get("k") == "k computed"


def test_those_that_wait_already_when_a_process_is_killed_get_the_value(
    database_url: str, world: str, log: Path
) -> None:
    orders = {"url": database_url, "world": world, "log": str(log), "keys": ["k"], "timeout": 30}
    with ExitStack() as stack:
        first = stack.enter_context(process(**orders, callers=1, seconds=3600))
        others = [stack.enter_context(process(**orders, callers=5, seconds=0.2)) for _ in range(3)]
        for one in (first, *others):
            go(one)
            while log.read_text() != "k\n":
                assert first.poll() is None
                time.sleep(0.01)
        time.sleep(0.5)
        first.kill()
        first.wait()
        # Long before they would give up, which they would do with an error.
        assert [result(other) for other in others] == [[{"k": "k computed"}] * 5] * 3
    assert log.read_text() == "k\nk\n"


def test_a_process_that_is_killed_loses_its_last_hits_but_no_entry(database_url: str) -> None:
    code = f"""if True:
        import os, signal
        from statestore import StateStore
        store = StateStore.open({database_url!r})
        store.cache.set("k", 1, tags=["t"])
        store.cache.get("k")
        store.cache.set("gone", 1)
        store.cache.invalidate("gone")
        os.kill(os.getpid(), signal.SIGKILL)
    """
    done = subprocess.run([programs() / "python", "-c", code], cwd=ROOT, check=False)
    assert done.returncode == -9
    with StateStore.open(database_url) as store:
        stats = store.cache.stats()
        assert (stats.hits, stats.entries, stats.invalidations["key"]) == (0, 1, 1)
        assert store.cache.get("k") == 1
        assert store.cache.invalidate_tag("t") == 1
