"""Sessions that Conexus saved, as sessions of a store.

The meaning of the fields comes from Conexus' source code. Content is kept as it is, key order included; what reports
and windows need is read from it into columns.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from statestore.importers.json_objects import (
    FieldError,
    JsonObject,
    SessionsReport,
    checked_path,
    import_each,
    modified_at,
    object_in,
)
from statestore.importers.problems import OnProblem
from statestore.values.history import NewEntry
from statestore.values.saved_sessions import SavedEntry, SavedSession, SavedState

if TYPE_CHECKING:
    from statestore.store import StateStore

# The fields that have a place in a session. All others go into its state, under `conexus.`, so nothing is lost.
_PLACED = frozenset({"ID", "UserID", "History", "Metadata", "State", "CreatedAt", "LastActivity"})
_PLACED_OF_INTERACTION = frozenset({"Agent", "Duration", "Timestamp"})
_SESSION = "session-"
_NANOSECONDS = 10**9


def conexus(
    store: "StateStore",
    path: str | os.PathLike[str],
    *,
    replace: bool = False,
    progress: Callable[[Path], object] | None = None,
    on_problem: OnProblem | None = None,
) -> SessionsReport:
    """Import sessions that Conexus saved.

    Each interaction becomes one history entry, which begins a turn, with its agent and its duration. The saved state
    becomes the session's state; unknown fields become keys of it, `conexus.NAME`. Nothing is written to *path*.

    Each session is written in a separate transaction, as a whole or not at all. A session that already exists is a
    problem and is not changed, unless *replace* is true. To complete an import that was cut off, repeat it with
    *replace*.

    Args:
        store: The store to import into.
        path: A `session-ID.json`, or a folder that contains such files.
        replace: Overwrite existing sessions, with all that belongs to them. Their forks keep what they see, and
            recorded usage is kept.
        progress: Called with the file of each session that is done, left out or not.
        on_problem: Called with each session that is left out because it cannot be read or stored, or already exists.
            The others are imported. If None, the first problem raises.

    Returns:
        How many sessions and entries were written, and how many sessions were left out.

    Raises:
        InvalidValueError: *path* contains no session, or *store* is not a `StateStore`: nothing was written. Or a
            session cannot be read or stored, and there is no *on_problem*: those before it stay. The message names the
            file and the place in it.
        ConflictError: A session already exists, *replace* is false, and there is no *on_problem*. Those before it stay.
        DatabaseError: The database failed. What was written before stays.
    """
    place = checked_path(store, path, replace=replace, progress=progress, on_problem=on_problem)
    return import_each(
        store, place, saved_sessions(place), read, replace=replace, progress=progress, on_problem=on_problem
    )


def saved_sessions(path: Path) -> list[Path]:
    """*path* itself, or the files `session-ID.json` in it if it is a folder."""
    return sorted(path.glob(f"{_SESSION}*.json")) if os.path.isdir(path) else [path]


def read(file: Path) -> SavedSession:
    """A `session-ID.json`.

    Raises:
        InvalidValueError: It is missing or malformed.
        OSError: It cannot be read.
    """
    session = object_in(file)
    history = session.values.get("History") or []
    if not isinstance(history, list):
        raise FieldError(session.where, "History is not a list of interactions")
    interactions = [JsonObject.of(one, f"{session.where}: History[{index}]") for index, one in enumerate(history)]
    last_used = session.time("LastActivity") or modified_at(file)
    return SavedSession(
        session_id=session.text("ID") or file.stem.removeprefix(_SESSION),
        user_id=session.text("UserID"),
        metadata=dict(session.object("Metadata").values),
        created_at=session.time("CreatedAt") or last_used,
        last_activity_at=last_used,
        entries=[SavedEntry(_entry(interaction), interaction.where) for interaction in interactions],
        state=_state(session),
        where=session.where,
    )


def _state(session: JsonObject) -> list[SavedState]:
    own = session.object("State").values
    others = {f"conexus.{name}": value for name, value in session.values.items() if name not in _PLACED}
    if others.keys() & own.keys():
        raise FieldError(session.where, "State has a key that begins with 'conexus.', which an unknown field needs")
    return [SavedState(key, value, f"{session.where}: State") for key, value in (others | dict(own)).items()]


def _entry(interaction: JsonObject) -> NewEntry:
    return NewEntry(
        {name: value for name, value in interaction.values.items() if name not in _PLACED_OF_INTERACTION},
        role="user",
        agent_name=interaction.text("Agent"),
        duration=interaction.duration("Duration", a_second=_NANOSECONDS),
        created_at=interaction.time("Timestamp"),
    )
