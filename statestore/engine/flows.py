"""Work in several steps, the same for both worlds: it yields calls and is sent what they returned.

What a call raises is raised where it was yielded.
"""

import asyncio
from collections.abc import Generator
from typing import Any, Generic, TypeAlias, TypeVar

from statestore.engine.async_database import AsyncRunner, finished
from statestore.engine.calls import Call
from statestore.engine.database import Database, Runner
from statestore.engine.threaded_database import ThreadedDatabase

R = TypeVar("R")

Course: TypeAlias = Generator[Call, Any, R]


def run(runner: Runner, course: Course[R]) -> R:
    """Carry out *course* to its end, and return what it returns."""
    steps = _Steps(course)
    while (call := steps.next()) is not None:
        try:
            steps.answer = runner.run(call)
        except Exception as exc:
            steps.failure = exc
    return steps.result


async def run_async(runner: AsyncRunner, course: Course[R], *, in_thread: bool = False) -> R:
    """As `run`, awaited.

    Args:
        runner: What runs the calls.
        course: The work.
        in_thread: What lies between two calls takes long enough, or waits for files, to be done in a worker thread.
    """
    steps = _Steps(course)
    while True:
        # To its end, also when cancelled: nobody else may use what the step is working with, its files for example.
        call = await finished(asyncio.to_thread(steps.next)) if in_thread else steps.next()
        if call is None:
            return steps.result
        try:
            steps.answer = await runner.run(call)
        except Exception as exc:
            steps.failure = exc


def empty_log(runner: Runner) -> None:
    """After much was deleted: what SQLite keeps of it in its log goes, as far as nobody needs it."""
    if isinstance(runner, Database):
        runner.empty_log()


async def empty_log_async(runner: AsyncRunner) -> None:
    """As `empty_log`. An engine of the caller's is the caller's to look after."""
    if isinstance(runner, ThreadedDatabase):
        await runner.empty_log()


class _Steps(Generic[R]):
    """A course that is under way."""

    result: R

    def __init__(self, course: Course[R]) -> None:
        self._course = course
        self.answer: Any = None
        self.failure: Exception | None = None

    def next(self) -> Call | None:
        """Go on from the answer, or the failure, to the next call; None at the end."""
        failure, self.failure = self.failure, None
        try:
            return self._course.send(self.answer) if failure is None else self._course.throw(failure)
        except StopIteration as end:
            self.result = end.value
            return None
