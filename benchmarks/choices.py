"""Single choices, each measured against its alternative: `python -m benchmarks.choices [NAME]`.

Where the choice is about the database, the raw drivers do the work, so that what is compared is the database's part and
nothing else. Where it is about the client, statestore does, with that choice undone.
"""

import random
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

from benchmarks import data, scheduling
from benchmarks.figures import measure, ratio
from benchmarks.places import Places
from benchmarks.workers import Style, Subject, WorkerError, WorkerProcess
from benchmarks.works import BY_NAME

_BASES = {"postgresql": ("raw_postgresql", "RawPsycopg"), "sqlite": ("raw_sqlite", "RawSqlite")}


@dataclass(frozen=True)
class Choice:
    title: str
    database: str
    variant: str
    works: tuple[str, ...]
    base: str = ""
    style: Style = "sync"
    own: bool = False
    """Whether it is statestore that does the work."""


CHOICES = (
    Choice("planning by statistics instead of plans kept", "postgresql", "PlansByStatistics",
           ("read_20", "read_all", "state_get", "append_1")),
    Choice("statements not prepared", "postgresql", "Unprepared", ("read_20", "state_get", "append_1")),
    Choice("a transaction around one statement", "postgresql", "InTransaction", ("state_get", "append_1")),
    Choice("binary results", "postgresql", "BinaryResults", ("read_20", "read_all", "state_get")),
    Choice("sessions without a fillfactor", "postgresql", "FullPages", ("append_1", "state_set")),
    Choice("an index on last_activity_at", "postgresql", "ActivityIndexed", ("append_1", "state_set")),
    Choice("one more index on history_entries", "postgresql", "OneMoreIndexOnEntries", ("append_1", "append_10")),
    Choice("pglz instead of lz4, 90 KB", "postgresql", "LargePglz", ("append_1",), base="LargeLz4"),
    Choice("page cache of 64 MB", "sqlite", "PageCache64", ("append_1", "read_20", "read_all")),
    Choice("mmap of 256 MB", "sqlite", "Mmap256", ("append_1", "read_20", "read_all")),
    Choice("a checkpoint each 10,000 pages", "sqlite", "RareCheckpoints", ("append_1",)),
    Choice("a checkpoint each 100 pages", "sqlite", "FrequentCheckpoints", ("append_1",)),
    Choice("secure_delete off", "sqlite", "NoSecureDelete", ("append_1", "state_set")),
    Choice("synchronous NORMAL", "sqlite", "SynchronousNormal", ("append_1", "state_set")),
    Choice("no statement cache", "sqlite", "NoStatementCache", ("state_get", "append_1")),
    Choice("no groups, threads", "postgresql", "NoGroups", ("appends_32", "mixed_32", "appends_8", "mixed_8"),
           own=True),
    Choice("no groups, tasks", "postgresql", "AsyncNoGroups", ("appends_32", "mixed_32", "appends_8", "mixed_8"),
           style="async", own=True),
    Choice("no groups of reads, threads", "postgresql", "NoReadGroups", ("mixed_32", "mixed_8"), own=True),
    Choice("no groups of reads, tasks", "postgresql", "AsyncNoReadGroups", ("mixed_32", "mixed_8"), style="async",
           own=True),
    Choice("SQLAlchemy's asyncio instead of worker threads", "postgresql", "OnAsyncEngine",
           ("append_1", "read_20", "state_get", "mixed_8", "mixed_32"), style="async", own=True),
    Choice("two statements for a fork", "postgresql", "ForksUnknown", ("read_fork_8", "read_fork_0"), own=True),
    Choice("no groups, threads", "sqlite", "NoGroups", ("appends_32", "mixed_32"), own=True),
    Choice("no groups, tasks", "sqlite", "AsyncNoGroups", ("appends_32", "mixed_32"), style="async", own=True),
    Choice("threads take no turns", "sqlite", "NoFairLock", ("appends_32", "mixed_32", "mixed_8", "append_1"),
           own=True),
    Choice("aiosqlite below SQLAlchemy's asyncio instead of a worker thread", "sqlite", "OnAsyncEngine",
           ("append_1", "read_20", "state_get", "mixed_8", "mixed_32"), style="async", own=True),
)  # fmt: skip


def main() -> None:
    only = sys.argv[1] if len(sys.argv) > 1 else ""
    with Places() as places:
        for choice in CHOICES:
            if only not in choice.title:
                continue
            try:
                for line in compare(choice, places):
                    print(f"{choice.database}: {choice.title}: {line}", flush=True)
            except WorkerError as exc:
                print(f"{choice.database}: {choice.title}: not measured: {exc}")


def compare(choice: Choice, places: Places) -> Iterator[str]:
    """For each of the works, how the alternative compares to what statestore does."""
    usual = ("variants", choice.base) if choice.base else _BASES[choice.database]
    variants = "variants"
    if choice.own:
        usual, variants = ("own", "Statestore" if choice.style == "sync" else "AsyncStatestore"), "own_variants"
    order = random.Random(data.SEED)
    with ExitStack() as stack:
        workers = []
        for name, (module, factory) in {"usual": usual, "other": (variants, choice.variant)}.items():
            subject = Subject(name, choice.database, choice.style, "raw", f"benchmarks.subjects.{module}", factory)
            url = places.seeded(choice.database)
            workers.append(WorkerProcess(subject, url, places.folder / f"{factory}.log"))
            stack.callback(workers[-1].close)
        for name in choice.works:
            work = BY_NAME[name]
            _schedule(workers, places, apart=choice.database == "postgresql", concurrent=work.group == "concurrent")
            series = measure(work, workers, rounds=15, seconds=0.06, order=order)
            base, other = (series[id(worker)] for worker in workers)
            found = ratio(other, base, work.group)
            yield f"{name} {found.value:.2f} ({found.low:.2f} to {found.high:.2f}); p99 {other.p99 / base.p99:.2f}"


def _schedule(workers: list[WorkerProcess], places: Places, *, apart: bool, concurrent: bool) -> None:
    """One caller has a processor of its own and goes first; many are left to the scheduler."""
    scheduling.pin(places.postgres.pid, scheduling.ALL if concurrent else scheduling.SERVER)
    scheduling.put_first(places.postgres.pid, not concurrent)
    processors = scheduling.CLIENT if apart and not concurrent else scheduling.ALL
    for worker in workers:
        worker.ask("schedule", processors=processors, first=not concurrent)


if __name__ == "__main__":
    main()
