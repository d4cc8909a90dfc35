"""What is to be renewed in a forked child is noted by any thread at any moment."""

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from statestore.engine import process_fork


class Target:
    def renew_after_fork(self) -> None:
        raise AssertionError("nothing forks here")


@contextmanager
def in_between(step: Callable[[], None]) -> Iterator[None]:
    """Do *step* where Python may pass to another thread: up to 3.11 also within a single call of its own, by its GC."""

    def run(phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            step()

    thresholds = gc.get_threshold()
    gc.callbacks.append(run)
    gc.set_threshold(1, 1_000_000, 1_000_000)
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)
        gc.callbacks.remove(run)


def test_objects_are_noted_while_others_come_and_go() -> None:
    kept = [Target() for _ in range(10_000)]
    due = 0

    def note_another() -> None:
        nonlocal due
        if due:
            due -= 1
            kept.append(Target())
            process_fork.renew_in_child(kept[-1])

    with in_between(note_another):
        for one in kept[:]:
            due = 5
            process_fork.renew_in_child(one)
            due = 5
            process_fork.renew_in_child(Target())
    assert {id(one) for one in process_fork.living(Target)} == {id(one) for one in kept}
