"""Freeing disk space: deleted rows leave free pages in a SQLite file, and frames in its log."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from statestore.checking import checks
from statestore.engine import sqlite_files
from statestore.engine.calls import Call
from statestore.engine.execution import translated
from statestore.errors import InvalidValueError
from statestore.repositories.expiry.vacuum import INCREMENTAL, VacuumWork
from statestore.store import StateStore

# After each step, others get at least as much time as the step took.
_SHORTEST_PAUSE = 0.005

Progress = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class VacuumReport:
    """How large the file and its log were, in bytes, and are now; and whether all free space was released."""

    before: int
    after: int
    complete: bool
    """False if others kept the log from being emptied."""


class NeedsFullVacuum(Exception):
    """The file was created in a way that does not allow freeing space in steps."""


def vacuum(
    store: StateStore,
    *,
    full: bool = False,
    expect: Progress = lambda pages: None,
    progress: Progress = lambda pages: None,
) -> VacuumReport:
    """Release the free space of the store's SQLite file, a little at a time; others can read and write meanwhile.

    Args:
        store: A store on a SQLite file.
        full: Rewrite the whole file at once: this needs space for a second copy, and nobody can write meanwhile.
            Afterwards any file can free space in steps.
        expect: Called once, with the number of free pages.
        progress: Called with the number of pages freed since the last call.

    Raises:
        NeedsFullVacuum: The file does not allow it in steps. Nothing was changed.
        UnavailableError: Somebody else wrote for too long. Space that was freed stays free.
    """
    if not isinstance(store, StateStore):
        raise InvalidValueError("store", f"must be a StateStore, not {type(store).__name__}")
    checks.flag(full, "full")
    checks.function(expect, "expect")
    checks.function(progress, "progress")
    database = store._database
    path = sqlite_files.path_of(database.engine.url) if database.dialect.name == "sqlite" else None
    if path is None:
        raise InvalidValueError("store", "does not use a SQLite file; PostgreSQL frees space by itself")
    before = _size(path)
    left: int = database.run(Call(VacuumWork.free_pages, ()))
    expect(left)
    if full:
        _rewrite(store)
        progress(left)
    elif left and database.run(Call(VacuumWork.mode, ())) != INCREMENTAL:
        raise NeedsFullVacuum
    else:
        while left:
            started = time.monotonic()
            now: int = database.run(Call(VacuumWork.step, ()))
            progress(max(0, left - now))
            if now >= left:  # Others free pages faster than this releases them: leave the rest to the next run.
                break
            left = now
            time.sleep(max(_SHORTEST_PAUSE, time.monotonic() - started))
    with database.connected() as connection:
        complete = sqlite_files.checkpoint(connection)
    return VacuumReport(before, _size(path), complete)


def _rewrite(store: StateStore) -> None:
    database = store._database
    with database.connected() as connection, translated():
        cursor = connection.cursor()
        try:
            cursor.execute(f"PRAGMA busy_timeout = {int(database.waits.timeout * 1000)}")
            cursor.execute("PRAGMA auto_vacuum = INCREMENTAL")
            cursor.execute("VACUUM")
        finally:
            cursor.close()
            connection.invalidate()  # Its settings now differ from those of the others.


def _size(path: Path) -> int:
    return sum(os.stat(name).st_size for name in (path, f"{path}-wal") if os.path.exists(name))
