"""The command line of the load test: `./run load`."""

import argparse
import json
import multiprocessing
import os
import queue
import secrets
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.load import figures, server
from benchmarks.load.verifying import Verdict
from benchmarks.load.worker import Broken, Progress, Result, Share
from benchmarks.load.worker import main as work
from statestore import StateStore, StateStoreError

_TELL_EVERY = 1.0
_WRITES = ("history.append", "turn", "state.set", "sessions.create", "sessions.fork", "sessions.delete")


def arguments(given: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="./run load",
        description="Put the load of many agents on a database, and say what it carries. Works in a namespace of its "
        "own, which is dropped at the end. Reads back at the end what was acknowledged, and fails if any of it is "
        "missing. Ctrl-C ends it early; pressed again, what was stored is not read back.",
    )
    parser.add_argument("--url", default=os.environ.get("STATESTORE_URL"), help="the database; or STATESTORE_URL")
    parser.add_argument("--agents", type=_positive(int), default=1000, metavar="N", help="how many agents [1000]")
    parser.add_argument("--minutes", type=_positive(float), default=5.0, metavar="M", help="for how long [5]")
    parser.add_argument(
        "--think",
        type=_positive(float, zero=True),
        default=2.0,
        metavar="SECONDS",
        help="how long an agent waits for its model in each turn, on average; 0 for as many turns as possible [2]",
    )
    parser.add_argument("--processes", type=_positive(int), metavar="N", help="how many processes [one per processor]")
    parser.add_argument("--pool-size", type=_positive(int), default=10, metavar="N", help="connections of each [10]")
    parser.add_argument("--reporting-url", metavar="URL", help="a standby for the reports among the load")
    parser.add_argument("--schema", default="statestore", metavar="NAME", help="PostgreSQL: where the tables are")
    parser.add_argument("--keep", action="store_true", help="leave the data there, and say in which namespace")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    found = parser.parse_args(given)
    if found.url is None:
        parser.error("name the database with --url or STATESTORE_URL")
    if found.json is not None and not found.json.resolve().parent.is_dir():
        parser.error(f"--json: there is no folder {found.json.resolve().parent}")
    found.processes = min(found.processes or os.cpu_count() or 1, found.agents)
    return found


def _positive(kind: type[int] | type[float], *, zero: bool = False) -> Callable[[str], Any]:
    def parse(text: str) -> Any:
        value = kind(text)
        if not (value > 0 or (zero and value == 0)) or value == float("inf"):
            raise argparse.ArgumentTypeError("must be positive")
        return value

    parse.__name__ = kind.__name__
    return parse


class Load:
    """One run: its processes, and what they tell."""

    def __init__(self, asked: argparse.Namespace) -> None:
        self.asked = asked
        self.namespace = f"load-{secrets.token_hex(4)}"
        self.tally = figures.Tally()
        self.results: dict[int, Result] = {}
        self.broken: list[str] = []
        self.elapsed = 0.0
        self.interrupted = 0
        context = multiprocessing.get_context("spawn")
        self._queue, self._stop, self._skip = context.Queue(), context.Event(), context.Event()
        options = {"namespace": self.namespace, "schema": asked.schema, "pool_size": asked.pool_size}
        if asked.reporting_url:
            options["reporting_url"] = asked.reporting_url
        each, more = divmod(asked.agents, asked.processes)
        self._processes = [
            context.Process(
                target=work,
                name=f"load-{number}",
                args=(
                    Share(
                        number=number,
                        agents=each + (number < more),
                        seconds=60 * asked.minutes,
                        think=asked.think,
                        options=options,
                        url=asked.url,
                    ),
                    self._queue,
                    self._stop,
                    self._skip,
                ),
                daemon=True,
            )
            for number in range(asked.processes)
        ]
        self._latest: list[tuple[float, int]] = []
        self._shown_at = 0.0

    def run(self) -> None:
        for process in self._processes:
            process.start()
        self._began = time.monotonic()
        while len(self.results) + len(self.broken) < len(self._processes):
            try:
                self._listen()
            except KeyboardInterrupt:
                self.interrupted += 1
                self._stop.set()
                if self.interrupted > 1:
                    self._skip.set()
                if self.interrupted > 2:
                    break
                again = "press Ctrl-C again to leave that out" if self.interrupted == 1 else "ending"
                print(f"\nstopping, then reading back what was stored; {again}", file=sys.stderr)
        self._show(last=True)
        for process in self._processes:
            process.join(timeout=10)
            if process.is_alive():
                process.kill()

    def _listen(self) -> None:
        try:
            message = self._queue.get(timeout=0.5)
        except queue.Empty:
            message = None
        if isinstance(message, Progress):
            if self.tally.count() == 0:
                self._began = time.monotonic()  # To begin with, processes start and connect.
            self.tally.add(message.tally)
            if message.tally.count():
                self.elapsed = time.monotonic() - self._began
        elif isinstance(message, Result):
            self.results[message.number] = message
        elif isinstance(message, Broken):
            self.broken.append(f"process {message.number}: {message.reason}")
        elif message is None:
            self._count_dead()
        self._show()

    def _count_dead(self) -> None:
        told = {one.partition(":")[0] for one in self.broken}
        for number, process in enumerate(self._processes):
            if process.exitcode is not None and number not in self.results and f"process {number}" not in told:
                self.broken.append(f"process {number}: ended with {process.exitcode}")

    def _show(self, *, last: bool = False) -> None:
        """A line about now: over itself on a terminal, now and then in a file."""
        now = time.monotonic()
        terminal = sys.stderr.isatty()
        if not last and now - self._shown_at < (_TELL_EVERY if terminal else 10 * _TELL_EVERY):
            return
        self._shown_at = now
        self._latest = [*self._latest[-10:], (now, self.tally.count())]
        (then, before), (_, count) = self._latest[0], self._latest[-1]
        rate = (count - before) / (now - then) if now > then else 0.0
        done = len(self.results)
        state = f"; reading back: {done} of {len(self._processes)} done" if done else ""
        line = (
            f"{self.elapsed:5.0f} s of {60 * self.asked.minutes:.0f}: {count:,} calls, {rate:,.0f} per second now, "
            f"{self.tally.errors.total():,} errors{state}"
        )
        print(
            f"\r{line:<100}" if terminal else line,
            end="" if terminal and not last else "\n",
            file=sys.stderr,
            flush=True,
        )


def main(given: list[str] | None = None) -> int:
    asked = arguments(sys.argv[1:] if given is None else given)
    try:
        # Once here, so that what cannot work is said once, and a SQLite file has its tables.
        StateStore.open(asked.url, schema=asked.schema).close()
        database = server.of(asked.url)
    except StateStoreError as exc:
        print(f"./run load: {exc}", file=sys.stderr)
        return 2
    before = database.read()
    load = Load(asked)
    print(
        f"{asked.agents:,} agents in {asked.processes} processes for {asked.minutes:g} minutes on {database.what}, "
        f"namespace {load.namespace}",
        file=sys.stderr,
    )
    load.run()
    after = database.read()
    verdict = Verdict()
    for result in load.results.values():
        verdict.add(result.verdict)
    verdict.complete &= not load.broken
    report = _report(load, before, after, verdict)
    print("\n".join(report))
    if asked.json is not None:
        asked.json.write_text(json.dumps(_figures(load, database.what, before, after, verdict), indent=2) + "\n")
    database.close()
    _clean(asked, load)
    return 0 if not (verdict.lost or verdict.wrong or load.broken) else 1


def _report(load: Load, before: server.Reading, after: server.Reading, verdict: Verdict) -> list[str]:
    elapsed = load.elapsed or 1.0
    calls, writes = load.tally.count(), sum(load.tally.count(name) for name in _WRITES)
    lines = ["", *figures.table(load.tally, elapsed), ""]
    lines.append(f"{calls:,} calls in {elapsed:.0f} seconds: {calls / elapsed:,.0f} per second, {writes:,} writes")
    used = {name: value for name, value in _differences(before, after).items() if value is not None}
    if "size" in used:
        lines.append(f"database: {_bytes(after.size or 0)}, {_bytes(used['size'])} more")
    if "wal" in used:
        records = f", {used['wal_records'] / max(writes, 1):,.1f} records" if "wal_records" in used else ""
        lines.append(f"WAL: {_bytes(used['wal'])}; for each write {_bytes(used['wal'] / max(writes, 1))}{records}")
    if "commits" in used:
        lines.append(f"transactions: {used['commits']:,}, {used.get('deadlocks', 0):,} deadlocks")
    if "cpu" in used:
        share = 1e6 * used["cpu"] / max(calls, 1)
        lines.append(
            f"processor, server: {used['cpu']:.1f} s, {used['cpu'] / elapsed:.2f} cores, {share:,.0f} µs a call"
        )
    cpu = sum(result.cpu for result in load.results.values())
    lines.append(
        f"processor, clients: {cpu:.1f} s, {cpu / elapsed:.2f} cores, {1e6 * cpu / max(calls, 1):,.0f} µs a call"
    )
    looked = "read back" if verdict.complete else "READ BACK IN PART"
    lines.append(
        f"{looked}: {verdict.sessions:,} sessions, {verdict.entries:,} acknowledged entries; "
        f"{verdict.lost:,} lost, {verdict.wrong:,} sessions otherwise wrong"
    )
    return [
        *lines,
        *(f"  FOUND: {finding}" for finding in verdict.findings),
        *(f"  BROKEN: {one}" for one in load.broken),
    ]


def _figures(load: Load, what: str, before: server.Reading, after: server.Reading, verdict: Verdict) -> dict[str, Any]:
    asked = load.asked
    return {
        "database": what,
        "agents": asked.agents,
        "processes": asked.processes,
        "think": asked.think,
        "seconds": load.elapsed,
        "interrupted": bool(load.interrupted),
        **figures.as_json(load.tally, load.elapsed or 1.0),
        "size": after.size,
        "used": _differences(before, after),
        "clients_cpu": sum(result.cpu for result in load.results.values()),
        "verified": asdict(verdict),
        "broken": load.broken,
    }


def _differences(before: server.Reading, after: server.Reading) -> dict[str, Any]:
    pairs = ((name, value, getattr(after, name)) for name, value in asdict(before).items())
    return {name: None if old is None or new is None else new - old for name, old, new in pairs}


def _bytes(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 1000 or unit == "GB":
            return f"{count:.0f} B" if unit == "B" else f"{count:,.1f} {unit}"
        count /= 1000
    raise AssertionError("unreachable")


def _clean(asked: argparse.Namespace, load: Load) -> None:
    """Drop what was stored, unless it is to stay."""
    if not asked.keep and load.interrupted < 2:
        try:
            with StateStore.open(asked.url, schema=asked.schema) as store:
                store.drop_namespace(load.namespace)
            return
        except (StateStoreError, KeyboardInterrupt) as exc:
            print(f"the data could not be removed ({type(exc).__name__})", file=sys.stderr)
    print(f"left in namespace {load.namespace}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
