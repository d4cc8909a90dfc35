"""Large work, once, in a database of millions of entries: a part of `./run bench --big`.

Reports of all times, first summed from the entries and then from the sums that a sweep has made, which must be equal;
the sweep of many expired sessions, a tag of many entries, an export and an import.
"""

import random
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, TypedDict

import psycopg

from benchmarks import grown
from statestore import StateStore
from statestore.portable import export_sessions, import_sessions

# What the goals of GOALS are for: of smaller databases it is less.
SWEPT, TAGGED, LINES = 500_000, 100_000, 1_000_000
GOALS = {"report": 1.0, "sweep": 60.0, "invalidate": 0.05}
_LINES_OF_A_SESSION = 1 + grown.ENTRIES_EACH + grown.KEYS_EACH

# Those whose entries are the oldest.
_EXPIRE = """UPDATE {0}sessions SET ttl = {1}, expires_at = created_at WHERE namespace = 'default'
    AND CASE WHEN session_id LIKE 'grown-%' THEN CAST(substr(session_id, 7) AS INTEGER) BETWEEN {2} AND {3} - 1 END"""
_TAG = """INSERT INTO {0}cache_tags (namespace, key, version, tag)
    SELECT namespace, key, version, 'many' FROM {0}cache_entries WHERE namespace = 'default' ORDER BY key LIMIT {2}"""


class Row(TypedDict):
    """A line of the table: seconds by the clock, and of this process's CPU."""

    name: str
    amount: int
    seconds: float
    cpu: float
    goal: float | None


def measure(url: str, entries: int) -> Iterator[Row]:
    """Each work in a store of its own, on a database that `grown` has filled with so many *entries*."""
    with StateStore.open(url, cache_max_entries=None, timeout=3600) as store:
        reports: dict[str, Callable[[], Any]] = {
            "usage.totals": store.usage.totals,
            "usage.by_user": store.usage.by_user,
            "usage.by_model": store.usage.by_model,
            "usage.by_day": store.usage.by_day,
        }
        summed = {}
        for name, report in reports.items():
            summed[name], row = timed(f"{name}, from the entries", entries, report)
            yield row
        _, row = timed("sweep that makes the sums", entries, store.sweep)
        yield row
        for name, report in reports.items():
            found, row = timed(f"{name}, from the sums", entries, report, GOALS["report"])
            if exact(found) != exact(summed[name]):
                raise RuntimeError(f"{name} says something else once there are sums")
            yield row

        talking, gone = entries // grown.ENTRIES_EACH, min(SWEPT, entries // 10) // grown.ENTRIES_EACH
        execute(url, _EXPIRE, talking - gone, talking)
        report, row = timed(
            "sweep of expired sessions, entries", gone * grown.ENTRIES_EACH, store.sweep, GOALS["sweep"]
        )
        if report["expired_sessions"].rows != gone:
            raise RuntimeError(f"{report['expired_sessions'].rows} of {gone} sessions were swept")
        yield row

        tagged = min(TAGGED, entries // 10)
        execute(url, _TAG, tagged)
        goal = GOALS["invalidate"]
        count, row = timed("cache.invalidate_tag", tagged, lambda: store.cache.invalidate_tag("many"), goal)
        if count != tagged:
            raise RuntimeError(f"{count} of {tagged} entries were removed")
        yield row

        wanted = min(LINES // _LINES_OF_A_SESSION, talking // 2)
        exported = [f"grown-{number}" for number in random.Random(5).sample(range(talking - gone), wanted)]
        lines = wanted * _LINES_OF_A_SESSION
        with TemporaryFile() as file:
            _, row = timed("export, lines", lines, lambda: export_sessions(store, file, session_ids=exported))
            yield row
            file.seek(0)
            with StateStore.open(url, namespace="copies", timeout=3600) as copies:
                _, row = timed("import, lines", lines, lambda: import_sessions(copies, file))
                if copies.sessions.count() != len(exported):
                    raise RuntimeError("not all sessions were imported")
            yield row


def timed(name: str, amount: int, work: Callable[[], Any], goal: float | None = None) -> tuple[Any, Row]:
    cpu, begun = time.process_time(), time.perf_counter()
    found = work()
    seconds, cpu = time.perf_counter() - begun, time.process_time() - cpu
    print(f"  {name}, {amount:,}: {seconds:.2f} s, of which {cpu:.2f} s of CPU here", flush=True)
    return found, Row(name=name, amount=amount, seconds=round(seconds, 3), cpu=round(cpu, 3), goal=goal)


def exact(found: Any) -> Any:
    """A report without latencies, which histograms tell only roughly."""
    if isinstance(found, list):
        return sorted((exact(one) for one in found), key=repr)
    return {name: value for name, value in asdict(found).items() if not name.startswith("latency_")}


def execute(url: str, sql: str, *numbers: int) -> None:
    if url.startswith("sqlite"):
        with closing(sqlite3.connect(Path(url.removeprefix("sqlite:///")))) as connection, connection:
            connection.execute(sql.format("", 1_000_000, *numbers))
    else:
        with psycopg.connect(url) as connection:
            connection.execute(sql.format("statestore.", "interval '1 second'", *numbers).encode())


def table(rows: list[Row]) -> list[str]:
    """The rows as lines of a page."""
    lines = ["| Large work, once | of | seconds | of CPU of the process | goal |", "|---|---|---|---|---|"]
    for row in rows:
        goal = (
            ""
            if row["goal"] is None
            else f"{row['goal']:g} s: " + ("met" if row["seconds"] <= row["goal"] else "missed")
        )
        lines.append(f"| {row['name']} | {row['amount']:,} | {row['seconds']:,.2f} | {row['cpu']:,.2f} | {goal} |")
    return lines
