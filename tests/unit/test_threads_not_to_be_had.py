"""A thread that cannot be started, for want of memory or of rights, is tried again by the next who needs it."""

import asyncio
import sqlite3
import threading
import time
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import pytest

from statestore import deadline
from statestore.engine.listening import Ear, Listener
from statestore.engine.waits import ends_at
from statestore.engine.watchdog import Watch, Watchdog
from statestore.engine.workers import Workers
from statestore.repositories.history import follows


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of threads whose next start fails."""
    names: list[str] = []
    start = threading.Thread.start

    def fail(thread: threading.Thread) -> None:
        for name in names:
            if thread.name.startswith(name):
                names.remove(name)
                raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", fail)
    return names


def test_the_watchdog_is_started_by_the_next(refused: list[str]) -> None:
    watchdog, driver = Watchdog(), sqlite3.connect(":memory:")
    refused.append("statestore-watchdog")
    with pytest.raises(RuntimeError):
        watchdog.begin(Watch(driver, time.monotonic()))
    watch = Watch(driver, time.monotonic())
    watchdog.begin(watch)
    until = time.monotonic() + 10
    while not watch.fired and time.monotonic() < until:
        time.sleep(0.01)
    assert watchdog.end(watch)
    watchdog.pause()
    driver.close()


def test_a_worker_is_started_by_the_next(refused: list[str]) -> None:
    async def run() -> object:
        workers = Workers(1, "statestore-test")
        refused.append("statestore-test")
        with pytest.raises(RuntimeError):
            await workers.run(lambda: 1)
        try:
            return await workers.run(lambda: 2, until=time.monotonic() + 10)
        finally:
            workers.close()

    assert asyncio.run(run()) == 2


def test_a_listener_is_started_by_the_next(refused: list[str]) -> None:
    connections: Any = SimpleNamespace()  # Nothing is connected: whoever asks it for an engine fails.
    listener = Listener(connections, "default", follows.LISTENING)
    refused.append("statestore-listening")
    first, second = Ear(listener, "s", lambda: None), Ear(listener, "s", lambda: None)
    first.open()
    assert listener._thread is None
    assert not listener._ears
    refused.clear()
    answers: list[Any] = []
    with patch.object(Listener, "_work", lambda self, answer: answers.append(answer)):
        second.open()
        first.open()
    assert listener._thread is not None
    assert listener._ears == {"s": {first, second}}
    listener.close()
    assert listener._has_ended()
    answers[0].close()


def test_a_deadline_may_be_entered_again() -> None:
    one = deadline(5)
    with one:
        inner = ends_at(100)
        with one, deadline(50):
            assert inner <= ends_at(100) < time.monotonic() + 6
        assert ends_at(100) == inner
    assert ends_at(100) > time.monotonic() + 90
