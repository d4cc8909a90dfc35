"""Durations by fixed bounds: what is kept of them in sums, and what percentiles can be had from that.

The bounds are powers of the square root of two, from 1 ms to 2.3 hours. A percentile is thus off by a factor of at most
1.42 from the duration of the entry in that place; below 1 ms by at most 1 ms.
"""

from collections.abc import Sequence
from itertools import pairwise

from statestore import schema

BOUNDS = tuple(round(2 ** (number / 2), 6) for number in range(len(schema.LATENCY_COLUMNS) - 1))
"""The upper bounds in milliseconds, each within its own bucket; the last bucket has none."""

COUNTED = ", ".join(
    f"CASE WHEN latency_ms {bounds} THEN 1 END AS {name}"
    for name, bounds in zip(
        schema.LATENCY_COLUMNS,
        (
            f"<= {BOUNDS[0]}",
            *(f"> {low} AND latency_ms <= {high}" for low, high in pairwise(BOUNDS)),
            f"> {BOUNDS[-1]}",
        ),
        strict=True,
    )
)
"""In which bucket the duration of a line of `usage_lines` is, as columns to be summed: 1 or NULL."""

EXACT_POSTGRESQL = tuple(f"percentile_cont({part}) WITHIN GROUP (ORDER BY latency_ms)" for part in (0.5, 0.95))
# From lines with their `place` in the order of their durations, and how many are `timed`.
EXACT_SQLITE = (
    "max(CASE WHEN place = (timed + 1) / 2 THEN latency_ms END) * (1 - (timed - 1) % 2 * 0.5)"
    " + max(CASE WHEN place = timed / 2 + 1 THEN latency_ms END) * ((timed - 1) % 2 * 0.5)",
    "max(CASE WHEN place = (timed - 1) * 19 / 20 + 1 THEN latency_ms END) * (1 - (timed - 1) * 19 % 20 / 20.0)"
    " + max(CASE WHEN place = min(timed, (timed - 1) * 19 / 20 + 2) THEN latency_ms END)"
    " * ((timed - 1) * 19 % 20 / 20.0)",
)
"""The expressions for the median and the 95th percentile of single durations."""


def percentile(counts: Sequence[int | None], part: float) -> float | None:
    """The duration in milliseconds that *part* of all do not exceed, from how many are in each bucket."""
    total = sum(filter(None, counts))
    if not total:
        return None
    place = part * (total - 1)
    lower, upper = _at(counts, int(place)), _at(counts, min(int(place) + 1, total - 1))
    return lower + (upper - lower) * (place % 1)


def _at(counts: Sequence[int | None], place: int) -> float:
    """About how long the duration in a *place* is, from 0: those of a bucket are taken to be spread evenly."""
    before = 0
    for number, count in enumerate(counts):
        if count and place < before + count:
            low = BOUNDS[number - 1] if number else 0.0
            high = BOUNDS[number] if number < len(BOUNDS) else low
            return low + (high - low) * (place - before + 0.5) / count
        before += count or 0
    raise AssertionError("a place behind the last")
