"""Giving space back: what was deleted leaves free pages in a SQLite file, and frames in its log."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from statestore.engine import sqlite_files
from statestore.engine.calls import Call
from statestore.engine.execution import translated
from statestore.errors import InvalidValueError
from statestore.repositories.expiry.vacuum import INCREMENTAL, VacuumWork
from statestore.store import StateStore

# Others get at least as long a turn as each step has taken.
_SHORTEST_PAUSE = 0.005

Progress = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class VacuumReport:
    """How large the file and its log were, in bytes, and are; and whether all was given back that was free."""

    before: int
    after: int
    complete: bool
    """False if others kept the log from being emptied."""


class NeedsFullVacuum(Exception):
    """The file was made so that it cannot give space back in steps."""


def vacuum(
    store: StateStore,
    *,
    full: bool = False,
    expect: Progress = lambda pages: None,
    progress: Progress = lambda pages: None,
) -> VacuumReport:
    """Give back what is free in the store's SQLite file, a little at a time; others read and write meanwhile.

    Args:
        store: On a SQLite file.
        full: Write the whole file anew, in one go: it needs the space of another copy, and nobody writes meanwhile.
            Afterwards any file gives space back in steps.
        expect: Called once, with how many pages are free.
        progress: Called with how many were given back since the last call.

    Raises:
        NeedsFullVacuum: The file cannot do it in steps. Nothing was changed.
        UnavailableError: Somebody else wrote for too long. What was given back stays so.
    """
    database = store._database
    path = sqlite_files.path_of(database.engine.url) if database.dialect.name == "sqlite" else None
    if path is None:
        raise InvalidValueError("store", "is not on a SQLite file; PostgreSQL gives space back by itself")
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
            if now >= left:  # Others free pages faster than they are given back: the next time, then.
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
            connection.invalidate()  # Its settings are no longer those of the others.


def _size(path: Path) -> int:
    return sum(os.stat(name).st_size for name in (path, f"{path}-wal") if os.path.exists(name))
