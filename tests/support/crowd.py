"""Many callers at once."""

import multiprocessing
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")

PRELOADED = ["dogpile.cache", "psycopg", "pytest", "sqlalchemy.dialects.postgresql.psycopg", "statestore.store"]


def apart() -> Any:
    """A `multiprocessing` whose processes inherit nothing of this one, and have imported the package already."""
    context: Any = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return context


def at_once(*calls: Callable[[], T]) -> list[T]:
    """Run each of *calls* in a thread of its own, all released together, and return what they return.

    On an async store each call of an operation is a task: see `portal`.
    """
    gate = threading.Barrier(len(calls))

    def run(call: Callable[[], T]) -> T:
        gate.wait()
        return call()

    with ThreadPoolExecutor(len(calls)) as pool:
        futures = [pool.submit(run, call) for call in calls]
    return [future.result() for future in futures]
