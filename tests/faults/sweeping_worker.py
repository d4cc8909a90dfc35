"""A process that sweeps again and again, and one that touches sessions: `sweeping_worker.py WHAT URL BEHIND ...`.

BEHIND is by how many seconds its clock is.

What a batch has done is written down only when it is known to be committed. A worker that is killed between the two
leaves a gap, so the log says at most what was deleted, never more.
"""

import json
import os
import random
import sys
from datetime import UTC, datetime, timedelta

from statestore import SessionNotFoundError, StateStore, UnavailableError


def opened(url: str, behind: str) -> StateStore:
    late = timedelta(seconds=float(behind))
    return StateStore.open(url, durability="normal", cache_max_entries=None, clock=lambda: datetime.now(UTC) - late)


def sweep(url: str, behind: str, log: str) -> None:
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    with opened(url, behind) as store:
        done: dict[str, int] = {}
        while True:
            before = dict(done)

            def progress(report: object, before: dict[str, int] = before) -> None:
                now = {kind: swept.rows for kind, swept in report.kinds.items()}  # type: ignore[attr-defined]
                step = {kind: rows - done.get(kind, 0) for kind, rows in now.items() if rows - done.get(kind, 0)}
                done.update(now)
                if step:
                    os.write(file, json.dumps(step).encode() + b"\n")

            done.clear()
            try:
                store.sweep(batch_size=random.choice([20, 50, 200]), progress=progress)
            except UnavailableError:
                continue


def touch(url: str, behind: str, names: str) -> None:
    with opened(url, behind) as store:
        sessions = names.split(",")
        while True:
            for session_id in random.sample(sessions, len(sessions)):
                try:
                    if random.random() < 0.5:
                        store.sessions.touch(session_id)
                    else:
                        store.history.append(session_id, [{"role": "user", "content": "still here"}])
                except SessionNotFoundError:
                    print(f"lost {session_id}", flush=True)
                except UnavailableError:
                    continue


if __name__ == "__main__":
    {"sweep": sweep, "touch": touch}[sys.argv[1]](*sys.argv[2:])
