"""What a call of each operation costs, alone: processor time on both sides, log. `python -m benchmarks.load.costs`.

These are the figures that the model in docs/scaling.md is computed from. Processor time is counted by the system, so a
busy machine lengthens it little, while it would double what a clock shows.
"""

import argparse
import itertools
import json
import secrets
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

from benchmarks.load import server
from statestore import NewEntry, StateStore, Usage

Call = Callable[[StateStore, int], Any]

_CONTENT = {"role": "assistant", "content": "The quick agent reads a long file. " * 20}
_VALUE = {"plan": ["read", "decide", "call"], "note": "The quick agent reads a long file. " * 6}


def _entry() -> NewEntry:
    used = Usage(input_tokens=1200, output_tokens=150)
    return NewEntry(_CONTENT, usage=used, request_model="claude-sonnet-4-5", duration=timedelta(seconds=2))


def _turn(store: StateStore, i: int) -> None:
    with store.turn(f"s{i % 100}", max_entries=20) as turn:
        turn.append(_entry())
        turn.state["step"] = i


def _read_only(store: StateStore, i: int) -> None:
    with store.transaction(read_only=True) as tx:
        tx.history.read(f"s{i % 100}", last=20)


CALLS: dict[str, Call] = {
    "sessions.create": lambda store, i: store.sessions.create(f"new{i}", user_id=f"u{i % 50}", title="a title"),
    "history.append, one entry": lambda store, i: store.history.append(f"s{i % 100}", [_entry()]),
    "history.append, ten entries": lambda store, i: store.history.append(f"s{i % 100}", [_entry() for _ in range(10)]),
    "history.read, last 20": lambda store, i: store.history.read(f"s{i % 100}", last=20),
    "history.window, 8000 tokens": lambda store, i: store.history.window(f"s{i % 100}", max_tokens=8000),
    "state.set": lambda store, i: store.state.set(f"s{i % 100}", f"k{i % 10}", {**_VALUE, "i": i}),
    "state.get": lambda store, i: store.state.get(f"s{i % 100}", f"k{i % 10}"),
    "turn, one entry and one key": _turn,
    "sessions.fork": lambda store, i: store.sessions.fork(f"s{i % 100}", f"fork{i}"),
    "cache.set": lambda store, i: store.cache.set(f"c{i}", _VALUE, ttl=3600),
    "cache.get, a hit": lambda store, i: store.cache.get(f"c{i % 100}"),
    "transaction(read_only=True), one read": _read_only,
    "usage.by_model": lambda store, i: store.usage.by_model(),
}


def measure(url: str, rounds: int) -> dict[str, dict[str, float | None]]:
    """Per call, in seconds and bytes, after a first pass that is not counted."""
    database = server.of(url)
    found = {}
    with StateStore.open(url, namespace=f"costs-{secrets.token_hex(4)}", cache_max_entries=None) as store:
        numbers = itertools.count()
        for i in range(100):
            store.sessions.create(f"s{i}", user_id=f"u{i % 50}")
            store.history.append(f"s{i}", [_entry() for _ in range(40)])
            store.state.set_many(f"s{i}", {f"k{key}": _VALUE for key in range(10)})
            store.cache.set(f"c{i}", _VALUE)
        for name, call in CALLS.items():
            count = rounds if name != "usage.by_model" else max(3, rounds // 100)
            for _ in range(max(1, count // 4)):
                call(store, next(numbers))
            time.sleep(0.3)  # What the server writes by itself afterwards is not this one's.
            before, cpu, clock = database.read(), time.process_time(), time.perf_counter()
            for _ in range(count):
                call(store, next(numbers))
            took, own, after = time.perf_counter() - clock, time.process_time() - cpu, database.read()
            found[name] = {
                "client_cpu": own / count,
                "server_cpu": _each(before.cpu, after.cpu, count),
                "wal": _each(before.wal, after.wal, count),
                "wal_records": _each(before.wal_records, after.wal_records, count),
                "size": _each(before.size, after.size, count),
                "time": took / count,
            }
            print(".", end="", file=sys.stderr, flush=True)
    database.close()
    print(file=sys.stderr)
    return found


def _each(before: float | None, after: float | None, count: int) -> float | None:
    return None if before is None or after is None else (after - before) / count


def table(found: dict[str, dict[str, float | None]]) -> list[str]:
    """As Markdown."""
    lines = ["| operation | client, µs | server, µs | log, bytes | records |", "|---|--:|--:|--:|--:|"]
    for name, costs in found.items():
        cells = [
            "-" if costs[key] is None else f"{(costs[key] or 0) * factor:,.{digits}f}"
            for key, factor, digits in (("client_cpu", 1e6, 0), ("server_cpu", 1e6, 0), ("wal", 1, 0))
        ]
        records = "-" if costs["wal_records"] is None else f"{costs['wal_records']:.1f}"
        lines.append(
            f"| `{name.partition(',')[0]}`{''.join(name.partition(',')[1:])} | {' | '.join(cells)} | {records} |"
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.load.costs", description=__doc__)
    parser.add_argument("--url", required=True, help="an empty database that nobody else uses")
    parser.add_argument("--rounds", type=int, default=2000, help="how many calls of each [2000]")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    asked = parser.parse_args()
    found = measure(asked.url, asked.rounds)
    print("\n".join(table(found)))
    if asked.json is not None:
        asked.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
