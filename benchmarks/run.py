"""One run: which subjects do which work, in which databases, and in which order."""

import os
import platform
import random
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import psycopg

from benchmarks import data, grown, installed, scheduling, works
from benchmarks.cast import AGAIN, OWN, PEERS, UNCAPPED
from benchmarks.figures import Series, measure
from benchmarks.places import Places
from benchmarks.results import Results
from benchmarks.workers import ROOT, Subject, WorkerError, WorkerProcess
from benchmarks.works import Work

DELAY_US = 250
NETWORK = ("append_1", "append_10", "read_20", "read_all", "state_get", "state_set", "cache_hit", "cache_set")
MANY, FEW = 1_000_000, 1_000
PACKAGES = ("statestore", "sqlalchemy", "psycopg", "aiosqlite", "orjson")


class Run:
    def __init__(self, *, quick: bool, only: str | None, peers: bool) -> None:
        self._quick = quick
        self._only = only
        self._peers = peers
        self._results = Results()
        self._order = random.Random(data.SEED)
        self._rounds = 5 if quick else 12
        self._seconds = 0.04 if quick else 0.06
        self._begun = time.monotonic()

    def everything(self) -> Results:
        if self._peers:
            reason = installed.install_peers()
            if reason is not None:
                self._absent("the peers", reason)
                self._peers = False
        with Places() as places:
            self._places = places
            self._about()
            for database in ("postgresql", "sqlite"):
                self._one_caller(database)
                self._concurrent(database)
                if not self._quick:
                    self._growth(database)
                    self._large_cache(database)
                    self._memory(database)
            self._network()
        return self._results

    def _one_caller(self, database: str) -> None:
        chosen = self._chosen(works.SINGLE)
        if not chosen:
            return
        others = {"postgresql": ("postgresql",), "sqlite": ("sqlite", "file", "redis")}[database]
        peers = [peer for peer in PEERS if self._peers and peer.database in others]
        with self._workers([s for s in (*OWN, *AGAIN) if s.database == database], peers) as workers:
            self._schedule(workers, apart=database == "postgresql", first=True)
            for work in chosen:
                self._measure("single", database, work, workers)
            if database == "postgresql":
                self._hot_updates(next(w.url for w in workers if w.subject.name == "statestore"))

    def _concurrent(self, database: str) -> None:
        chosen = self._chosen(works.CONCURRENT)
        if not chosen:
            return
        peers = [peer for peer in PEERS if self._peers and peer.database == database and "SQLAlchemy" in peer.name]
        with self._workers([s for s in OWN if s.database == database], peers) as workers:
            self._schedule(workers, apart=False, first=False)
            for work in chosen:
                self._measure("concurrent", database, work, workers, rounds=4 if self._quick else 6, seconds=0.25)

    def _growth(self, database: str) -> None:
        chosen = self._chosen(works.GROWN)
        if not chosen:
            return
        subjects = [s for s in UNCAPPED if s.database == database]
        urls = {}
        for part, rows in (("small", FEW), ("large", MANY)):
            urls[part] = self._places.empty(database)
            grown.grow(urls[part], rows)
            self._say(f"{database}: {rows:,} rows made")
        with ExitStack() as stack:
            pairs = {
                part: [stack.enter_context(self._worker(subject, urls[part])) for subject in subjects]
                for part in ("small", "large")
            }
            for part, rows in (("small", FEW), ("large", MANY)):
                self._schedule(pairs[part], apart=database == "postgresql", first=True)
                for worker in pairs[part]:
                    worker.ask("scale", SPREAD=rows // grown.ENTRIES_EACH)
            # Small and large take turns as well; they are told apart by a name of their own meanwhile.
            for work in chosen:
                renamed = [(part, worker) for part, workers in pairs.items() for worker in workers]
                series = measure(
                    work, [w for _, w in renamed], rounds=self._rounds, seconds=self._seconds, order=self._order
                )
                for part, workers in pairs.items():
                    found = {w.subject.name: series[id(w)] for w in workers if id(w) in series}
                    self._results.add(part, database, work.name, found, {})
                self._say(f"{database}: {work.name}, few rows and many")

    def _large_cache(self, database: str) -> None:
        chosen = self._chosen(works.CACHE)
        if not chosen:
            return
        own = [s for s in UNCAPPED if s.database == database and s.style == "sync"]
        peers = [peer for peer in PEERS if self._peers and peer.name == "diskcache" and database == "sqlite"]
        with self._workers(own, peers) as workers:
            able = [worker for worker in workers if worker.can(("cache_fill",))]
            for worker in able:
                tags = [f"background-{number}" for number in range(data.CACHE_SIZE // data.TAG_SIZE)]
                worker.ask("call", verb="cache_fill", arguments=[tags, data.TAG_SIZE])
            self._schedule(able, apart=database == "postgresql", first=True)
            for work in chosen:
                self._measure("single", database, work, able, rounds=3)

    def _memory(self, database: str) -> None:
        if self._only and "memory" not in self._only:
            return
        found: dict[str, dict[str, float]] = {}
        for subject in [s for s in OWN if s.database == database and s.role == "statestore"]:
            with self._worker(subject, self._places.seeded(database)) as worker:
                kinds = found.setdefault(subject.name, {})
                kinds["session"] = worker.ask("memory", kind="session", count=6_000)["bytes_each"]
                if worker.can(("cache_get",)):
                    kinds["entry"] = worker.ask("memory", kind="entry", count=6_000)["bytes_each"]
        self._results.facts.setdefault("memory", {})[database] = found
        self._say(f"{database}: memory")

    def _network(self) -> None:
        """The work of one caller once more, through a proxy that holds everything up for a quarter of a millisecond."""
        chosen = [work for work in self._chosen(works.SINGLE, part="network") if work.name in NETWORK]
        if not chosen:
            return
        with self._proxy() as port, ExitStack() as stack:
            workers = []
            for subject in [s for s in (*OWN, *AGAIN) if s.database == "postgresql"]:
                url = self._places.seeded("postgresql")
                own_port = f":{psycopg.conninfo.conninfo_to_dict(url)['port']}/"
                workers.append(stack.enter_context(self._worker(subject, url.replace(own_port, f":{port}/"))))
            self._schedule(workers, apart=True, first=True)
            for work in chosen:
                self._measure("network", "postgresql", work, workers, rounds=5 if self._quick else 8)

    def _measure(
        self,
        part: str,
        database: str,
        work: Work,
        workers: Sequence[WorkerProcess],
        *,
        rounds: int | None = None,
        seconds: float | None = None,
    ) -> None:
        found = measure(
            work, workers, rounds=rounds or self._rounds, seconds=seconds or self._seconds, order=self._order
        )
        series: dict[str, Series] = {w.subject.name: found[id(w)] for w in workers if id(w) in found}
        raw = {w.subject.style: w.subject.name for w in workers if w.subject.role == "raw"}
        bases = {w.subject.name: raw[w.subject.style] for w in workers if w.subject.style in raw}
        self._results.add(part, database, work.name, series, bases)
        shown = ", ".join(
            f"{name} {self._results.figures[part][database][work.name][name]['ratio']:.2f}"
            for name in series
            if "ratio" in self._results.figures[part][database][work.name][name]
            and name.startswith(("statestore", "raw"))
        )
        self._say(f"{database}: {work.title}{': ' if shown else ''}{shown}")

    @contextmanager
    def _workers(self, own: Sequence[Subject], peers: Sequence[Subject]) -> Iterator[list[WorkerProcess]]:
        with ExitStack() as stack:
            workers = []
            for subject in own:
                url = self._places.seeded(subject.database)
                workers.append(stack.enter_context(self._worker(subject, url)))
            for subject in peers:
                url = self._places.empty(subject.database)
                if not url:
                    self._absent(subject.name, "there is no redis-server")
                    continue
                try:
                    worker = stack.enter_context(self._worker(subject, url))
                    worker.ask("scale", SESSIONS=2, READING=2)
                    worker.ask("call", verb="prepare", arguments=[])
                except WorkerError as exc:
                    self._absent(f"{subject.name} on {subject.database}", str(exc))
                    continue
                workers.append(worker)
            self._say(f"{len(workers)} subjects are ready")
            yield workers

    @contextmanager
    def _worker(self, subject: Subject, url: str) -> Iterator[WorkerProcess]:
        name = "".join(char if char.isalnum() else "-" for char in subject.name)
        worker = WorkerProcess(subject, url, self._places.folder / f"{name}-{time.monotonic_ns()}.log")
        try:
            yield worker
        finally:
            worker.close()

    @contextmanager
    def _proxy(self) -> Iterator[int]:
        target = psycopg.conninfo.conninfo_to_dict(self._places.postgres.url())["port"]
        with subprocess.Popen(
            [sys.executable, "-m", "benchmarks.proxy", str(target), str(DELAY_US)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as proxy:
            try:
                assert proxy.stdout is not None
                port = int(proxy.stdout.readline())
                scheduling.put_first(proxy.pid, True)
                yield port
            finally:
                proxy.terminate()

    def _schedule(self, workers: Sequence[WorkerProcess], *, apart: bool, first: bool) -> None:
        """Who runs where: see `scheduling`."""
        for server in (self._places.postgres.pid, self._places.redis_pid):
            scheduling.pin(server, scheduling.SERVER if apart else scheduling.ALL)
            scheduling.put_first(server, first)
        for worker in workers:
            worker.ask("schedule", processors=scheduling.CLIENT if apart else scheduling.ALL, first=first)

    def _chosen(self, candidates: Sequence[Work], *, part: str = "") -> list[Work]:
        if self._only:
            wanted = self._only.split(",")
            return [w for w in candidates if any(name in w.name or name in (part or w.group) for name in wanted)]
        return [work for work in candidates if not self._quick or work.name in works.QUICK]

    def _hot_updates(self, url: str) -> None:
        with psycopg.connect(url) as connection:
            row = connection.execute(
                "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = 'sessions'"
            ).fetchone()
        if row is not None:
            self._results.facts["hot_updates"] = {"updates": row[0], "heap_only": row[1]}

    def _absent(self, name: str, why: str) -> None:
        self._results.facts.setdefault("absent", {})[name] = why
        self._say(f"{name}: {why}")

    def _about(self) -> None:
        self._results.about = {
            "date": datetime.now(UTC).date().isoformat(),
            "quick": self._quick,
            "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} processors, {_memory()}",
            "python": platform.python_version(),
            "postgresql": self._places.postgres.version,
            "sqlite": sqlite3.sqlite_version,
            "redis": self._redis_version(),
            "packages": {name: version(name) for name in PACKAGES},
            "peers": installed.versions(sorted({peer.package for peer in PEERS})) if self._peers else {},
            "rounds": self._rounds,
        }

    def _redis_version(self) -> str | None:
        if self._places.redis_url is None:
            return None
        said = subprocess.run(["redis-server", "--version"], capture_output=True, text=True, check=False).stdout
        return next((word[2:] for word in said.split() if word.startswith("v=")), None)

    def _say(self, what: str) -> None:
        print(f"{time.monotonic() - self._begun:6.0f} s  {what}", flush=True)


def _memory() -> str:
    try:
        total = int(Path("/proc/meminfo").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return "? GB"
    return f"{total / 2**20:.0f} GB"
