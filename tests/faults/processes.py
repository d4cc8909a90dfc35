"""Processes that write, and are killed: forked off a server that has everything imported."""

import ctypes
import json
import multiprocessing
import os
import signal
import sys
import threading
import time
from typing import Any, Self

from tests.faults.journal import Journal

_forks = multiprocessing.get_context("forkserver")
# Whenever a process is started, multiprocessing asks after all others; of two threads that ask after the same one, the
# second is told that it ended with 255.
_asking = threading.Lock()


def die_with_parent() -> None:
    """Linux kills this process as soon as its parent ends. Elsewhere it ends when it writes into a closed pipe."""
    try:
        ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)
    except (OSError, AttributeError):
        return


def write_until_killed(file: int, url: str, world: str, prefix: str, early: bool, options: dict[str, Any]) -> None:
    """Four clients that write until the process is killed. With *early* they say so before it is committed."""
    from tests.faults.bench import Bench
    from tests.faults.clients import Crowd

    journal = Journal(file)
    with Bench("", world, 0) as bench:
        how = {"clients": 4, "sessions": 2, **options.pop("crowd", {})}
        store = bench.open(url, **options)
        if early:
            _acknowledge_early(store, journal, prefix)
        crowd = Crowd(store, journal, bench.heartbeat, prefix=prefix, **how)
        crowd.prepare()
        crowd.start()
        crowd.join()


def _acknowledge_early(store: Any, journal: Journal, prefix: str) -> None:
    session = f"{prefix}-early"
    for number in range(1_000_000):
        with store.transaction() as tx:
            for part in range(20):
                tag = f"{prefix}.{number}.{part}"
                tx.history.append(session, [{"role": "user", "content": "", "tag": tag}], create=True)
                journal.note("acknowledged", session, [tag])


class Writer:
    """A process that writes."""

    def __init__(self, journal: Journal, *arguments: Any) -> None:
        self._journal = journal
        reader, writer = os.pipe()
        self._file = os.fdopen(reader)
        self._process = _forks.Process(
            target=_run, args=(_Pipe(writer), *arguments), daemon=True, name=f"writer {arguments[2]}"
        )
        with _asking:
            self._process.start()
        os.close(writer)
        self.lines = 0
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def wait_until_writing(self) -> None:
        until = time.monotonic() + 60
        while self.lines < 8 and self._process.is_alive() and time.monotonic() < until:
            time.sleep(0.002)

    def kill(self) -> None:
        self._process.kill()
        self.join()

    def join(self, seconds: float | None = None) -> None:
        """Wait for its end."""
        self._process.join(seconds)
        if self._process.is_alive():
            self._journal.is_hung(f"{self._process.name} never ended")
            self._process.kill()
            self._process.join()
        self._thread.join()
        self._file.close()
        self._process.close()

    def _read(self) -> None:
        for line in self._file:
            if line.endswith("\n"):
                self._journal.feed(line)
            self.lines += 1


class _Pipe:
    """A file descriptor on its way to another process."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def __reduce__(self) -> Any:
        from multiprocessing.reduction import DupFd

        return _descriptor, (DupFd(self.descriptor),)


def _descriptor(duplicate: Any) -> int:
    return int(duplicate.detach())


def _run(file: int, *arguments: Any) -> None:
    die_with_parent()
    # Ctrl-C is for the harness, which then ends its writers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        write_until_killed(file, *arguments)
    except Exception as exc:
        os.write(file, json.dumps(["wrong", f"a process ended with {exc!r}"[:500], []]).encode() + b"\n")


class Writers:
    """All writers of a row; none outlives it."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._started: list[Writer] = []
        _forks.set_forkserver_preload(
            ["tests.faults.clients", "tests.faults.bench", "psycopg", "sqlalchemy.ext.asyncio"]
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        for writer in self._started:
            try:
                writer.kill()
            except ValueError:
                continue  # It has ended and been closed.

    def start(self, url: str, world: str, prefix: str, *, early: bool = False, **options: Any) -> Writer:
        writer = Writer(self._journal, url, world, prefix, early, options)
        self._started.append(writer)
        return writer


class Visitors:
    """The command line, that comes every 100 ms, looks at a database, and goes."""

    def __init__(self, url: str, journal: Journal) -> None:
        self._url = url
        self._journal = journal
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.came = 0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._end.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._end.wait(0.1):
            process = _forks.Process(target=_visit, args=(self._url,), daemon=True)
            with _asking:
                process.start()
            if not _has_ended(process, 60):
                self._journal.is_hung("the command line never ended")
                process.kill()
                process.join()
            elif process.exitcode:
                self._journal.is_wrong(f"the command line ended with {process.exitcode}")
            self.came += 1
            process.close()


def _has_ended(process: Any, seconds: float) -> bool:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        with _asking:
            if not process.is_alive():
                return True
        time.sleep(0.01)
    return False


def _visit(url: str) -> None:
    from statestore import cli

    die_with_parent()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.argv = ["statestore", "sessions", "--url", url]
    cli.main()
