"""Sessions of Google's ADK, from the tables of its DatabaseSessionService."""

from collections.abc import Callable, Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import RowMapping

from statestore.adapters.layouts import adk as layout
from statestore.errors import InvalidValueError
from statestore.importers.databases import Address, DatabaseReport, Import, Progress, Source, importing
from statestore.importers.problems import OnProblem
from statestore.importers.source_values import json_of, time_of, written_by
from statestore.values.history import NewEntry
from statestore.values.sessions import NewSession
from statestore.values.state import StateEntry

if TYPE_CHECKING:
    from statestore.store import StateStore

_SESSION = ("app_name", "user_id", "id")


def adk(
    store: "StateStore", url: Address, *, progress: Progress | None = None, on_problem: OnProblem | None = None
) -> DatabaseReport:
    """Import the sessions of Google's ADK from the database of its DatabaseSessionService.

    Each session becomes the one that `statestore.adapters.adk` reads, with its events as they are, with its times and
    its state. The state of users and apps comes, too. Repeating an import adds what is new; of a key of a state that
    both sides have, the value that was written last stays.

    Args:
        store: The store to import into.
        url: The database, by URL or by path. It is opened read-only.
        progress: Called with the number of events that were read since the last call.
        on_problem: Called with each session that is left out because it cannot be stored. If None, the first raises.

    Returns:
        How many sessions and entries there are, how many were added, and which sessions differ from the source.

    Raises:
        InvalidValueError: *store* is not a `StateStore`, or *url* is not a database of ADK, or to one whose events
            are pickled: nothing was written. Or a session cannot be stored, and there is no *on_problem*: those before
            it stay.
        DatabaseError: One of the databases failed. What was written before stays.
    """
    with importing(store, url, progress, on_problem) as (source, bringing):
        _check_version(source)
        for row in source.rows("sessions", "state", "create_time", "update_time", key=_SESSION):
            try:
                session_id = layout.statestore_id(row["app_name"], row["user_id"], row["id"])
                created_at = time_of(row["create_time"], "create_time")
            except InvalidValueError as error:
                bringing.refuse(row["id"], error)
                continue
            new = NewSession(user_id=row["user_id"], agent_name=row["app_name"], created_at=created_at)
            if bringing.bring(session_id, new, _events(source, row)):
                _bring_state(bringing, store.state, session_id, row, time_of)
        # ADK sets the times of sessions itself, in UTC, and leaves these to the server.
        server_time = source.server_time
        for row in source.rows("user_states", "state", "update_time", key=("app_name", "user_id")):
            _bring_state(bringing, store.user_state, row["user_id"], row, server_time, of_app=row["app_name"])
        for row in source.rows("app_states", "state", "update_time", key=("app_name",)):
            _bring_state(bringing, store.app_state, row["app_name"], row, server_time)
    return bringing.report()


def _check_version(source: Source) -> None:
    framework = "Google's ADK"
    source.require("events", framework)
    columns = source.columns("events")
    if "actions" in columns and "event_data" not in columns:
        raise InvalidValueError(
            source.name, "has events that an older ADK has pickled; run its `adk migrate session` first"
        )
    for table in ("sessions", "user_states", "app_states", "adk_internal_metadata"):
        source.require(table, framework)
    kept = {row["key"]: row["value"] for row in source.rows("adk_internal_metadata", "value", key=("key",))}
    if kept.get("schema_version") != "1":
        version = kept.get("schema_version")
        raise InvalidValueError(source.name, f"has version {version!r} of ADK's tables; only version 1 can be read")


def _events(source: Source, session: RowMapping) -> Iterator[NewEntry]:
    """The events of a session in ADK's order, and as ADK reads them: id and invocation are those of the columns."""
    whose = {"app_name": session["app_name"], "user_id": session["user_id"], "session_id": session["id"]}
    columns = ("invocation_id", "event_data")
    for row in source.rows("events", *columns, key=("timestamp", "id"), where=whose):
        where = f"event {row['id'][:80]!r}"
        event = json_of(row["event_data"], where) if row["event_data"] is not None else {}
        if not isinstance(event, dict):
            raise InvalidValueError(where, "is not a JSON object")
        at = time_of(row["timestamp"], where)
        if event.get("timestamp") is None and at is not None:
            event["timestamp"] = at.timestamp()
        event |= {"id": row["id"], "invocation_id": row["invocation_id"]}
        with written_by("ADK", where):
            entry = layout.entry_of(event)
        yield entry


def _bring_state(
    bringing: Import,
    group: Any,
    owner_id: str,
    row: RowMapping,
    time: Callable[[Any, str], datetime | None],
    *,
    of_app: str | None = None,
) -> None:
    """Set what the owner lacks, and what was written in the source after it was written here."""
    try:
        at = time(row["update_time"], "update_time")
        state = json_of(row["state"], "state")
        if not isinstance(state, dict):
            raise InvalidValueError("state", "is not a JSON object")
        if of_app is not None:
            state = {layout.user_key(of_app, key): value for key, value in state.items()}
        there: dict[str, StateEntry] = {entry.key: entry for entry in group.entries(owner_id)}
        news = {key: value for key, value in state.items() if _is_news(there.get(key), value, at)}
        if news:
            group.set_many(owner_id, news)
    except InvalidValueError as error:
        bringing.refuse(owner_id, error)


def _is_news(there: StateEntry | None, value: Any, at: datetime | None) -> bool:
    return there is None or (there.value != value and at is not None and at > there.updated_at)
