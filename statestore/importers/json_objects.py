"""Sessions that another program saved as JSON objects: their fields with the right type, or an error that says where.

Sessions are imported one by one, so that a bad one does not keep the others out.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from statestore.checking import checks, json_files, open_files
from statestore.errors import ConflictError, DatabaseError, InvalidValueError
from statestore.importers.json_lines import unreadable
from statestore.importers.problems import OnProblem, Problems, check_functions, check_store
from statestore.values.saved_sessions import SavedSession

if TYPE_CHECKING:
    from statestore.store import StateStore


class FieldError(InvalidValueError):
    """A file or a field is malformed; the message begins with its place."""


@dataclass(frozen=True, slots=True)
class JsonObject:
    """An object in a file. Reading a field returns a value of the right type or None, or raises `FieldError`."""

    values: Mapping[str, Any]
    where: str

    @classmethod
    def of(cls, value: Any, where: str) -> "JsonObject":
        if not isinstance(value, Mapping):
            raise FieldError(where, "is not a JSON object")
        return cls(value, where)

    def object(self, name: str) -> "JsonObject":
        """The object under *name*; an empty one if there is none."""
        return JsonObject.of({} if self.values.get(name) is None else self.values[name], f"{self.where}: {name}")

    def text(self, name: str) -> str | None:
        with naming(self.where):
            return checks.optional_text(self.values.get(name), name) or None

    def count(self, name: str) -> int | None:
        with naming(self.where):
            return checks.optional_count(self.values.get(name), name)

    def duration(self, name: str, *, a_second: int) -> timedelta | None:
        """A duration in units of which *a_second* make a second; None for zero, which means unknown."""
        value = self.values.get(name)
        if not value:
            return None
        if not isinstance(value, int | float) or isinstance(value, bool) or value < 0:
            raise FieldError(self.where, f"{name} is not a duration")
        if value / a_second > checks.MAX_TTL.total_seconds():
            raise FieldError(self.where, f"{name} is longer than {checks.MAX_TTL.days:,} days")
        return timedelta(seconds=value / a_second)

    def time(self, name: str) -> datetime | None:
        """A time as Go writes it; None for Go's zero time, which means unknown."""
        value = self.values.get(name)
        if value is None or value == "":
            return None
        try:
            found = datetime.fromisoformat(value)
            found = found if found.tzinfo is not None else found.replace(tzinfo=UTC)
            return None if found.year == 1 else checks.optional_time(found, name)
        except (TypeError, ValueError):
            raise FieldError(self.where, f"{name} is not a valid time") from None


@contextmanager
def naming(where: str) -> Iterator[None]:
    """Add the place in the files to errors about values that the store does not accept."""
    try:
        yield
    except FieldError:
        raise
    except InvalidValueError as error:
        raise FieldError(where, str(error)) from None


def object_in(file: Path) -> JsonObject:
    """The object that is a whole file."""
    try:
        with file.open("rb") as opened:
            return JsonObject.of(json_files.parse(json_files.whole(opened), str(file)), str(file))
    except FileNotFoundError:
        raise FieldError(str(file), "is missing") from None


def objects_in(file: Path) -> Iterator[JsonObject]:
    """The objects of a file of JSON Lines; none if there is no such file."""
    if not file.exists():
        return
    with file.open("rb") as opened:
        for number, line in json_files.lines(opened):
            where = f"{file}:{number}"
            yield JsonObject.of(json_files.parse(line, where), where)


def modified_at(file: Path) -> datetime:
    return datetime.fromtimestamp(file.stat().st_mtime, UTC)


@dataclass(frozen=True, slots=True)
class SessionsReport:
    """What an import of whole sessions did."""

    sessions: int
    """Sessions that were written, whether new or replaced."""
    entries: int
    """Entries that were written."""
    sessions_failed: int
    """Sessions that were left out; each was reported."""


def checked_path(store: object, path: object, *, replace: object, progress: object, on_problem: object) -> Path:
    """What an import of files is given, all of it before something is read. Returns *path*."""
    check_store(store)
    place = open_files.path(path)
    checks.flag(replace, "replace")
    check_functions(progress=progress, on_problem=on_problem)
    return place


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
