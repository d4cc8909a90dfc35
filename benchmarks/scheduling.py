"""Which processors do what, and before whom.

A backend of PostgreSQL that happens to share a processor with its client answers in half the time of one that has to
be woken on another, and stays there for minutes: enough to make one subject look twice as fast as its twin. So while
one caller is measured, clients have one processor and the server has another, as they would on two machines.

And whatever else the machine is doing may hold up a process that comes back from waiting for the disk until the next
tick of the clock, 4 ms, which is ten appends. So what is measured goes first, where the system allows that: it needs
root. Neither is done for concurrent callers, who are to compete as they do elsewhere.
"""

import os
from collections.abc import Iterator
from pathlib import Path

ALL: list[int] = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
CLIENT = ALL[:1] if len(ALL) > 1 else ALL
SERVER = ALL[1:2] if len(ALL) > 1 else ALL


def pin(pid: int | None, processors: list[int]) -> None:
    """Keep a process, its threads and its children on these *processors*. Where that is unknown, nothing happens."""
    if not processors:
        return
    for task in _tasks(pid):
        try:
            os.sched_setaffinity(task, processors)
        except OSError:  # It has ended meanwhile.
            continue


def put_first(pid: int | None, first: bool) -> bool:
    """Let a process, its threads and its children go before all others, or not any more; whether that was allowed."""
    if not hasattr(os, "sched_setscheduler"):
        return False
    policy, parameter = (os.SCHED_RR, os.sched_param(1)) if first else (os.SCHED_OTHER, os.sched_param(0))
    for task in _tasks(pid):
        try:
            os.sched_setscheduler(task, policy, parameter)
        except PermissionError:
            return False
        except OSError:
            continue
    return True


def _tasks(pid: int | None) -> Iterator[int]:
    if pid is None:
        return
    for task in Path(f"/proc/{pid}/task").glob("*"):
        yield int(task.name)
        try:
            children = (task / "children").read_text().split()
        except OSError:
            continue
        for child in children:
            yield from _tasks(int(child))
