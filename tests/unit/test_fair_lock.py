"""Threads that take turns."""

import threading
import time
from types import SimpleNamespace

import pytest

from statestore.engine import waits as module
from statestore.engine.waits import FairLock

LONG = 60.0


def waits(lock: FairLock, inside: list[str], name: str) -> threading.Thread:
    """A thread that stands in line, and says when it is in."""

    def stand() -> None:
        ticket = lock.enter()
        inside.append(name)
        ticket.leave()

    thread = threading.Thread(target=stand)
    before = len(lock._waiting)
    thread.start()
    while len(lock._waiting) == before:
        time.sleep(0.001)
    return thread


def test_threads_go_in_one_after_the_other_in_the_order_in_which_they_came() -> None:
    lock = FairLock(patience=LONG)
    first = lock.enter()
    inside: list[str] = []
    threads = [waits(lock, inside, name) for name in "abc"]
    assert inside == []
    first.leave()
    for thread in threads:
        thread.join(20)
    assert inside == ["a", "b", "c"]
    lock.enter().leave()


def test_to_leave_twice_lets_nobody_in_beside_another() -> None:
    lock = FairLock(patience=LONG)
    first = lock.enter()
    first.leave()
    second = lock.enter()
    first.leave()
    inside: list[str] = []
    thread = waits(lock, inside, "a")
    first.leave()
    assert inside == []
    second.leave()
    thread.join(20)
    assert inside == ["a"]


def test_nobody_waits_for_long_for_one_that_takes_long() -> None:
    lock = FairLock(patience=0.01)
    slow = lock.enter()
    for _ in range(3):
        lock.enter().leave()
    slow.leave()
    assert lock._inside is None


def test_one_that_took_long_lets_in_nobody_when_it_leaves() -> None:
    lock = FairLock(patience=0.01)
    slow = lock.enter()
    second = lock.enter()
    lock._patience = LONG
    inside: list[str] = []
    thread = waits(lock, inside, "a")
    slow.leave()
    assert inside == []
    second.leave()
    thread.join(20)
    assert inside == ["a"]


@pytest.mark.parametrize("come", [False, True], ids=["still in line", "just let in"])
def test_who_is_interrupted_in_line_blocks_nobody(monkeypatch: pytest.MonkeyPatch, come: bool) -> None:
    lock = FairLock(patience=LONG)
    first = lock.enter()

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
            lock.enter()
    first.leave()
    lock.enter().leave()
