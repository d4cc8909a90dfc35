"""Which processors do what.

A backend of PostgreSQL that happens to share a processor with its client answers in half the time of one that has to
be woken on another, and stays there for minutes: enough to make one subject look twice as fast as its twin. So while
one caller is measured, clients have one processor and the server has another, as they would on two machines.
"""

import os
from pathlib import Path

ALL: list[int] = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_setaffinity") else []
CLIENT = ALL[:1] if len(ALL) > 1 else ALL
SERVER = ALL[1:2] if len(ALL) > 1 else ALL


def pin(pid: int | None, processors: list[int]) -> None:
    """Keep a process, its threads and its children on these *processors*. Where that is unknown, nothing happens."""
    if pid is None or not processors:
        return
    for task in Path(f"/proc/{pid}/task").glob("*"):
        try:
            os.sched_setaffinity(int(task.name), processors)
            children = (task / "children").read_text().split()
        except OSError:  # It has ended meanwhile.
            continue
        for child in children:
            pin(int(child), processors)
