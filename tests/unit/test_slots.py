"""The places for the connections of a store: in the order in which callers come, and none is lost."""

import gc
import threading
import time
from types import SimpleNamespace
from typing import Any

import pytest

from statestore.engine import slots as slots_module
from statestore.engine.slots import Place, Slots
from tests.concurrency.test_interrupts import Interrupted, interrupted_at

AMPLE = 20


def soon() -> float:
    return time.monotonic() + AMPLE


def give_back(slots: Slots, place: Place | None) -> None:
    assert place is not None
    slots.free.append(place)
    slots.wake()


def in_turn(slots: Slots, count: int, order: list[int]) -> list[threading.Thread]:
    """Threads that wait for a place, one behind the other; each notes its number, and gives its place back."""

    def wait(number: int) -> None:
        place = slots.take(soon())
        order.append(number)
        give_back(slots, place)

    threads = []
    for number in range(count):
        threads.append(threading.Thread(target=wait, args=(number,)))
        threads[-1].start()
        while len(slots.queue) <= number:
            time.sleep(0.0005)
    return threads


def test_there_are_as_many_places_as_asked_for_and_the_latest_is_used_next() -> None:
    slots = Slots(2)
    first, second = slots.take(soon()), slots.take(soon())
    assert first is not second
    assert (slots.taken, slots.take(time.monotonic()), slots.take(soon(), 0.001)) == (2, None, None)
    assert not slots.queue
    give_back(slots, first)
    give_back(slots, second)
    assert slots.taken == 0
    assert slots.take(soon()) is second


def test_without_a_size_nobody_waits() -> None:
    slots = Slots(None)
    places = {slots.take(time.monotonic()) for _ in range(50)}
    assert len(places) == 50
    for place in places:
        give_back(slots, place)
    assert (slots.taken, len(slots.free)) == (0, 0)


def test_who_waits_gets_a_place_in_turn() -> None:
    slots, order = Slots(1), list[int]()
    held = slots.take(soon())
    threads = in_turn(slots, 5, order)
    # One that comes now does not go past them, though it finds a place.
    assert held is not None
    slots.free.append(held)
    assert slots.take(time.monotonic()) is None
    slots.wake()
    for thread in threads:
        thread.join(AMPLE)
    assert order == list(range(5))
    assert (slots.taken, len(slots.queue)) == (0, 0)


def test_two_that_come_back_at_once_wake_two() -> None:
    slots, met = Slots(2), threading.Barrier(2)
    held = [slots.take(soon()), slots.take(soon())]

    def wait() -> None:
        place = slots.take(soon())
        met.wait(AMPLE)  # Only if both have one.
        give_back(slots, place)

    threads = [threading.Thread(target=wait) for _ in range(2)]
    for thread in threads:
        thread.start()
    while len(slots.queue) < 2:
        time.sleep(0.0005)
    for place in held:
        give_back(slots, place)
    for thread in threads:
        thread.join(AMPLE)
    assert (slots.taken, met.broken) == (0, False)


def test_a_place_that_is_gone_with_its_holder_is_made_anew() -> None:
    slots = Slots(2)
    for _ in range(5):
        slots.take(soon())
        slots.take(soon())
        gc.collect()
        assert slots.taken == 0
        assert len({id(slots.take(soon())), id(slots.take(soon()))}) <= 2
    kept = [slots.take(time.monotonic()), slots.take(time.monotonic())]
    assert None not in kept
    assert slots.take(time.monotonic()) is None
    assert slots.taken == 2


def test_who_waits_notices_that_a_place_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slots_module, "_LOOK", 0.001)
    slots, order = Slots(1), list[int]()
    held = slots.take(soon())
    threads = in_turn(slots, 3, order)
    del held
    for thread in threads:
        thread.join(AMPLE)
    assert sorted(order) == [0, 1, 2]  # One that looks each millisecond may find a place before it is woken.


@pytest.mark.parametrize("moment", ["call", "c_return"])
def test_wherever_one_is_interrupted_no_place_is_lost(moment: str) -> None:
    slots, number = Slots(1), 0
    kept = list[BaseException]()

    def use() -> None:
        place = slots.take(soon())
        assert place is not None
        waiting = slots.take(time.monotonic() + 0.002)  # None: it waits in vain.
        assert waiting is None
        slots.free.append(place)
        slots.wake()

    while interrupted_at(number := number + 1, use, moment, kept) is not None:
        assert not slots.queue
        if slots.taken:  # Its holder is remembered; an exception that is dealt with is not.
            kept.clear()
        give_back(slots, slots.take(soon(), 0.5))
    assert number > 5
    assert {type(exc) for exc in kept} <= {Interrupted}


def test_a_place_that_garbage_holds_comes_back_to_who_waits() -> None:
    slots = Slots(1)
    gc.collect()
    gc.disable()
    try:
        slots.interrupted = True
        holder: list[Any] = [slots.take(soon())]
        holder.append(holder)
        del holder
        assert slots.take(soon()) is not None
    finally:
        gc.enable()


def test_garbage_is_left_alone_while_places_are_only_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    collected: list[None] = []
    monkeypatch.setattr(slots_module, "gc", SimpleNamespace(collect=lambda: collected.append(None)))
    monkeypatch.setattr(slots_module, "_LOOK", 0.01)
    slots = Slots(1)
    place = slots.take(soon())
    assert slots.take(time.monotonic() + 0.1) is None
    assert collected == []
    slots.interrupted = True
    assert slots.take(time.monotonic() + 0.1) is None
    assert collected == [None]
    give_back(slots, place)


def test_a_signal_handler_does_not_wait_behind_whom_it_has_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slots_module, "_LOOK", 0.01)
    slots = Slots(1)
    place = slots.take(soon())
    found: list[Place | None] = []

    class Head:
        """A caller's lock, who is first in the queue and comes no further: a handler runs on its thread."""

        def release(self) -> None:
            pass

    slots.queue.append(Head())  # type: ignore[arg-type]
    thread = threading.Thread(target=lambda: found.append(slots.take(soon())))
    thread.start()
    give_back(slots, place)
    thread.join(AMPLE)
    assert found == [place]
