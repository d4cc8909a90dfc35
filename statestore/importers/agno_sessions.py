"""Sessions of agno, from the tables of its SqliteDb and its PostgresDb."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from sqlalchemy import RowMapping, column, select, table

from statestore.adapters.layouts.agno import DATA, KINDS, entry_of, metadata_of, name_of
from statestore.errors import ConflictError, InvalidValueError, SessionNotFoundError
from statestore.importers.databases import PAGE, Address, DatabaseReport, Import, Progress, Source, importing
from statestore.importers.problems import OnProblem
from statestore.importers.source_values import json_of, time_of, written_by
from statestore.values.history import NewEntry
from statestore.values.sessions import NewSession

if TYPE_CHECKING:
    from statestore.store import StateStore

_SESSIONS = "agno_sessions"
_RUNS = "agno_runs"
# Where PostgresDb has its tables unless it is told otherwise.
_SCHEMA = "ai"
# Runs are large, with all messages of a turn.
_AT_A_TIME = PAGE // 10


def agno(
    store: "StateStore", url: Address, *, progress: Progress | None = None, on_problem: OnProblem | None = None
) -> DatabaseReport:
    """Import the sessions of agents, teams and workflows from agno's own tables, with their runs.

    They are as `statestore.adapters.agno` has them: each session has the same id, user and time, and each run is an
    entry with its usage. The tables are those of the default names, on PostgreSQL in the schema `ai` or else in the
    default one; runs that an older version left within a session's row are taken, too. Repeating an import adds what
    is new, and brings the name, the state and all else of a session that agno has changed later than the store has.

    Args:
        store: The store to import into.
        url: The database, by URL or by path. It is opened read-only.
        progress: Called with the number of runs that were read since the last call.
        on_problem: Called with each session that is left out because it cannot be stored. If None, the first raises.

    Returns:
        How many sessions and entries there are, how many were added, and which sessions differ from the source.

    Raises:
        InvalidValueError: *store* is not a `StateStore`, or *url* leads to no database of agno: nothing was written. Or
            a session cannot be stored, and there is no *on_problem*: those before it stay.
        DatabaseError: One of the databases failed. What was written before stays.
    """
    with importing(store, url, progress, on_problem) as (source, bringing):
        schema = _schema_of(source)
        source.require(_SESSIONS, "agno", schema=schema)
        has_runs = _RUNS in source.tables(schema=schema)
        legacy = {"runs"} & source.columns(_SESSIONS, schema=schema)
        columns = ("session_type", "user_id", "created_at", "updated_at", *(f"{kind}_id" for kind in KINDS), *DATA)
        for row in source.rows(_SESSIONS, *columns, *legacy, key=("session_id",), schema=schema):
            session_id = row["session_id"]
            try:
                new = _session(row)
            except InvalidValueError as error:
                bringing.refuse(session_id, error)
                continue
            bringing.bring(session_id, new, _entries(source, row, schema, has_runs))
            _bring_attributes(bringing, session_id, new)
    return bringing.report()


def _schema_of(source: Source) -> str | None:
    on_postgresql = source.name.startswith("postgresql")
    return _SCHEMA if on_postgresql and _SESSIONS in source.tables(schema=_SCHEMA) else None


def _session(row: RowMapping) -> NewSession:
    data = {name: _json(row[name], name) for name in DATA}
    kind = row["session_type"]
    with written_by("agno", "session_data"):
        title = name_of(data)
    return NewSession(
        user_id=row["user_id"],
        agent_name=row.get(f"{kind}_id"),
        title=title,
        metadata=metadata_of(kind, data, updated_at=row["updated_at"]),
        created_at=time_of(row["created_at"], "created_at"),
    )


def _bring_attributes(bringing: Import, session_id: str, new: NewSession) -> None:
    """Bring what a session is and keeps, such as its state, if agno has changed it since it was imported."""
    there = bringing.store.sessions.find(session_id)
    metadata = new.metadata or {}
    if there is None or there.user_id not in (None, new.user_id) or there.metadata.get("framework") != "agno":
        return
    merged = {**{name: value for name, value in there.metadata.items() if name not in DATA}, **metadata}
    ours, theirs = there.metadata.get("updated_at"), metadata["updated_at"]
    if merged == there.metadata or (ours is not None and (theirs is None or theirs < ours)):
        return
    try:
        bringing.store.sessions.update(
            session_id,
            user_id=new.user_id,
            agent_name=new.agent_name,
            title=new.title,
            metadata=merged,
            expected_revision=there.revision,
        )
    except (ConflictError, SessionNotFoundError):  # Somebody is using it here.
        bringing.differs(session_id)


def _entries(source: Source, row: RowMapping, schema: str | None, has_runs: bool) -> Iterator[NewEntry]:
    """The runs of a session: those of the row first, unless they are among the others, which are newer."""
    within = _json(row.get("runs"), "runs") or []
    there: Any = table(_RUNS, *map(column, ("session_id", "run_id", "run_index", "created_at")), schema=schema)
    run = there.c
    chosen = select(run.run_id).where(run.session_id == row["session_id"])
    in_order = chosen.order_by(run.run_index, run.created_at, run.run_id)
    ids = [found["run_id"] for found in source.read(in_order)] if has_runs else []
    among_others = set(ids)
    for content in within:
        if isinstance(content, dict) and content.get("run_id"):
            with written_by("agno", "runs"):
                entry = None if content["run_id"] in among_others else entry_of(content, user_id=row["user_id"])
            if entry is not None:
                yield entry
    for first in range(0, len(ids), _AT_A_TIME):
        some = ids[first : first + _AT_A_TIME]
        wanted = select(run.run_id, column("run_data"), column("user_id")).where(run.run_id.in_(some))
        rows: Mapping[str, RowMapping] = {found["run_id"]: found for found in source.read(wanted)}
        for run_id in some:
            if run_id in rows:  # Else it was deleted in between.
                where = f"run {run_id[:80]!r}"
                content = _json(rows[run_id]["run_data"], where)
                with written_by("agno", where):
                    entry = entry_of({**content, "run_id": run_id}, user_id=rows[run_id]["user_id"])
                yield entry


def _json(text: Any, where: str) -> Any:
    """The value of a column, which in some versions is JSON within JSON."""
    found = None if text is None else json_of(text, where)
    return json_of(found, where) if isinstance(found, str) else found
