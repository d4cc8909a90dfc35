"""agno's runs as entries of the history: one each, whose id is that of the run. A run that goes on is replaced.

An entry keeps its place when its run is deleted: without its content, so that no position changes, and with its usage.
"""

import json
from collections.abc import Sequence
from typing import Any

from agno.db.utils import (
    build_single_run_row,
    deserialize_run,
    get_run_type,
    json_serializer,
    validate_pagination,
)
from agno.run.base import RunStatus

from statestore import ConflictError, Entry, EntryNotFoundError, NewEntry, NotFoundError
from statestore.adapters.agno.sessions import MOST, Sessions, is_run, listed
from statestore.adapters.flows import Flow, store
from statestore.adapters.layouts.agno import AGNO, entry_of


def upsert_run(
    self: Sessions, run: Any, session_id: str, user_id: str | None = None, run_index: int | None = None
) -> Flow[None]:
    """Add a run to a session, or put it in the place of the one with its id. The order is that of the first writes.

    Raises:
        ValueError: It has no `run_id`.
        SessionNotFoundError: There is no such session.
    """
    row = build_single_run_row(run, session_id, user_id)
    entry = entry_of(json.loads(json_serializer(row["run_data"])), user_id=user_id)
    if self.knows(session_id, row["run_id"]):
        # Two statements on PostgreSQL; to append what is there already takes thirteen.
        found = yield store.history.find(session_id, row["run_id"])
        if found is not None:
            try:
                yield store.history.replace(session_id, found.seq, entry, expected_content=found.content)
            except (ConflictError, EntryNotFoundError):
                pass  # Somebody else was there in between.
            else:
                return
    yield store.history.append(session_id, [entry], on_conflict="replace")
    self.note(session_id, row["run_id"])


def get_run(self: Sessions, run_id: str, deserialize: bool | None = True) -> Flow[Any]:
    """The run with this id, in whichever session; None if there is none."""
    entry = yield from _find(run_id)
    if entry is None:
        return None
    return deserialize_run(None, entry.content) if deserialize else _row(entry)


def get_runs(
    self: Sessions,
    session_id: str | None = None,
    user_id: str | None = None,
    agent_id: str | None = None,
    team_id: str | None = None,
    workflow_id: str | None = None,
    status: RunStatus | None = None,
    limit: int | None = None,
    page: int | None = None,
    sort_by: str | None = None,
    sort_order: str | None = None,
    deserialize: bool | None = True,
) -> Flow[list[Any] | tuple[list[dict[str, Any]], int]]:
    """The runs that meet conditions. Without *session_id* this reads all sessions."""
    validate_pagination(limit, page)
    if session_id is None:
        found, _ = yield from listed(None, metadata=AGNO, order_by="created_at", descending=False)
        ids = [session.session_id for session in found]
    else:
        ids = [session_id]
    entries = yield store.history.last_many(ids, MOST)
    wanted = {"user_id": user_id, "agent_id": agent_id, "team_id": team_id, "workflow_id": workflow_id}
    wanted["status"] = status.value if isinstance(status, RunStatus) else status
    rows = [_row(entry) for some in entries.values() for entry in some if is_run(entry.content)]
    rows = [row for row in rows if all(value in (None, row[name]) for name, value in wanted.items())]
    if sort_by is not None and rows and sort_by in rows[0]:
        rows.sort(key=lambda row: (row[sort_by] is not None, row[sort_by]), reverse=sort_order != "asc")
    total = len(rows)
    if limit is not None:
        rows = rows[limit * ((page or 1) - 1) :][:limit]
    return [deserialize_run(row["run_type"], row["run_data"]) for row in rows] if deserialize else (rows, total)


def cancel_pending_run(
    self: Sessions,
    run_id: str,
    *,
    session_id: str,
    reason: str,
    user_id: str | None = None,
    expected_status: str = "PENDING",
) -> Flow[bool]:
    """Cancel a run that is still pending, or running; what others have made of it meanwhile stays."""
    if expected_status not in ("PENDING", "RUNNING"):
        raise ValueError("expected_status: must be PENDING or RUNNING")
    while True:
        try:
            entry = yield store.history.find(session_id, run_id)
            if entry is None or not is_run(entry.content) or entry.content.get("status") != expected_status:
                return False
            owner = entry.metadata.get("user_id")
            if owner not in (None, user_id):
                return False
            content = {**entry.content, "status": "CANCELLED"}
            content["content"] = content.get("content") or reason
            cancelled = entry_of(content, user_id=owner)
            yield store.history.replace(session_id, entry.seq, cancelled, expected_content=entry.content)
        except ConflictError:
            continue
        except NotFoundError:
            return False
        return True


def delete_run(self: Sessions, run_id: str) -> Flow[bool]:
    """Delete a run; what it used stays in the reports. False if there is none."""
    entry = yield from _find(run_id)
    if entry is None:
        return False
    emptied = NewEntry(
        None,
        entry_id=run_id,
        agent_name=entry.agent_name,
        usage=entry.usage,
        cost_usd=entry.cost_usd,
        provider_name=entry.provider_name,
        response_model=entry.response_model,
        duration=entry.duration,
    )
    yield store.history.replace(entry.session_id, entry.seq, emptied)
    return True


def delete_runs(self: Sessions, run_ids: Sequence[str]) -> Flow[None]:
    """Delete runs; those that are not there are left out."""
    for run_id in run_ids:
        yield from delete_run(self, run_id)


def _find(run_id: str) -> Flow[Entry | None]:
    place = yield store.history.locate(run_id)
    if place is None:
        return None
    try:
        entry: Entry = yield store.history.get(*place)
    except NotFoundError:  # It was deleted in between.
        return None
    return entry if is_run(entry.content) else None


def _row(entry: Entry) -> dict[str, Any]:
    """The run as agno has it in a row."""
    content = entry.content
    return {
        "run_id": entry.entry_id,
        "session_id": entry.session_id,
        "run_type": get_run_type(content),
        **{name: content.get(name) for name in ("agent_id", "team_id", "workflow_id", "parent_run_id", "status")},
        "user_id": entry.metadata.get("user_id"),
        "run_index": entry.seq - 1,
        "run_data": content,
        "created_at": int(entry.created_at.timestamp()),
        "updated_at": int(entry.created_at.timestamp()),
    }
