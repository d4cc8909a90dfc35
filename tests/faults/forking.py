"""`os.fork()` while eight threads write: parent and child go on with the same store."""

import asyncio
import faulthandler
import json
import multiprocessing
import os
import signal
import socket
import tempfile
import threading
import time
import traceback
import warnings
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import psycopg

from statestore import StateStoreError
from tests.faults.bench import Bench
from tests.faults.clients import Crowd
from tests.faults.journal import Journal
from tests.faults.table import Tally, fault
from tests.faults.watch import Heartbeat

TIMEOUT = timedelta(seconds=10)
EACH = 12


@fault(
    "fork", short=1, long={"sqlite": 1_500, "postgresql": 600}, limit=1_800,
    control="a connection and a lock shared with the child", control_rounds=3,
)  # fmt: skip
def fork(bench: Bench) -> Tally:
    """Bare `os.fork` and multiprocessing's, in turn. In an async world the child has the parent's async store."""
    if bench.unsafe:
        return _lock_held(bench) if bench.database == "sqlite" else _shared_connection(bench)
    url = bench.url()
    store = bench.open(url, timeout=TIMEOUT)
    journal = Journal()
    crowd = Crowd(store, journal, bench.heartbeat, clients=8, timeout=TIMEOUT)
    crowd.prepare()
    crowd.start()
    for number in bench.each_round():
        crowd.wait_for(8)
        if bench.world == "sync":
            work: Callable[[int], None] = _use_store(store, number)
        else:
            work = _await_store(store._target, number)
        _in_child(work, journal, multiprocess=number % 2 == 1)
    crowd.wait_for(8)
    crowd.stop()
    tally = journal.settle(bench.open(url), url=url)
    tally.rounds = bench.rounds
    return tally


def _use_store(store: Any, number: int) -> Callable[[int], None]:
    def work(file: int) -> None:
        heartbeat = Heartbeat()
        crowd = Crowd(
            store, Journal(file), heartbeat, clients=4, most=EACH, prefix=f"child-{number}", timeout=TIMEOUT
        )  # fmt: skip
        crowd.prepare()
        crowd.start().join()

    return work


def _await_store(store: Any, number: int) -> Callable[[int], None]:
    """The store belongs to the parent's event loop: in the child it may say so, and has to say something."""

    def work(file: int) -> None:
        journal = Journal(file)

        async def use() -> None:
            tag, session = f"child-{number}", f"child-{number}-s"
            try:
                async with asyncio.timeout(TIMEOUT.total_seconds() + 5):
                    stored = await store.history.append(session, [{"role": "user", "tag": tag}], create=True)
                    journal.note("acknowledged", session, [tag])
                    if [entry.content["tag"] for entry in stored] != [tag]:
                        journal.is_wrong("an append in the child returned others' entries")
            except StateStoreError:
                pass
            except TimeoutError:
                journal.is_hung("the child's await never ended")

        asyncio.run(use())

    return work


def _in_child(work: Callable[[int], None], journal: Journal, *, multiprocess: bool) -> None:
    reader, writer = os.pipe()

    def run() -> None:
        # What every thread of the child waits for, if it does so for long: told with what came of it.
        stacks = tempfile.TemporaryFile("w+")  # noqa: SIM115
        faulthandler.dump_traceback_later(TIMEOUT.total_seconds() - 2, file=stacks)
        try:
            os.close(reader)
            work(writer)
        except BaseException:
            stacks.seek(0)
            told = traceback.format_exc()[-3000:] + stacks.read()[:3000]
            os.write(writer, json.dumps(["wrong", told, []]).encode() + b"\n")
        finally:
            # Not the parent's exit handlers, of which the harness has some.
            os._exit(0)

    with warnings.catch_warnings():
        # Python 3.12 warns of forks beside threads. This is the point here.
        warnings.simplefilter("ignore", DeprecationWarning)
        if multiprocess:
            process = multiprocessing.get_context("fork").Process(target=run)
            process.start()
            pid = process.pid
        else:
            pid = os.fork()
            if pid == 0:
                run()
    assert pid
    os.close(writer)
    timer = threading.Timer(3 * TIMEOUT.total_seconds(), _end, (pid, journal))
    timer.start()
    with os.fdopen(reader) as lines:
        journal.feed_all(lines)
    timer.cancel()
    if multiprocess:
        process.join()
        process.close()
    else:
        os.waitpid(pid, 0)


def _end(pid: int, journal: Journal) -> None:
    journal.is_hung("a child never ended")
    os.kill(pid, signal.SIGKILL)


def _lock_held(bench: Bench) -> Tally:
    """What a library does that knows nothing of forks: a lock that another thread holds stays held in the child."""
    journal = Journal()
    lock = threading.Lock()

    def work(file: int) -> None:
        if not lock.acquire(timeout=1):
            Journal(file).is_hung("the lock is held by a thread that is not there")

    for _ in bench.each_round():
        with lock:
            _in_child(work, journal, multiprocess=False)
    journal.seen.acknowledged = 1
    return journal.seen


def _shared_connection(bench: Bench) -> Tally:
    """Parent and child talk over one socket: each gets answers to what the other asked."""
    journal = Journal()
    connection: Any = psycopg.connect(bench.url(), autocommit=True)

    def ask(who: str, journal: Journal) -> None:
        until = time.monotonic() + 3
        for number in range(300):
            # Below the driver's lock, which another thread may have held at the fork.
            sent = f"{who} {number}".encode()
            result = connection.pgconn.exec_params(b"SELECT $1::text", [sent])
            found = result.get_value(0, 0) if result.ntuples else None
            if found != sent:
                journal.is_wrong(f"{who} {number} was answered with {found!r}")
                return
            if time.monotonic() > until:
                return

    def work(file: int) -> None:
        signal.alarm(5)
        ask("child", Journal(file))

    beside = threading.Thread(target=ask, args=("parent", journal), daemon=True)
    beside.start()
    _in_child(work, journal, multiprocess=False)
    beside.join(5)
    if beside.is_alive():
        journal.is_hung("the parent waits for an answer that the child took")
        with socket.socket(fileno=os.dup(connection.fileno())) as end:
            end.shutdown(socket.SHUT_RDWR)
        beside.join(5)
    connection.close()
    journal.seen.acknowledged = 1
    return journal.seen
