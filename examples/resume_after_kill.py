"""A job of many steps that is killed in the middle and goes on where it was: nothing is lost, nothing done twice.

It runs itself as a worker that is killed with SIGKILL, until the work is done.
"""

import os
import signal
import subprocess
import sys

from statestore import StateStore

STEPS = 10
URL = "sqlite:///resumed.db"


def work() -> None:
    with StateStore.open(URL) as store:
        session = store.sessions.open("long-job")
        done = session.entry_count
        for step in range(done, STEPS):
            # The result of a step, and that it is done, are one commit.
            with store.transaction() as tx:
                tx.history.append("long-job", [{"role": "tool", "content": f"step {step}"}])
                tx.state.set("long-job", "sum", tx.state.get("long-job", "sum", 0) + step)
            if step in (3, 6):
                os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    runs = 0
    while True:
        runs += 1
        ended = subprocess.run([sys.executable, __file__, "work"], check=False).returncode
        if ended == 0:
            break
        print(f"run {runs} was killed")
    print(f"run {runs} got to the end")
    with StateStore.open(URL) as store:
        print(f"{store.history.count('long-job')} steps, sum {store.state.get('long-job', 'sum')}")


if __name__ == "__main__":
    work() if sys.argv[1:] == ["work"] else main()
