"""From samples to figures."""

import math
import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

from benchmarks.workers import WorkerError, WorkerProcess
from benchmarks.works import Work


@dataclass
class Series:
    """One subject at one piece of work: a batch of samples for each round, in nanoseconds."""

    batches: list[list[int]] = field(default_factory=list)
    took: list[int] = field(default_factory=list)

    @property
    def median(self) -> float:
        """Of all samples, in microseconds."""
        return statistics.median(sample for batch in self.batches for sample in batch) / 1000

    @property
    def p99(self) -> float:
        samples = sorted(sample for batch in self.batches for sample in batch)
        return samples[min(len(samples) - 1, math.ceil(len(samples) * 0.99) - 1)] / 1000

    @property
    def count(self) -> int:
        return sum(len(batch) for batch in self.batches)

    @property
    def rate(self) -> float:
        """Operations a second, of the median round."""
        return statistics.median(len(batch) / took * 1e9 for batch, took in zip(self.batches, self.took, strict=True))

    def per_round(self, group: str) -> list[float]:
        """One figure for each round: what ratios are made of."""
        if group == "concurrent":
            return [len(batch) / took * 1e9 for batch, took in zip(self.batches, self.took, strict=True)]
        return [statistics.median(batch) / 1000 for batch in self.batches]


@dataclass(frozen=True)
class Ratio:
    """How one subject compares to another: the median over the rounds, and the middle half of them."""

    value: float
    low: float
    high: float


def ratio(subject: Series, base: Series, group: str = "single") -> Ratio:
    """Round by round, so that what slows the machine down for a while slows both."""
    found = [a / b for a, b in zip(subject.per_round(group), base.per_round(group), strict=True)]
    if len(found) < 2:
        return Ratio(found[0], found[0], found[0])
    low, middle, high = statistics.quantiles(found, n=4, method="inclusive")
    return Ratio(middle, low, high)


def measure(
    work: Work, workers: Sequence[WorkerProcess], *, rounds: int, seconds: float, order: random.Random
) -> dict[int, Series]:
    """Have all *workers* do *work*, taking turns: in each round each does one batch, in another order each time.

    Returns:
        What each did, by the `id` of the worker; those that cannot do this work are left out.
    """
    series: dict[int, Series] = {}
    counts: dict[int, int] = {}
    taking_part = []
    for worker in workers:
        if not worker.can(work.verbs):
            continue
        try:
            counts[id(worker)] = _calibrate(work, worker, seconds)
        except WorkerError as exc:
            print(f"    {work.name}: {exc}", flush=True)
            continue
        series[id(worker)] = Series()
        taking_part.append(worker)
    for _ in range(rounds):
        order.shuffle(taking_part)
        for worker in list(taking_part):
            try:
                answer = worker.ask("run", work=work.name, count=counts[id(worker)])
            except WorkerError as exc:
                print(f"    {work.name}: {exc}", flush=True)
                taking_part.remove(worker)
                del series[id(worker)]
                continue
            series[id(worker)].batches.append(answer["samples"])
            series[id(worker)].took.append(answer["took"])
    return series


def _calibrate(work: Work, worker: WorkerProcess, seconds: float) -> int:
    """How many operations fill a batch. The first ones also warm up: statements get prepared at the sixth time."""
    if work.most == work.least:
        return work.most
    worker.ask("run", work=work.name, count=8 if work.callers == 1 else 2)
    trial = worker.ask("run", work=work.name, count=5 if work.callers == 1 else 3)
    each = trial["took"] / (5 if work.callers == 1 else 3)
    return max(work.least, min(work.most, int(seconds * 1e9 / each)))
