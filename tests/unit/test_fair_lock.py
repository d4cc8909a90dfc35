"""Threads that take turns."""

import threading
import time
from types import SimpleNamespace

import pytest

from statestore.engine import fair_lock as module
from statestore.engine.fair_lock import FairLock

LONG = 60.0


def waits(turnstile: FairLock, inside: list[str], name: str) -> threading.Thread:
    """A thread that stands in line, and says when it is in."""

    def stand() -> None:
        ticket = turnstile.enter()
        inside.append(name)
        ticket.leave()

    thread = threading.Thread(target=stand)
    before = len(turnstile._waiting)
    thread.start()
    while len(turnstile._waiting) == before:
        time.sleep(0.001)
    return thread


def test_threads_go_in_one_after_the_other_in_the_order_in_which_they_came() -> None:
    turnstile = FairLock(patience=LONG)
    first = turnstile.enter()
    inside: list[str] = []
    threads = [waits(turnstile, inside, name) for name in "abc"]
    assert inside == []
    first.leave()
    for thread in threads:
        thread.join(20)
    assert inside == ["a", "b", "c"]
    turnstile.enter().leave()


def test_to_leave_twice_lets_nobody_in_beside_another() -> None:
    turnstile = FairLock(patience=LONG)
    first = turnstile.enter()
    first.leave()
    second = turnstile.enter()
    first.leave()
    inside: list[str] = []
    thread = waits(turnstile, inside, "a")
    first.leave()
    assert inside == []
    second.leave()
    thread.join(20)
    assert inside == ["a"]


def test_nobody_waits_for_long_for_one_that_takes_long() -> None:
    turnstile = FairLock(patience=0.01)
    slow = turnstile.enter()
    for _ in range(3):
        turnstile.enter().leave()
    slow.leave()
    assert turnstile._inside is None


def test_one_that_took_long_lets_in_nobody_when_it_leaves() -> None:
    turnstile = FairLock(patience=0.01)
    slow = turnstile.enter()
    second = turnstile.enter()
    turnstile._patience = LONG
    inside: list[str] = []
    thread = waits(turnstile, inside, "a")
    slow.leave()
    assert inside == []
    second.leave()
    thread.join(20)
    assert inside == ["a"]


@pytest.mark.parametrize("come", [False, True], ids=["still in line", "just let in"])
def test_who_is_interrupted_in_line_blocks_nobody(monkeypatch: pytest.MonkeyPatch, come: bool) -> None:
    turnstile = FairLock(patience=LONG)
    first = turnstile.enter()

    class Interrupted:
        def acquire(self, timeout: float | None = None) -> bool:
            if timeout is None:
                return True
            if come:
                first.leave()
            raise KeyboardInterrupt

        def release(self) -> None:
            pass

    with monkeypatch.context() as patch:
        patch.setattr(module, "threading", SimpleNamespace(Lock=Interrupted))
        with pytest.raises(KeyboardInterrupt):
            turnstile.enter()
    first.leave()
    turnstile.enter().leave()
