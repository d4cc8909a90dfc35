"""How long operations took and what failed, counted in a way that adds up over processes."""

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

# Buckets grow by two percent, and so a percentile is off by one percent at most.
_STEP = math.log(1.02)


def bucket_of(seconds: float) -> int:
    return round(math.log(max(seconds, 1e-6)) / _STEP)


def seconds_of(bucket: int) -> float:
    return math.exp(bucket * _STEP)


@dataclass
class Tally:
    """Of some operations, or of some seconds of them."""

    times: dict[str, Counter[int]] = field(default_factory=dict)
    errors: Counter[tuple[str, str]] = field(default_factory=Counter)

    def took(self, operation: str, seconds: float) -> None:
        self.times.setdefault(operation, Counter())[bucket_of(seconds)] += 1

    def failed(self, operation: str, error: BaseException) -> None:
        self.errors[operation, type(error).__name__] += 1

    def add(self, other: "Tally") -> None:
        for operation, counted in other.times.items():
            self.times.setdefault(operation, Counter()).update(counted)
        self.errors.update(other.errors)

    def count(self, operation: str | None = None) -> int:
        chosen = self.times.values() if operation is None else [self.times.get(operation, Counter())]
        return sum(counted.total() for counted in chosen)

    def percentile(self, operation: str, share: float) -> float:
        """In seconds: as long as *share* of the calls took at most."""
        counted = self.times[operation]
        left = share * counted.total()
        for bucket in sorted(counted):
            left -= counted[bucket]
            if left <= 0:
                return seconds_of(bucket)
        return 0.0


def table(tally: Tally, elapsed: float) -> list[str]:
    """A line for each operation, the most frequent first; then the errors."""
    rows = [("operation", "calls", "per s", "p50 ms", "p95 ms", "p99 ms", "max ms", "errors")]
    names = {*tally.times, *(operation for operation, _ in tally.errors)}
    for name in sorted(names, key=lambda one: (-tally.count(one), one)):
        failed = sum(count for (operation, _), count in tally.errors.items() if operation == name)
        calls = tally.count(name)
        times = [f"{1000 * tally.percentile(name, share):,.1f}" if calls else "-" for share in (0.5, 0.95, 0.99, 1.0)]
        rows.append((name, f"{calls:,}", f"{calls / elapsed:,.1f}", *times, f"{failed:,}"))  # type: ignore[arg-type]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(cell.rjust(width) if column else cell.ljust(width) for column, (cell, width) in enumerate(both))
        for both in (list(zip(row, widths, strict=True)) for row in rows)
    ]
    for (operation, error), count in sorted(tally.errors.items()):
        lines.append(f"  {error} in {operation}: {count:,}")
    return lines


def as_json(tally: Tally, elapsed: float) -> dict[str, Any]:
    """The table, for programs: seconds, and calls per second."""
    return {
        "operations": {
            name: {
                "calls": tally.count(name),
                "per_second": tally.count(name) / elapsed,
                **{f"p{share}": tally.percentile(name, share / 100) for share in (50, 95, 99)},
                "max": tally.percentile(name, 1.0),
            }
            for name in sorted(tally.times)
        },
        "errors": [
            {"operation": operation, "error": error, "count": count}
            for (operation, error), count in sorted(tally.errors.items())
        ],
    }
