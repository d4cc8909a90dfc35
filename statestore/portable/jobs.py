"""Several processes for one export or import: each has a store of its own, and does what it is told line by line.

An export is of one moment in all of them. On PostgreSQL the first one hands its snapshot on; on SQLite, which cannot do
that, it keeps writers out for the moment in which the others begin to read.
"""

import os
import queue
import shutil
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, nullcontext
from dataclasses import asdict
from datetime import datetime
from io import BufferedReader, RawIOBase
from typing import Any, BinaryIO, Self

import orjson

from statestore import errors
from statestore.checking import checks
from statestore.engine.calls import Call
from statestore.engine.database import Database
from statestore.engine.flows import Flow, run
from statestore.errors import ConflictError, DatabaseError, InvalidValueError, SessionExistsError, StateStoreError
from statestore.portable.exports import Exported, Kept, Lines, encoded, write_sessions
from statestore.repositories.portable.portable_pages import PortablePages

_MAIN = "from statestore.portable.jobs import main; main()"


def check_jobs(jobs: int, database: Any) -> None:
    """Whether so many processes can work for a store.

    Raises:
        InvalidValueError: They cannot.
    """
    checks.count(jobs, "jobs", least=1, most=64)
    if jobs > 1 and (not isinstance(database, Database) or database.shared_url is None):
        raise InvalidValueError("jobs", "needs a store opened with a URL that other processes can open; use jobs=1")


def begin(database: Database, files: Mapping[str, int]) -> dict[str, Any]:
    """The first task of each process: to open the same store."""
    settings = database.settings
    now = None if settings.clock is None else settings.clock()
    return {
        "url": database.shared_url,
        "options": {"namespace": settings.namespace, **database.where},
        "passed_on": settings.passed_on,
        "now": None if now is None else now.isoformat(),
        "files": dict(files),
    }


class Crew:
    """Processes that work for a store."""

    def __init__(self, database: Database, jobs: int, *, files: Mapping[str, int] | None = None) -> None:
        """*files*: descriptors that they inherit, by name."""
        self._free: queue.SimpleQueue[subprocess.Popen[bytes]] = queue.SimpleQueue()
        self._threads = ThreadPoolExecutor(jobs, "statestore-jobs")
        paths = os.pathsep.join(path or os.getcwd() for path in sys.path)
        self._workers = [
            subprocess.Popen(
                # -P: what is in the current directory takes the place of no module, unless it may here, too.
                [sys.executable, "-P", "-c", _MAIN],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                pass_fds=list((files or {}).values()),
                env={**os.environ, "PYTHONPATH": paths},
                start_new_session=True,  # Ctrl-C is for us: we end them.
            )
            for _ in range(jobs)
        ]
        try:
            self.everyone(begin(database, files or {}))
        except BaseException:
            self.close()
            raise
        for worker in self._workers:
            self._free.put(worker)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """End the processes, whatever they are doing: what they have begun is undone."""
        for worker in self._workers:
            worker.kill()
        self._threads.shutdown(cancel_futures=True)
        for worker in self._workers:
            worker.wait()
            for pipe in (worker.stdin, worker.stdout):
                assert pipe is not None
                pipe.close()

    def everyone(self, task: Mapping[str, Any]) -> None:
        """Let all of them do something, while none is at work."""
        for future in [self._threads.submit(_ask, worker, task) for worker in self._workers]:
            future.result()

    def results(self, tasks: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
        """What came of each task, in their order. Only so many are begun that nobody is idle."""
        waiting: deque[Future[dict[str, Any]]] = deque()
        for task in tasks:
            waiting.append(self._threads.submit(self._do, task))
            if len(waiting) > 2 * len(self._workers):
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    def _do(self, task: Mapping[str, Any]) -> dict[str, Any]:
        worker = self._free.get()
        try:
            return _ask(worker, task)
        finally:
            self._free.put(worker)


def _ask(worker: "subprocess.Popen[bytes]", task: Mapping[str, Any]) -> dict[str, Any]:
    assert worker.stdin is not None
    assert worker.stdout is not None
    try:
        worker.stdin.write(orjson.dumps(task) + b"\n")
        worker.stdin.flush()
        line = worker.stdout.readline()
    except (OSError, ValueError):
        line = b""
    if not line:
        raise DatabaseError("a process of the export or import has ended; run it again")
    answer: dict[str, Any] = orjson.loads(line)
    if "error" in answer:
        raise _error(answer)
    return answer


def _told(error: StateStoreError) -> dict[str, Any]:
    """An error on its way to the first process."""
    facts = [getattr(error, name, None) for name in ("argument", "session_id", "namespace")]
    return {"error": type(error).__name__, "message": str(error), "facts": facts}


def _error(answer: Mapping[str, Any]) -> StateStoreError:
    kind, message = getattr(errors, answer["error"], DatabaseError), answer["message"]
    argument, session_id, namespace = answer["facts"]
    if kind is InvalidValueError:
        return InvalidValueError(argument, message.removeprefix(f"{argument}: "))
    if kind is SessionExistsError:
        return SessionExistsError(session_id, namespace)
    found: StateStoreError = (kind if issubclass(kind, ConflictError | DatabaseError) else DatabaseError)(message)
    return found


class At(RawIOBase):
    """A file that is read from a place of its own, by a descriptor that others read, too."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        assert whence == 0
        self._position = offset
        return offset

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any) -> int:
        count = os.preadv(self._descriptor, [buffer], self._position)
        self._position += count
        return count


@contextmanager
def one_moment(database: Database, crew: Crew) -> Iterator[Any]:
    """A runner in a transaction that sees what all of the crew see."""
    with database.own_snapshot() as runner:
        with database.transaction() if database.dialect.name == "sqlite" else nullcontext():
            snapshot = run(runner, _once(Call(PortablePages.begin, (None,))))
            crew.everyone({"do": "begin", "snapshot": snapshot})
        yield runner


def _once(call: Call) -> Flow[Any]:
    return (yield call)


def write_by_crew(
    crew: Crew,
    exported: Exported,
    folder: str,
    file: BinaryIO,
    count: Callable[[Mapping[str, int]], None],
    how: Mapping[str, bool],
) -> None:
    """Write what belongs to the sessions to *file*, in their order; *count* is told how many lines of which kinds.

    *how*: the lines of the ledger too, if `usage`, and if `labelled` each line with its namespace.
    """
    tasks = (
        {
            "do": "export",
            "namespace": namespace,
            "sessions": [tuple(one) for one in sessions],
            "kept": exported.path,
            "to": os.path.join(folder, str(number)),
            **how,
        }
        for number, (namespace, sessions) in enumerate(exported.chunks())
    )
    for task in crew.results(tasks):
        with open(task["to"], "rb") as part:
            shutil.copyfileobj(part, file, 1024 * 1024)
        os.unlink(task["to"])
        count(task["lines"])


class _Worker:
    """What one of the crew does, by the names of its tasks."""

    def __init__(self, begin: Mapping[str, Any]) -> None:
        from statestore.options import StoreOptions
        from statestore.store import StateStore

        options = {**begin["options"], **StoreOptions.passed_on(begin["passed_on"])}
        now = None if begin["now"] is None else datetime.fromisoformat(begin["now"])
        self._stack = ExitStack()
        self._store = self._stack.enter_context(
            StateStore.open(begin["url"], clock=None if now is None else lambda: now, pool_size=2, **options)
        )
        self._files = begin["files"]
        self._runner: Any = None
        self._exported: Exported | None = None

    def begin(self, task: Mapping[str, Any]) -> dict[str, Any]:
        self._runner = self._stack.enter_context(self._store._database.snapshot())
        run(self._runner, _once(Call(PortablePages.begin, (task["snapshot"],))))
        return {}

    def export(self, task: Mapping[str, Any]) -> dict[str, Any]:
        if self._exported is None:
            self._exported = self._stack.enter_context(closing(Exported(task["kept"], reading=True)))
        namespace, lines = task["namespace"], dict[str, int]()
        with open(task["to"], "wb") as file:

            def write(kind: str, rows: Lines) -> None:
                file.write(encoded(kind, rows, namespace if task["labelled"] else None))
                lines[kind] = lines.get(kind, 0) + len(rows)

            sessions = [Kept(*one) for one in task["sessions"]]
            run(self._runner, write_sessions(namespace, sessions, self._exported, write, usage=task["usage"]))
        return {"to": task["to"], "lines": lines}

    def bring(self, task: Mapping[str, Any]) -> dict[str, Any]:
        from statestore.portable.files import Part
        from statestore.portable.imports import Mark, bring_part

        part, how = Part.told(task["part"], BufferedReader(At(self._files["file"]))), task["how"]
        done = bring_part(self._store, part, replace=how["replace"], mark=Mark(*how["mark"]))
        return {"totals": asdict(done), "size": part.size}


def main() -> None:
    """Work as one of a crew: a task a line on standard input, what came of it on standard output."""
    tasks, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # What something prints is not an answer.
    worker: _Worker | None = None
    for line in tasks:
        task = orjson.loads(line)
        try:
            answer: dict[str, Any] = {}
            if worker is None:
                worker = _Worker(task)
            else:
                answer = getattr(worker, task["do"])(task)
        except StateStoreError as error:
            answer = _told(error)
        try:
            answers.write(orjson.dumps(answer) + b"\n")
        except BrokenPipeError:
            return  # Whoever asked was killed.
