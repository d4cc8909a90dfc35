"""Single choices, each measured against its alternative: `python -m benchmarks.choices [NAME]`.

The raw drivers do the work, so that what is compared is the database's part and nothing else.
"""

import random
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

from benchmarks import data, scheduling
from benchmarks.figures import measure, ratio
from benchmarks.places import Places
from benchmarks.workers import Subject, WorkerError, WorkerProcess
from benchmarks.works import BY_NAME

_BASES = {"postgresql": ("raw_postgresql", "RawPsycopg"), "sqlite": ("raw_sqlite", "RawSqlite")}


@dataclass(frozen=True)
class Choice:
    title: str
    database: str
    variant: str
    works: tuple[str, ...]
    base: str = ""


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
    order = random.Random(data.SEED)
    with ExitStack() as stack:
        workers = []
        for name, (module, factory) in {"usual": usual, "other": ("variants", choice.variant)}.items():
            subject = Subject(name, choice.database, "sync", "raw", f"benchmarks.subjects.{module}", factory)
            url = places.seeded(choice.database)
            workers.append(WorkerProcess(subject, url, places.folder / f"{factory}.log"))
            stack.callback(workers[-1].close)
        scheduling.pin(places.postgres.pid, scheduling.SERVER)
        scheduling.put_first(places.postgres.pid, True)
        for worker in workers:
            processors = scheduling.CLIENT if choice.database == "postgresql" else scheduling.ALL
            worker.ask("schedule", processors=processors, first=True)
        for work in choice.works:
            series = measure(BY_NAME[work], workers, rounds=15, seconds=0.06, order=order)
            base, other = (series[id(worker)] for worker in workers)
            found = ratio(other, base)
            yield f"{work} {found.value:.2f} ({found.low:.2f} to {found.high:.2f}); p99 {other.p99 / base.p99:.2f}"


if __name__ == "__main__":
    main()
