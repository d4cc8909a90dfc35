"""Servers that run an application in processes of its own: gunicorn, Celery."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

# Seconds. A server that hangs is found by this.
AMPLE = 25


class Server:
    """A server, its log and the processes that it has forked."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process = process
        self._log = log

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def workers(self) -> list[int]:
        pid = self.process.pid
        lists = Path(f"/proc/{pid}/task").glob("*/children")  # One for each thread.
        return [int(child) for children in lists for child in children.read_text().split()]

    def wait_for(self, what: Callable[[], bool]) -> None:
        until = time.monotonic() + AMPLE
        while not what():
            assert self.process.poll() is None, self._log.read_text()
            assert time.monotonic() < until, self._log.read_text()
            time.sleep(0.01)


@contextmanager
def running(*command: str, folder: Path, **environment: str) -> Iterator[Server]:
    """`python -m COMMAND` on what is in *folder*."""
    variables = os.environ | {"PYTHONPATH": f"{folder}{os.pathsep}{os.getcwd()}", "HOME": str(folder)} | environment
    log = folder / "log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", *command],
            cwd=folder,
            env=variables,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
        try:
            yield Server(process, log)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # A shutdown takes seconds, and is nobody's subject here.
            process.wait()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])
