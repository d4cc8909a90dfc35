"""What sessions and cached entries cost the process that uses them."""

import gc
from pathlib import Path
from typing import Any

from benchmarks import data, works


def resident() -> int:
    """How many bytes of memory this process occupies."""
    fields = Path("/proc/self/statm").read_text().split()
    return int(fields[1]) * 4096


def measure(worker: Any, kind: str, count: int) -> dict[str, float]:
    """How much this process grows for each of *count* sessions that were created, written to and left idle, or entries.

    The first half is not counted: it fills pools, statement caches and SQLite's page cache, once.
    """
    subject = worker.subject
    before = 0
    for number in range(count):
        if number == count // 2:
            gc.collect()
            before = resident()
        if kind == "session":
            session_id = works.fresh("idle")
            if hasattr(subject, "create"):
                worker.wait(subject.create(session_id))
            worker.wait(subject.append(session_id, [data.message(number)]))
            worker.wait(subject.read(session_id, last=20))
        else:
            key = works.fresh("entry")
            worker.wait(subject.cache_set(key, data.cache_value(number)))
            worker.wait(subject.cache_get(key))
    gc.collect()
    return {"bytes_each": max(0.0, (resident() - before) / (count - count // 2))}
