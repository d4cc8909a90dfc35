"""Clocks that jump, hours back and hours forth, under stores that write, sweep and hold leases."""

import random
import threading
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

from statestore import ConflictError, StateStoreError
from tests.faults.bench import Bench
from tests.faults.clients import Crowd
from tests.faults.journal import Journal
from tests.faults.table import Tally, fault

FAR = timedelta(hours=1)


class JumpingClock:
    """The time, and up to an hour more or less."""

    def __init__(self) -> None:
        self.offset = timedelta()

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self.offset

    def jump(self) -> None:
        self.offset = FAR * random.uniform(-1, 1)


@fault("clock jumps", short=4, long=300, control="lives shorter than the jumps", control_rounds=40)
def clock_jumps(bench: Bench) -> Tally:
    """Two stores, of which one's clock jumps. It sweeps, too, and both want the same lease.

    What lives for a day is not deleted by jumps of an hour; a lease of six hours is never held twice.
    """
    url = bench.url()
    clock = JumpingClock()
    right, wrong = bench.open(url), bench.open(url, clock=clock)
    journal = Journal()
    ttl = timedelta(minutes=1) if bench.unsafe else timedelta(days=1)
    crowds = []
    for name, store in (("right", right), ("wrong", wrong)):
        # In the control a session that was deleted is made again by the next append; what is missing is counted.
        crowd = Crowd(store, journal, bench.heartbeat, clients=2, prefix=name, works=("append", "batch", "read"))
        for session in crowd.names:
            store.sessions.open(session, ttl=ttl)
        right.sessions.open("leased")
        crowds.append(crowd.start())
    for number in bench.each_round():
        clock.jump()
        crowds[1].wait_for(2)
        # It may refuse to, with a clock like that.
        with suppress(StateStoreError):
            wrong.sweep()
        _lease(right, wrong, journal, number)
    for crowd in crowds:
        crowd.stop()
    tally = journal.settle(right)
    tally.rounds = bench.rounds
    return tally


def _lease(right: Any, wrong: Any, journal: Journal, number: int) -> None:
    held: list[Any] = []
    lock = threading.Lock()

    def take(store: Any, who: str) -> None:
        try:
            lease = store.sessions.acquire("leased", owner=f"{who} {number}", ttl=timedelta(hours=6))
        except ConflictError:
            return
        except StateStoreError as exc:
            journal.is_wrong(f"a lease: {type(exc).__name__}: {exc}")
            return
        with lock:
            held.append((store, lease))

    threads = [threading.Thread(target=take, args=pair) for pair in ((right, "right"), (wrong, "wrong"))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    if len(held) != 1:
        journal.is_wrong(f"{len(held)} hold the lease")
    for store, lease in held:
        store.sessions.release(lease)
