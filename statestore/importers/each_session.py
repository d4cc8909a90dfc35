"""Sessions that another system saved, imported one by one: a bad session does not keep the others out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from statestore.errors import ConflictError, DatabaseError, InvalidValueError
from statestore.importers.json_lines import unreadable
from statestore.importers.problems import OnProblem, Problems, check_store
from statestore.values.saved_sessions import SavedSession

if TYPE_CHECKING:
    from statestore.store import StateStore


@dataclass(frozen=True, slots=True)
class SessionsReport:
    """What an import of whole sessions did."""

    sessions: int
    """Sessions that were written, whether new or replaced."""
    entries: int
    """Entries that were written."""
    sessions_failed: int
    """Sessions that were left out; each was reported."""


def import_each(
    store: "StateStore",
    path: Path,
    found: Sequence[Path],
    read: Callable[[Path], SavedSession],
    *,
    replace: bool,
    progress: Callable[[Path], object] | None,
    on_problem: OnProblem | None,
) -> SessionsReport:
    """Write what *read* returns for each of the files or folders that were *found* at *path*."""
    check_store(store)
    if not found:
        raise InvalidValueError(str(path), "has nothing to import")
    from statestore.portable import insert_session

    problems = Problems(on_problem)
    sessions = entries = 0
    for one in found:
        try:
            totals = insert_session(store, read(one), replace=replace)
        except OSError as error:
            problems.report(str(one), unreadable(error))
        except (InvalidValueError, ConflictError) as error:
            problems.report(str(one), error)
        except DatabaseError as error:
            if type(error) is not DatabaseError:
                raise  # The database is gone, full or read-only, so the other sessions would fail too.
            problems.report(str(one), error)
        else:
            sessions += totals.sessions
            entries += totals.entries
        if progress is not None:
            progress(one)
    return SessionsReport(sessions, entries, problems.count)
