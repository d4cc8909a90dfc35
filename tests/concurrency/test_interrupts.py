"""Ctrl-C, or the time limit of a host, at any moment of a call: the store goes on working.

Python raises it where a function begins, and where one of C has returned: then its result is lost.
"""

import gc
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from types import FrameType, SimpleNamespace
from typing import Any

import pytest

import statestore
from statestore import NewEntry, StateStore
from statestore.engine import waits as waiting_for
from statestore.engine.batching import ThreadBatches
from statestore.engine.calls import Mode
from statestore.engine.schedule import Schedule
from statestore.engine.waits import OnlyWriter, SharedSignal, Signal
from statestore.engine.watchdog import watchdog

FOLDER = statestore.__path__[0]


class Interrupted(BaseException):
    """As KeyboardInterrupt."""


def begin(store: StateStore) -> None:
    with store.transaction() as tx:
        tx.state.set("s", "k", 1)


def connect(store: StateStore) -> None:
    store._database._connections._close_idle()
    store.state.get("s", "k", None)


CALLS: dict[str, Callable[[StateStore], Any]] = {
    "append": lambda store: store.history.append("s", [NewEntry("x")]),
    "set": lambda store: store.state.set("s", "k", 1),
    "read": lambda store: store.history.read("s", last=1),
    "transaction": begin,
    "connecting": connect,
}


def interrupted_at(
    number: int,
    call: Callable[[], Any],
    moment: str,
    kept: list[BaseException] | None = None,
    *,
    within: tuple[str, ...] = (FOLDER,),
) -> str | None:
    """Interrupt a call where its so-manieth function begins, or returns. Where that was; None if the call has fewer.

    Functions of the package count, or those in the files and folders that *within* names. The exception is added to
    *kept*: as in an interactive session, it keeps all that the functions held.
    """
    left, where = number, None

    def count(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal left, where
        if event == moment and frame.f_code.co_filename.startswith(within):
            left -= 1
            if left == 0:
                sys.setprofile(None)
                where = frame.f_code.co_qualname
                raise Interrupted

    sys.setprofile(count)
    try:
        call()
    except Interrupted as exc:
        if kept is not None:
            kept.append(exc)
    finally:
        sys.setprofile(None)
    return where


def test_who_is_interrupted_while_it_waits_for_the_only_writer_keeps_nobody_out() -> None:
    number, writer = 0, OnlyWriter()

    def wait() -> None:
        held = writer.enter(time.monotonic() + 5)
        assert held is not None
        threading.Timer(0.01, writer.leave, [held]).start()
        place = writer.enter(time.monotonic() + 5)
        try:
            assert place is not None
        finally:
            try:
                writer.leave(place)  # type: ignore[arg-type]
            except Interrupted:
                writer.leave(place)  # type: ignore[arg-type]
                raise

    for moment in ("call", "c_return"):
        number = 0
        while interrupted_at(number := number + 1, wait, moment) is not None:
            began = time.monotonic()
            after = writer.enter(began + 5)
            assert after is not None, number
            assert time.monotonic() - began < 2, "nobody was woken"
            writer.leave(after)
        assert number > 3


@pytest.mark.parametrize("moment", ["call", "c_return"])
@pytest.mark.parametrize("step", ["set", "wait", "clear"])
def test_who_is_interrupted_at_a_signal_leaves_one_that_works(step: str, moment: str) -> None:
    """Unlike `threading.Event`, whose functions are Python: a lock that one of them has taken stays taken."""
    number, where = 0, ""
    while where is not None:
        signal = Signal()
        steps: dict[str, Callable[[], Any]] = {
            "set": signal.set,
            "wait": partial(signal.wait, 0),
            "clear": signal.clear,
        }
        within = (FOLDER, threading.__file__)
        where = interrupted_at(number := number + 1, steps[step], moment, within=within)  # type: ignore[assignment]
        setting = threading.Thread(target=signal.set, daemon=True)
        setting.start()
        assert signal.wait(5), where
        setting.join(5)
        assert not setting.is_alive(), where
    assert number > 1


@pytest.mark.parametrize("moment", ["call", "c_return"])
@pytest.mark.parametrize("is_set", [False, True])
def test_who_is_interrupted_at_a_shared_signal_keeps_no_other_from_it(is_set: bool, moment: str) -> None:
    number, where = 0, ""
    within = (FOLDER, threading.__file__)
    while where is not None:
        signal, heard = SharedSignal(), list[bool]()
        waiting = [threading.Thread(target=lambda: heard.append(signal.wait(5)), daemon=True) for _ in range(2)]  # noqa: B023
        waiting[0].start()
        if is_set:
            where = interrupted_at(number := number + 1, signal.set, moment, within=within)  # type: ignore[assignment]
        else:
            wait = partial(signal.wait, 0.001)
            where = interrupted_at(number := number + 1, wait, moment, within=within)  # type: ignore[assignment]
        waiting[1].start()
        setting = threading.Thread(target=signal.set, daemon=True)
        setting.start()
        for thread in (*waiting, setting):
            thread.join(5)
        assert heard == [True, True], where
    assert number > 1


def test_who_is_interrupted_as_it_is_woken_does_not_keep_the_others_waiting() -> None:
    signal, heard, waits = SharedSignal(), list[bool](), threading.Event()
    lock = signal._lock

    def acquire(timeout: float) -> bool:
        waits.set()
        return lock.acquire(timeout=timeout)

    signal._lock = SimpleNamespace(acquire=acquire, release=lock.release)  # type: ignore[assignment]
    thread = threading.Thread(target=lambda: heard.append(signal.wait(5)), daemon=True)
    thread.start()
    assert waits.wait(5)
    # Whoever was woken first holds the lock, and goes with an interrupt before it can let the next one in.
    signal._set = True
    assert lock.locked()
    thread.join(2)
    assert heard == [True]


def test_a_shared_signal_is_waited_for_until_the_very_end(monkeypatch: pytest.MonkeyPatch) -> None:
    signal, now = SharedSignal(), iter([0.0, 0.0, 0.4, 0.499])

    def monotonic() -> float:
        try:
            return next(now)
        except StopIteration:
            signal.set()
            return 0.4999

    monkeypatch.setattr(waiting_for, "_LOOK", 0.001)
    monkeypatch.setattr(waiting_for, "time", SimpleNamespace(monotonic=monotonic))
    assert signal.wait(0.5)
    ends = iter([0.0, 0.0, 0.5])
    monkeypatch.setattr(waiting_for, "time", SimpleNamespace(monotonic=lambda: next(ends)))
    assert not SharedSignal().wait(0.5)


@pytest.mark.parametrize("moment", ["call", "c_return"])
def test_who_is_interrupted_while_it_takes_a_batch_loses_none_of_it(moment: str) -> None:
    number, where = 0, ""
    while where is not None:
        schedule = Schedule(None)
        schedule.waiting = waiting = [SimpleNamespace(key=key) for key in "abc"]
        where = interrupted_at(number := number + 1, schedule.take, moment)  # type: ignore[assignment]
        assert schedule.waiting == ([] if where is None else waiting), where
    assert number > 3


@pytest.mark.parametrize("left", [False, True], ids=["done together", "left over"])
@pytest.mark.parametrize("moment", ["call", "c_return"])
def test_who_is_interrupted_in_a_batch_keeps_nobody_waiting(moment: str, left: bool) -> None:
    number = 0
    where: str | None = ""
    while where is not None:
        go, ended, done = threading.Event(), threading.Event(), list[str]()

        def alone(call: Any, go: threading.Event = go, done: list[str] = done) -> str:
            go.wait(5)
            done.append(call.name)
            return "alone"

        def together(calls: Any, until: float, done: list[str] = done) -> list[Any]:
            done.extend(call.name for call in calls if not left)
            return [None if left else "together"] * len(calls)

        batches = ThreadBatches(alone, together, patience=None)

        def call(name: str, batches: ThreadBatches = batches) -> Any:
            asked: Any = SimpleNamespace(
                name=name, ends_at=time.monotonic() + 3, mode=Mode.READ, attempt=1, unsettled=False
            )
            return batches.run(asked, "key")

        def follow(until_queued: int, name: str, ended: threading.Event = ended, batches: Any = batches) -> None:
            while len(batches._schedule.waiting) < until_queued and not ended.is_set():
                time.sleep(0.0005)
            call(name)

        def start_when_both_wait(
            go: threading.Event = go, ended: threading.Event = ended, batches: Any = batches
        ) -> None:
            while len(batches._schedule.waiting) < 2 and not ended.wait(0.0005):
                pass
            go.set()

        first = threading.Thread(target=call, args=("first",))
        others = [threading.Thread(target=follow, args=(1, "behind")), threading.Thread(target=start_when_both_wait)]
        first.start()
        while batches._schedule.current is None:
            time.sleep(0.0005)
        for other in others:
            other.start()
        began = time.monotonic()
        where = interrupted_at(number := number + 1, lambda: call("interrupted"), moment)
        assert time.monotonic() - began < 2, where
        ended.set()
        for thread in (first, *others):
            thread.join(2)
            assert not thread.is_alive(), where
        call("after")
        schedule: Any = batches._schedule
        assert (schedule.current, schedule.waiting, schedule._busy) == (None, [], {}), where
        assert len(done) == len({*done}), where
        assert {*done} >= {"first", "behind", "after"}, where
    assert number > 15


# A connection that is just being made belongs to nobody then: it is closed when it is collected, here.
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("moment", ["call", "c_return"])
@pytest.mark.parametrize("name", CALLS)
def test_wherever_a_call_is_interrupted_the_next_one_works(database_url: str, name: str, moment: str) -> None:
    kept: list[BaseException] = []
    with StateStore.open(database_url, timeout=5, durability="normal", pool_size=2) as store:
        store.sessions.create("s")
        CALLS[name](store)
        number, left = 0, []
        # What remembers an interrupted attempt to connect holds its place, as its thread does.
        keep = None if name == "connecting" else kept
        while (where := interrupted_at(number := number + 1, lambda: CALLS[name](store), moment, keep)) is not None:
            # Takes the only writer of SQLite, and the place of an append.
            store.history.append("s", [NewEntry("after")])
            state = store._database.pool()
            assert state is not None
            if state.used and name != "connecting":  # There its thread may not have ended yet, or it is garbage.
                left.append(where)
                kept.clear()
            if name != "connecting":  # Else whoever has the connection next is given up when that use was due.
                assert not watchdog.watches, where
        assert number > 20
        assert left == []
        assert [entry.seq for entry in store.history.read("s")] == list(range(1, store.history.count("s") + 1))
        kept.clear()
        gc.collect()  # Now: the store closes what has come back.
