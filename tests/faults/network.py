"""A network that loses replies, resets connections, or swallows everything. PostgreSQL only: SQLite has none."""

import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import TimeoutError as PortalTimeoutError
from datetime import timedelta
from typing import Any

import psycopg

import statestore
from statestore import CommitUnknownError, StateStoreError, UnavailableError
from tests.faults.bench import Bench
from tests.faults.clients import Crowd
from tests.faults.journal import Journal
from tests.faults.proxy import Network
from tests.faults.table import Tally, fault

POSTGRESQL = ("postgresql",)
# Behind a network that swallows everything a call ends by its own clock.
SHORT = timedelta(seconds=2)
WRITES = ("append", "append", "batch", "increment", "transaction")


def network_to(bench: Bench, url: str) -> Network:
    network = Network(url)
    bench.stack.callback(network.close)
    return network


@fault(
    "reply lost", databases=POSTGRESQL, short=6, long=300,
    control="repeated after CommitUnknownError", control_rounds=10,
)  # fmt: skip
def reply_lost(bench: Bench) -> Tally:
    """One client alone: each append is a statement of its own."""
    return _lose_replies(bench, clients=1, outage=False)


@fault(
    "reply lost, in groups", databases=POSTGRESQL, short=6, long=400,
    control="repeated after CommitUnknownError", control_rounds=10,
)  # fmt: skip
def reply_lost_in_groups(bench: Bench) -> Tally:
    return _lose_replies(bench, clients=8, outage=False)


@fault(
    "reply lost, then an outage", databases=POSTGRESQL, short=2, long=150,
    control="repeated after CommitUnknownError", control_rounds=6,
)  # fmt: skip
def reply_lost_before_an_outage(bench: Bench) -> Tally:
    """Behind the loss nobody answers for a while: longer than the store tries, every other time."""
    return _lose_replies(bench, clients=1, outage=True)


@fault(
    "reply lost in groups, then an outage", databases=POSTGRESQL, short=2, long=150,
    control="repeated after CommitUnknownError", control_rounds=6,
)  # fmt: skip
def reply_lost_in_groups_before_an_outage(bench: Bench) -> Tally:
    return _lose_replies(bench, clients=8, outage=True)


def _lose_replies(bench: Bench, *, clients: int, outage: bool) -> Tally:
    url = bench.url()
    network = network_to(bench, url)
    retry_for = timedelta(seconds=0.3) if outage else timedelta(seconds=15)
    store = bench.open(network.url, retry_for=retry_for, pool_size=4)
    journal = Journal()
    blind, works = ("repeat", WRITES[-2:]) if bench.unsafe else ("", WRITES)
    crowd = Crowd(store, journal, bench.heartbeat, clients=clients, works=works, blind=blind)
    crowd.prepare()
    crowd.start()
    for number in bench.each_round():
        crowd.wait_for(2 * clients)
        before = network.lost
        # A commit's is the one that leaves its caller with a question.
        network.lose_reply(
            to=b"COMMIT" if bench.unsafe or number % 3 == 0 else b"",
            outage=(0.5 if number % 2 else 0.1) if outage else 0.0,
        )
        until = time.monotonic() + 30
        while network.lost == before and time.monotonic() < until:
            time.sleep(0.002)
        while network.mode != "carry":
            time.sleep(0.01)
    crowd.wait_for(10)
    crowd.stop()
    tally = journal.settle(bench.open(url), url=url)
    tally.rounds = network.lost
    return tally


@fault(
    "connections reset", databases=POSTGRESQL, short=8, long=400,
    control="errors taken for success", control_rounds=60,
)  # fmt: skip
def connections_reset(bench: Bench) -> Tally:
    """All connections are cut at once, at any moment; every other time by RST."""
    url = bench.url()
    network = network_to(bench, url)
    store = bench.open(network.url)
    journal = Journal()
    crowd = Crowd(store, journal, bench.heartbeat, blind="done" if bench.unsafe else "")
    crowd.prepare()
    crowd.start()
    for number in bench.each_round():
        crowd.wait_for(random.randrange(1, 12))
        time.sleep(random.random() * 0.005)
        network.cut(reset=number % 2 == 0)
    crowd.wait_for(10)
    crowd.stop()
    tally = journal.settle(bench.open(url), url=url)
    tally.rounds = bench.rounds
    return tally


@fault("black hole", databases=POSTGRESQL, short=1, long=20, control="the driver alone", control_rounds=1)
def black_hole(bench: Bench) -> Tally:
    """From a moment on nothing arrives and nobody says so. Every call ends in time; then the network comes back."""
    url = bench.url()
    network = network_to(bench, url)
    if bench.unsafe:
        return _driver_alone(network)
    store = bench.open(network.url, timeout=SHORT, pool_size=3)
    journal = Journal()
    tally = Tally(rounds=bench.rounds)
    works = ("append", "append", "batch", "increment", "transaction", "read", "cache")
    for number in bench.each_round():
        network.mode = "carry"
        # Made before the fall, in a quiet network: what comes is about calls under way and new ones.
        crowd = Crowd(
            store, journal, bench.heartbeat, timeout=SHORT, prefix=f"r{number}", works=works, repeats=False
        )  # fmt: skip
        _until_it_works(crowd.prepare)
        crowd.start()
        crowd.wait_for(10)
        network.mode = "swallow"
        time.sleep(2 * SHORT.total_seconds() if number % 2 else 0.5)
        crowd.stop()
        _narrowed(store, bench, tally)
    network.mode = "carry"
    network.cut()
    tally.add(journal.settle(bench.open(url), url=url))
    return tally


def _until_it_works(work: Callable[[], Any]) -> None:
    until = time.monotonic() + 30
    while True:
        try:
            work()
            return
        except StateStoreError:
            if time.monotonic() > until:
                raise


def _narrowed(store: Any, bench: Bench, tally: Tally) -> None:
    """A deadline narrower than the store's timeout counts."""
    began = time.monotonic()
    try:
        with statestore.deadline(0.5):
            store.history.append("narrow", [{"role": "user", "content": ""}], create=True)
        tally.is_wrong("an append was acknowledged by a network that swallows everything")
    except (UnavailableError, CommitUnknownError):
        pass
    except PortalTimeoutError:
        tally.is_hung("a call with a deadline never came back")
    took = time.monotonic() - began
    if took > 0.5 + bench.heartbeat.allowed(began):
        tally.is_hung(f"a call with a deadline of 0.5 s took {took:.1f} s")


def _driver_alone(network: Network) -> Tally:
    tally = Tally(rounds=1, acknowledged=1)
    connection = psycopg.connect(network.url, autocommit=True)
    network.mode = "swallow"
    ended = threading.Event()

    def ask() -> None:
        try:
            connection.execute("SELECT 1")
        except psycopg.Error:
            pass
        finally:
            ended.set()

    threading.Thread(target=ask, daemon=True).start()
    if not ended.wait(2 * SHORT.total_seconds() + 0.5):
        tally.is_hung("the driver waits for ever")
    network.cut()
    ended.wait(10)
    connection.close()
    return tally


@fault(
    "one dead connection",
    databases=POSTGRESQL,
    short=1,
    long=20,
    control="one connection, and no timeout",
    control_rounds=1,
)
def one_dead_connection(bench: Bench) -> Tally:
    """One connection of several swallows everything: who waits for it ends in time, and others go on meanwhile."""
    url = bench.url()
    network = network_to(bench, url)
    # The control's timeout is so long that it takes no part.
    timeout = timedelta(seconds=3600) if bench.unsafe else 3 * SHORT
    store = bench.open(network.url, timeout=timeout, pool_size=1 if bench.unsafe else 4)
    journal = Journal()
    tally = Tally(rounds=bench.rounds)
    for number in bench.each_round():
        # All write to the same session, behind the one whose connection died.
        crowd = Crowd(
            store, journal, bench.heartbeat, timeout=3 * SHORT, sessions=1, clients=5, prefix=f"r{number}",
            works=("append", "read"), repeats=False,
        )  # fmt: skip
        crowd.prepare()
        crowd.start()
        crowd.wait_for(10)
        until = time.monotonic() + 10
        while not network.swallow_one() and time.monotonic() < until:
            time.sleep(0.0005)
        if not crowd.wait_for(20, seconds=2 * SHORT.total_seconds()):
            tally.is_hung("nobody got anything done beside one dead connection")
        if bench.unsafe:
            network.cut()
        crowd.stop()
    network.cut()
    tally.add(journal.settle(bench.open(url), url=url))
    return tally
