"""The power fails: whatever was not synced may be there, or not, or a part of it.

A process writes through a store, and all that SQLite asks of the disk meanwhile is recorded. From the recording come as
many disks as wanted: each a moment, and one choice of what had reached the disk by then of what was not synced. On each
of them SQLite opens the database, as it would after the machine came back, and everything has to be there that had been
acknowledged by that moment.
"""

import bisect
import multiprocessing
import os
import random
import sqlite3
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import make_url

from statestore import NewEntry
from tests.faults import processes
from tests.faults.bench import Bench
from tests.faults.recording import Event, Recording, record
from tests.faults.table import Missing, Tally, fault

SECTOR = 512
WRITES = 40


@fault(
    "power cut", databases=("sqlite",), short=300, long=100_000, limit=1500, control_rounds=1000,
    control='durability="normal"',
)  # fmt: skip
def power_cut(bench: Bench) -> Tally:
    url = bench.url()
    path = Path(str(make_url(url).database))
    # More than a thousand pages of log, so that a checkpoint is among what can be cut.
    writes = 2 * WRITES if bench.long else WRITES
    start = path.read_bytes()
    events = _record(url, bench.world, "normal" if bench.unsafe else "full", writes)
    tally = Tally(rounds=bench.rounds)
    if not any(event.kind == "sync" for event in events):
        raise Missing("a SQLite whose files can be watched")
    parts = 20 if bench.long else 4
    batches = [bench.rounds // parts] * parts
    done = 0
    check = partial(_check, start, events, str(path), Path("/dev/shm") if os.path.isdir("/dev/shm") else bench.folder)
    with ProcessPoolExecutor(min(4, os.cpu_count() or 1), mp_context=multiprocessing.get_context("forkserver")) as pool:
        for found in pool.map(check, batches, range(len(batches))):
            done += found.rounds
            found.rounds = 0
            tally.add(found)
            bench.tell(f"{done} of {bench.rounds}")
    # Counted by each disk that was looked at; what was acknowledged is the same for all of them.
    tally.acknowledged = sum(event.kind == "acknowledged" for event in events)
    tally.note(f"{len(events)} steps, {sum(event.kind == 'sync' for event in events)} syncs")
    return tally


def _record(url: str, world: str, durability: str, writes: int) -> list[Event]:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.faults.clients", "tests.faults.bench"])
    reader, writer = context.Pipe(duplex=False)
    process = context.Process(target=_write, args=(writer, url, world, durability, writes), daemon=True)
    process.start()
    writer.close()
    try:
        found: Any = reader.recv()
    except EOFError:
        raise RuntimeError("the process that was to write has failed") from None
    finally:
        process.join(60)
        process.close()
    if isinstance(found, str):
        raise Missing(found)
    return list(found)


def _write(answer: Any, url: str, world: str, durability: str, writes: int) -> None:
    from concurrent.futures import ThreadPoolExecutor

    processes.die_with_parent()
    recording = Recording()
    try:
        record(recording)
    except Missing as exc:
        answer.send(str(exc))
        return
    with Bench("sqlite", world, 0) as bench:
        store = bench.open(url, durability=durability)

        def client(number: int) -> None:
            for count in range(writes):
                tags = [f"c{number}.{count}" if count % 3 else f"c{number}.{count}/{part}" for part in range(3)]
                tags = sorted(set(tags))
                entries = [NewEntry("x" * 700, agent_name=tag) for tag in tags]
                if count % 4 == 3:
                    with store.transaction() as tx:
                        tx.history.append(f"s{number % 2}", entries, create=True)
                        tx.state.set(f"s{number % 2}", "last", tags[-1])
                else:
                    store.history.append(f"s{number % 2}", entries, create=True)
                for tag in tags:
                    recording.acknowledge(tag)

        with ThreadPoolExecutor(4) as threads:
            list(threads.map(client, range(4)))
    answer.send(recording.events)


@dataclass
class _Disk:
    """A file, as much of it as is certain, and what may have reached the disk beyond that, in order."""

    certain: bytearray = field(default_factory=bytearray)
    there: bool = False
    uncertain: list[Event] = field(default_factory=list)

    def take(self, event: Event) -> None:
        if event.kind == "sync":
            for waiting in self.uncertain:
                _apply(self.certain, waiting)
            self.uncertain.clear()
            self.there = True
        else:
            self.uncertain.append(event)


def _apply(content: bytearray, event: Event) -> None:
    if event.kind == "truncate":
        del content[event.offset :]
        content.extend(bytes(event.offset - len(content)))
    else:
        content.extend(bytes(max(0, event.offset - len(content))))
        content[event.offset : event.offset + len(event.data)] = event.data


def _check(start: bytes, events: list[Event], path: str, folder: Path, count: int, seed: int) -> Tally:
    """Look at *count* disks, at moments in order, so that what is certain is worked out once."""
    processes.die_with_parent()
    chance = random.Random(seed)
    steps = [index for index, event in enumerate(events) if event.kind != "acknowledged"]
    moments = sorted(chance.choice(steps) for _ in range(count))
    acknowledged = [index for index, event in enumerate(events) if event.kind == "acknowledged"]
    tags = [events[index].file for index in acknowledged]
    disks = {path: _Disk(bytearray(start), there=True)}
    tally = Tally(rounds=count)
    done = 0
    place = folder / f"statestore-power-{os.getpid()}-{seed}.db"
    try:
        for moment in moments:
            for event in events[done:moment]:
                _step(disks, event)
            done = moment
            _lay_out(disks, path, place, chance)
            _look(place, tags[: bisect.bisect_left(acknowledged, moment)], tally)
    finally:
        _clear(place)
    return tally


def _step(disks: dict[str, _Disk], event: Event) -> None:
    if event.kind == "acknowledged" or event.file.endswith("-shm"):
        return
    if event.kind == "delete":
        disks.pop(event.file, None)
    else:
        disks.setdefault(event.file, _Disk()).take(event)


def _clear(place: Path) -> None:
    for suffix in ("", "-wal", "-shm", "-journal"):
        place.with_name(place.name + suffix).unlink(missing_ok=True)


def _lay_out(disks: dict[str, _Disk], path: str, place: Path, chance: random.Random) -> None:
    """One of the disks that may be found now: of what is uncertain nothing, all, a beginning, or any part of it."""
    _clear(place)
    how = chance.choice(("nothing", "all", "beginning", "any", "any", "torn"))
    for name, disk in disks.items():
        if not disk.there and how == "nothing":
            continue
        content = bytearray(disk.certain)
        if how != "nothing":
            beginning = chance.randrange(len(disk.uncertain) + 1)
            for number, event in enumerate(disk.uncertain):
                if (how == "beginning" and number >= beginning) or (how in ("any", "torn") and chance.random() < 0.5):
                    continue
                _apply(content, _torn(event, chance) if how == "torn" else event)
        place.with_name(place.name + name.removeprefix(path)).write_bytes(content)


def _torn(event: Event, chance: random.Random) -> Event:
    """A write of which only some sectors came, counted from its beginning."""
    if event.kind != "write":
        return event
    sectors = chance.randrange(len(event.data) // SECTOR + 2)
    return Event("write", event.file, event.offset, event.data[: SECTOR * sectors])


def _look(place: Path, tags: list[str], tally: Tally) -> None:
    connection = sqlite3.connect(place)
    try:
        # Nobody else opens this file: the index of the log need not be a file, too, which takes a third of the time.
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        connection.execute("PRAGMA synchronous = OFF")
        stored = Counter(tag for (tag,) in connection.execute("SELECT agent_name FROM history_entries"))
        sound = connection.execute("PRAGMA quick_check").fetchone()[0]
        if sound != "ok":
            tally.is_wrong(f"quick_check: {sound}")
    except sqlite3.Error as exc:
        tally.is_wrong(f"the database cannot be read: {exc}")
        return
    finally:
        connection.close()
    lost = [tag for tag in tags if not stored[tag]]
    tally.lost += len(lost)
    if lost:
        tally.note(f"lost: {', '.join(lost[:3])} of {len(tags)}")
    tally.doubled += sum(times > 1 for times in stored.values())
    batches = Counter(tag.partition("/")[0] for tag in stored if "/" in tag)
    for batch, parts in batches.items():
        if parts != 3:
            tally.is_wrong(f"{parts} of the three entries of {batch} are stored")
