"""agno's sessions as sessions of a store, by the rules of `layouts.agno`."""

import json
import time
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from copy import deepcopy
from datetime import UTC, datetime, timedelta
from typing import Any

from agno.db.base import SessionType
from agno.db.utils import deserialize_history_run, deserialize_session, json_serializer, validate_pagination
from agno.session import Session, TeamSession, WorkflowSession

from statestore import ConflictError, InvalidValueError, LazyStore, SessionExistsError, SessionNotFoundError, StoreLike
from statestore import Session as StoredSession
from statestore.adapters.flows import Flow, OnStore, store
from statestore.adapters.layouts.agno import AGNO, CONTEXT, DATA, KINDS, metadata_of, name_of

ACTIVE = frozenset({"PENDING", "RUNNING", "PAUSED"})
MOST = 10_000
# Somebody else has created, changed or deleted the session since it was looked at.
_RACED = (ConflictError, SessionExistsError, SessionNotFoundError)


class Sessions(OnStore):
    """What the flows of all operations know: how sessions are made, and the runs of those that were read last."""

    def __init__(self, store: StoreLike, ttl: timedelta | None) -> None:
        self._store = LazyStore.of(store)
        self.ttl = ttl
        self._read: OrderedDict[str, dict[str, tuple[Any, Any]]] = OrderedDict()
        self._written: OrderedDict[tuple[str, str], None] = OrderedDict()

    def knows(self, session_id: str, run_id: str) -> bool:
        """Whether a run was read or written here lately, and so is probably there."""
        return run_id in self._read.get(session_id, ()) or (session_id, run_id) in self._written

    def note(self, session_id: str, run_id: str) -> None:
        """Remember that a run was written."""
        self._written[session_id, run_id] = None
        while len(self._written) > 1024:
            self._written.popitem(last=False)

    def runs_of(self, session_id: str, contents: Sequence[dict[str, Any]]) -> list[Any]:
        """Runs as agno's objects, which it never changes: one that was read before is built once.

        To build one takes longer than to read it. It is the same as long as what is stored is equal.
        """
        before = self._read.pop(session_id, {})
        now = {}
        for content in contents:
            run_id = content["run_id"]
            known = before.get(run_id)
            if known is None or known[0] != content:
                known = (content, deserialize_history_run(deepcopy(content)))
            now[run_id] = known
        self._read[session_id] = now
        while len(self._read) > 64:
            self._read.popitem(last=False)
        return [run for _, run in now.values() if run is not None]


def get_session(
    self: Sessions,
    session_id: str,
    session_type: SessionType | None = None,
    user_id: str | None = None,
    deserialize: bool | None = True,
    runs_limit: int | None = None,
) -> Flow[Session | dict[str, Any] | None]:
    """A session with its runs, or with the latest *runs_limit* of those that agno puts into a context."""
    found = yield store.sessions.find(session_id)
    if not _is_agno(found) or user_id not in (None, found.user_id):
        return None
    try:
        if runs_limit is None:
            contents = yield store.history.messages(session_id)
        elif runs_limit > 0:
            entries = yield store.history.read(session_id, last=runs_limit, role=CONTEXT)
            contents = [entry.content for entry in entries]
        else:
            contents = []
    except SessionNotFoundError:  # It was deleted in between.
        return None
    row, contents = _row(found), runs_among(contents)
    if not deserialize:
        return {**row, "runs": contents}
    if row["session_type"] != "agent" or session_type not in (None, SessionType.AGENT):
        return deserialize_session(session_type, {**row, "runs": contents})
    session: Session = deserialize_session(session_type, {**row, "runs": None})
    session.runs = self.runs_of(session_id, contents)
    return session


def get_sessions(
    self: Sessions,
    session_type: SessionType | None = None,
    user_id: str | None = None,
    component_id: str | None = None,
    session_name: str | None = None,
    start_timestamp: int | None = None,
    end_timestamp: int | None = None,
    limit: int | None = None,
    page: int | None = None,
    sort_by: str | None = None,
    sort_order: str | None = None,
    deserialize: bool | None = True,
    include_runs: bool = True,
) -> Flow[list[Session] | tuple[list[dict[str, Any]], int]]:
    """A page of sessions; if not deserialized, with how many there are on all pages."""
    validate_pagination(limit, page)
    if user_id == "":
        return [] if deserialize else ([], 0)
    found, total = yield from listed(
        limit,
        offset=(limit or 0) * ((page or 1) - 1),
        user_id=user_id,
        agent_name=component_id,
        metadata=AGNO if session_type is None else {**AGNO, "session_type": SessionType(session_type).value},
        title_contains=session_name,
        created_since=_time("start_timestamp", start_timestamp),
        created_until=_time("end_timestamp", None if end_timestamp is None else end_timestamp + 1),
        order_by="last_activity_at" if sort_by == "updated_at" else "created_at",
        descending=sort_by is not None and sort_order != "asc",
    )
    rows = [_row(session) for session in found]
    if include_runs and rows:
        ids = [row["session_id"] for row in rows]
        entries = yield store.history.last_many(ids, MOST)
        for row in rows:
            row["runs"] = runs_among(entry.content for entry in entries.get(row["session_id"], ()))
    if not deserialize:
        return rows, total
    return [deserialize_session(session_type, row) for row in rows]


def listed(limit: int | None, *, offset: int = 0, **conditions: Any) -> Flow[tuple[list[StoredSession], int]]:
    """Sessions that meet conditions, all of them or *limit*, and how many there are."""
    found: list[StoredSession] = []
    wanted = MOST if limit is None else max(1, min(limit, MOST))
    page = yield store.sessions.page(limit=wanted, offset=offset, with_total=True, **conditions)
    total = page.total
    while True:
        found += page.sessions
        cursor = page.next_cursor
        if cursor is None or (limit is not None and len(found) >= limit):
            return found[:limit], total
        page = yield store.sessions.page(limit=wanted, cursor=cursor, **conditions)


def upsert_session(
    self: Sessions, session: Session, deserialize: bool | None = True, *, updated_at: int | None = None
) -> Flow[Session | dict[str, Any] | None]:
    """Write a session, without its runs: `upsert_run` writes those. None if it is another user's.

    What the caller passes comes back, with the times of the store.
    """
    given = session.to_dict(include_runs=False)
    kind = (
        "team" if isinstance(session, TeamSession) else "workflow" if isinstance(session, WorkflowSession) else "agent"
    )
    metadata = metadata_of(
        kind,
        json.loads(json_serializer({name: given.get(name) for name in DATA})),
        updated_at=int(time.time()) if updated_at is None else updated_at,
    )
    attributes = {"user_id": session.user_id, "agent_name": given.get(f"{kind}_id"), "title": name_of(metadata)}
    stored = yield from _write(self, session.session_id, attributes, metadata, given.get("created_at"))
    if stored is None:
        return None
    row = _row(stored)
    if not deserialize:
        return {**row, "runs": [run if isinstance(run, dict) else run.to_dict() for run in session.runs or []]}
    written: Session = deserialize_session(None, row)
    written.runs = session.runs  # type: ignore[assignment]
    return written


def _write(
    self: Sessions, session_id: str, attributes: dict[str, Any], metadata: dict[str, Any], created_at: int | None
) -> Flow[StoredSession | None]:
    begun = _time("created_at", created_at)
    stored: StoredSession
    while True:
        found = yield store.sessions.find(session_id)
        try:
            if found is None:
                stored = yield store.sessions.create(
                    session_id, **attributes, metadata=metadata, ttl=self.ttl, created_at=begun
                )
                return stored
            if found.user_id not in (None, attributes["user_id"]):
                return None
            kept = {name: value for name, value in found.metadata.items() if name not in DATA}
            changed = {"metadata": {**kept, **metadata}, "expected_revision": found.revision}
            stored = yield store.sessions.update(session_id, **attributes, **changed)
            return stored
        except _RACED:
            continue


def upsert_sessions(
    self: Sessions,
    sessions: Iterable[Session | None],
    deserialize: bool | None = True,
    preserve_updated_at: bool = False,
) -> Flow[list[Session | dict[str, Any]]]:
    """As `upsert_session`, one after the other; those of other users are left out."""
    written = []
    for session in sessions:
        if session is not None:
            updated_at = session.updated_at if preserve_updated_at else None
            result = yield from upsert_session(self, session, deserialize, updated_at=updated_at)
            if result is not None:
                written.append(result)
    return written


def rename_session(
    self: Sessions,
    session_id: str,
    session_type: SessionType | None,
    session_name: str,
    user_id: str | None = None,
    deserialize: bool | None = True,
) -> Flow[Session | dict[str, Any] | None]:
    """Give a session another name. None if there is none, or it is another user's."""
    while True:
        found = yield store.sessions.find(session_id)
        if not _is_agno(found) or user_id not in (None, found.user_id):
            return None
        data = {**(found.metadata.get("session_data") or {}), "session_name": session_name}
        metadata = {**found.metadata, "session_data": data, "updated_at": int(time.time())}
        changed = {"title": session_name, "metadata": metadata, "expected_revision": found.revision}
        try:
            yield store.sessions.update(session_id, **changed)
        except _RACED:
            continue
        return (yield from get_session(self, session_id, session_type, deserialize=deserialize))


def reassign_session_owner(
    self: Sessions, session_id: str, *, previous_user_id: str, user_id: str | None
) -> Flow[bool]:
    """Give a session to another user, if it is still the previous one's and none of its runs is active."""
    while True:
        found = yield store.sessions.find(session_id)
        if not _is_agno(found) or found.user_id != previous_user_id:
            return False
        try:
            contents = yield store.history.messages(session_id)
            if any(content.get("status") in ACTIVE for content in runs_among(contents)):
                return False
            changed = {"user_id": user_id, "expected_revision": found.revision}
            yield store.sessions.update(session_id, **changed)
        except _RACED:
            continue
        return True


def delete_session(self: Sessions, session_id: str, user_id: str | None = None) -> Flow[bool]:
    """Delete a session with its runs. False if there is none, or it is another user's."""
    if user_id == "":
        return False  # agno takes this for a user who has no sessions.
    if not _is_agno((yield store.sessions.find(session_id))):
        return False
    deleted: bool = yield store.sessions.delete(session_id, user_id=user_id)
    return deleted


def delete_sessions(self: Sessions, session_ids: Sequence[str], user_id: str | None = None) -> Flow[None]:
    """Delete sessions with their runs, of one user only if one is given."""
    found = yield store.sessions.load_many(list(session_ids))
    of_agno = [session for session in found.values() if _is_agno(session)]
    ids = [session.session_id for session in of_agno if user_id in (None, session.user_id)]
    yield store.sessions.delete_many(ids)


def is_run(content: Any) -> bool:
    """Whether an entry is a run: not a deleted one, nor one that somebody else has appended."""
    return isinstance(content, dict) and "run_id" in content


def runs_among(contents: Iterable[Any]) -> list[dict[str, Any]]:
    """Those contents that are runs."""
    return [content for content in contents if is_run(content)]


def _time(name: str, seconds: int | None) -> datetime | None:
    try:
        return None if seconds is None else datetime.fromtimestamp(seconds, UTC)
    except (OverflowError, OSError, TypeError, ValueError):
        raise InvalidValueError(name, "must be a time in seconds since 1970") from None


def _is_agno(session: StoredSession | None) -> bool:
    return session is not None and session.metadata.get("framework") == "agno"


def _row(session: StoredSession) -> dict[str, Any]:
    """The session as agno has it in a row."""
    metadata = session.metadata
    kind = metadata["session_type"]
    created_at = int(session.created_at.timestamp())
    return {
        "session_id": session.session_id,
        "session_type": kind,
        **{f"{one}_id": session.agent_name if one == kind else None for one in KINDS},
        "user_id": session.user_id,
        **{name: metadata.get(name) for name in DATA},
        "created_at": created_at,
        "updated_at": metadata.get("updated_at", created_at),
        "runs": None,
    }
