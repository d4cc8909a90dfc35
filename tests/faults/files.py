"""One SQLite file, and everybody at it; and files that are not what they should be."""

import json
import os
import random
import sqlite3
import subprocess
import sys
import threading
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import make_url

from statestore import StateStore, StateStoreError
from tests.faults.bench import Bench
from tests.faults.clients import Crowd
from tests.faults.journal import DENIED, Journal
from tests.faults.processes import Visitors, Writers
from tests.faults.table import Tally, fault

SQLITE = ("sqlite",)
PATIENT = timedelta(seconds=29)
COUNT = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1])
print(connection.execute("SELECT count(*) FROM own").fetchone()[0])
connection.close()
"""


@fault(
    "two stores on one file", databases=SQLITE, short=2, long=500, limit=1_800, control_rounds=1,
    control="the file opened and closed beside SQLite",
)  # fmt: skip
def two_stores(bench: Bench) -> Tally:
    """Every way to reach one file at once, from several processes, of which one is killed in each round.

    In this process: a store of each world, one that is opened for each request, and an application's own connection.
    Beside it four processes that write until they are killed, and the command line, coming and going.
    """
    url = bench.url()
    path = Path(str(make_url(url).database))
    if bench.unsafe:
        return _opened_beside(path)
    journal = Journal()
    crowds = [
        Crowd(bench.open(url, world=world), journal, bench.heartbeat, prefix=world, clients=2, pause=0.005)
        for world in ("sync", "async")
    ]
    for crowd in crowds:
        crowd.prepare()
        crowd.start()
    end = threading.Event()
    beside = [
        threading.Thread(target=_per_request, args=(url, journal, end), daemon=True),
        threading.Thread(target=_own_connection, args=(path, journal, end), daemon=True),
    ]
    for thread in beside:
        thread.start()
    with Writers(journal) as writers, Visitors(url, journal):
        for number in bench.each_round():
            running = [writers.start(url, bench.world, f"p{number}.{process}") for process in range(4)]
            for victim in running:
                victim.wait_until_writing()
                time.sleep(random.random() * 0.1)
                victim.kill()
            # Now the command line is the last that has the file open, as far as it can see.
            time.sleep(0.3 if number % 2 else 0)
        end.set()
        for thread in beside:
            thread.join(60)
            if thread.is_alive():
                journal.is_hung(f"{thread.name} never came back")
        for crowd in crowds:
            crowd.stop()
    tally = journal.settle(bench.open(url), url=url)
    # What a new process sees, with nothing of this one's files left open.
    return _with_rounds(tally, bench.rounds)


@fault(
    "a minute on one file", databases=SQLITE, short=1, long=120, control_rounds=1,
    control="the file opened and closed beside SQLite",
)  # fmt: skip
def a_minute(bench: Bench) -> Tally:
    """Four processes of four writers each, without a pause, and the command line every 100 ms.

    Once a second one of them is killed, at any moment, and another one takes its place; the others go on.
    """
    url = bench.url()
    if bench.unsafe:
        return _opened_beside(Path(str(make_url(url).database)))
    journal = Journal()
    with Writers(journal) as writers, Visitors(url, journal) as visitors:
        running = [writers.start(url, bench.world, f"p{process}") for process in range(4)]
        for writer in running:
            writer.wait_until_writing()
        for number in bench.each_round():
            time.sleep(random.uniform(0.1, 1.9) if bench.long else 0.1)
            running.pop(random.randrange(4)).kill()
            running.append(writers.start(url, bench.world, f"p{number + 4}"))
        for writer in running:
            writer.wait_until_writing()
            writer.kill()
    tally = journal.settle(bench.open(url), url=url)
    tally.note(f"the command line came {visitors.came} times")
    return _with_rounds(tally, bench.rounds)


def _with_rounds(tally: Tally, rounds: int) -> Tally:
    tally.rounds = rounds
    return tally


def _per_request(url: str, journal: Journal, end: threading.Event) -> None:
    number = 0
    while not end.wait(0.01):
        number += 1
        tag, session = f"request.{number}", "requests"
        try:
            with StateStore.open(url) as store:
                store.history.append(session, [{"role": "user", "content": "", "tag": tag}], create=True)
                journal.note("acknowledged", session, [tag])
        except StateStoreError as exc:
            journal.note(DENIED, session, [tag])
            journal.is_wrong(f"a store per request: {type(exc).__name__}: {exc}")
        except Exception as exc:
            journal.is_wrong(f"a store per request: raw {exc!r}")


def _own_connection(path: Path, journal: Journal, end: threading.Event) -> None:
    """An application's table in the same file, over connections that come and go."""
    written = 0
    while not end.wait(0.02):
        connection = sqlite3.connect(path, timeout=30)
        try:
            with connection:
                connection.execute("CREATE TABLE IF NOT EXISTS own (number INTEGER PRIMARY KEY)")
                connection.execute("INSERT INTO own VALUES (?)", (written,))
            written += 1
            found = connection.execute("SELECT count(*) FROM own").fetchone()[0]
            if found != written:
                journal.is_wrong(f"the application's own table has {found} of {written} rows")
                return
        except sqlite3.Error as exc:
            journal.is_wrong(f"the application's own connection: {exc!r}")
            return
        finally:
            connection.close()


def _opened_beside(path: Path) -> Tally:
    """Closing any descriptor of a file drops all POSIX locks that the process holds on it."""
    tally = Tally(rounds=1)
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("CREATE TABLE own (number INTEGER PRIMARY KEY)")
    os.close(os.open(path, os.O_RDWR))
    ask = [sys.executable, "-c", COUNT, str(path)]
    subprocess.run(ask, check=False, capture_output=True)
    for number in range(20):
        connection.execute("INSERT INTO own VALUES (?)", (number,))
        tally.acknowledged += 1
    seen = subprocess.run(ask, check=False, capture_output=True, text=True).stdout
    connection.close()
    tally.lost = tally.acknowledged - int(seen or 0)
    return tally


@fault(
    "32 processes on one file", databases=SQLITE, short=1, long=2, control_rounds=1,
    control="no patience with other writers",
)  # fmt: skip
def many_processes(bench: Bench) -> Tally:
    """Each writes as fast as it can; none may be refused within half a minute."""
    processes, writes = (32, 100) if bench.long else (8, 25)
    url = bench.url()
    journal = Journal()
    patience: dict[str, Any] = {"timeout": PATIENT}
    if bench.unsafe:
        patience = {name: timedelta(milliseconds=2) for name in ("timeout", "lock_timeout", "retry_for")}
    tally = Tally()
    for number in bench.each_round():
        # The control has no patience with one who holds the file for a moment.
        holder = sqlite3.connect(str(make_url(url).database), isolation_level=None, check_same_thread=False)
        if bench.unsafe:
            holder.execute("BEGIN IMMEDIATE")
            letting_go = threading.Timer(3, holder.rollback)
            letting_go.start()
        with Writers(journal) as writers:
            running = [
                writers.start(
                    url, bench.world, f"r{number}-p{process}", **patience,
                    crowd={"clients": 1, "most": writes, "works": ("append", "batch", "increment"), "repeats": False},
                )
                for process in range(processes)
            ]  # fmt: skip
            for writer in running:
                writer.join(300)
        if bench.unsafe:
            letting_go.join()
        holder.close()
    refused = sum(answer == DENIED for answer in journal.answers.values())
    if refused:
        tally.wrong += refused
        tally.note(f"{refused} writes were refused")
    expected = bench.rounds * processes
    if len({tag.lstrip("+").partition(".")[0] for tag in journal.answers}) != expected:
        tally.is_wrong("a process did not start")
    tally.add(journal.settle(bench.open(url), url=url))
    return _with_rounds(tally, bench.rounds)


@fault("foreign and corrupt file", databases=SQLITE, short=10, long=1000, control="the driver alone", control_rounds=30)
def foreign_and_corrupt(bench: Bench) -> Tally:
    """A page is overwritten, the end is missing, or it was never ours: our error or the truth."""
    url = bench.url()
    path = Path(str(make_url(url).database))
    tally = Tally(rounds=bench.rounds)
    truth: dict[str, list[str]] = {}
    with StateStore.open(url) as store:
        for number in range(12):
            truth[f"s{number}"] = [f"s{number}.{part}" for part in range(15)]
            for tag in truth[f"s{number}"]:
                # Some long enough to need pages of their own.
                content = "x" * (9000 if tag.endswith("4") else 200)
                store.history.append(
                    f"s{number}", [{"role": "user", "content": content, "tag": tag}], create=True
                )  # fmt: skip
                tally.acknowledged += 1
    sound = path.read_bytes()
    chance = random.Random(7)
    for number in bench.each_round():
        damaged = bench.folder / "damaged.db"
        for name in bench.folder.glob("damaged.db*"):
            name.unlink()
        what, data = _damage(sound, chance, number)
        damaged.write_bytes(data)
        try:
            if bench.unsafe:
                _read_raw(damaged, truth, tally)
            else:
                _read_damaged(bench, damaged, truth, tally, foreign=what == "foreign")
        except Exception as exc:
            tally.is_wrong(f"{what}: raw {type(exc).__module__}.{type(exc).__name__}")
        if what == "foreign" and damaged.read_bytes() != data:
            tally.is_wrong("a foreign file was changed")
    return tally


def _damage(sound: bytes, chance: random.Random, number: int) -> tuple[str, bytes]:
    page = 4096 * chance.randrange(len(sound) // 4096)
    if number % 5 == 0:
        return "foreign", chance.randbytes(chance.randrange(1, 20_000))
    if number % 5 == 1:
        return "cut off", sound[: chance.randrange(1, len(sound))]
    filler = bytes(4096) if number % 5 == 2 else chance.randbytes(4096)
    return "overwritten", sound[:page] + filler + sound[page + 4096 :]


def _read_damaged(bench: Bench, path: Path, truth: dict[str, list[str]], tally: Tally, *, foreign: bool) -> None:
    try:
        store = bench.open(f"sqlite:///{path}")
    except StateStoreError:
        return
    try:
        if foreign:
            tally.is_wrong("a file of random bytes was opened")
        for session, tags in truth.items():
            try:
                found = [entry.content["tag"] for entry in store.history.read(session)]
            except StateStoreError:
                continue
            if found != tags:
                tally.is_wrong(f"a damaged file gave {len(found)} of {len(tags)} entries, and no error")
        try:
            store.history.append("s1", [{"role": "user", "content": "", "tag": "new"}])
            if store.history.read("s1", last=1)[0].content["tag"] != "new":
                tally.lost += 1
        except StateStoreError:
            pass
    finally:
        store.close()


def _read_raw(path: Path, truth: dict[str, list[str]], tally: Tally) -> None:
    connection = sqlite3.connect(path)
    try:
        rows = connection.execute("SELECT content FROM history_entries").fetchall()
        if len([json.loads(row[0]) for row in rows]) != sum(map(len, truth.values())):
            tally.is_wrong("entries are missing")
    finally:
        connection.close()
