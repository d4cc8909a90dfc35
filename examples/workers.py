"""Several workers share the work: a lease says who has a session, and a write by one who has lost it is refused."""

import threading
from datetime import timedelta

from statestore import ConflictError, NewEntry, StateStore

JOBS = 12
WORKERS = 4


def work(store: StateStore, name: str) -> None:
    for job in range(JOBS):
        session_id = f"job-{job}"
        try:
            # It renews itself while the block runs, and is free again afterwards, or when the process dies.
            with store.sessions.acquire(session_id, owner=name, ttl=timedelta(seconds=30)) as lease:
                if store.history.count(session_id) > 1:
                    continue  # Somebody else has done it.
                answer = {"role": "assistant", "content": f"done by {name}"}
                store.history.append(session_id, [answer], lease=lease)
        except ConflictError:
            continue  # Somebody else has it.


def main() -> None:
    with StateStore.open("sqlite:///jobs.db") as store:
        for job in range(JOBS):
            # With an id of its own it is stored once, however often this runs.
            task = NewEntry({"role": "user", "content": f"Do {job}."}, entry_id="task")
            store.history.append(f"job-{job}", [task], create=True)
        workers = [threading.Thread(target=work, args=(store, f"worker {number}")) for number in range(WORKERS)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        done = [store.history.count(f"job-{job}") for job in range(JOBS)]
        print(f"{JOBS} jobs, each done once: {done == [2] * JOBS}")


if __name__ == "__main__":
    main()
