"""Sessions as agno's database has them: of agents, teams and workflows, in numbered pages, with their runs."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from statestore import NewEntry, NewSession

Store = Any


class AgnoSessions:
    """The kind of a session is in its metadata; what a team's members do belongs to the session of the team."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def upsert_run(
        self,
        session_id: str,
        run: Mapping[str, Any],
        *,
        kind: str,
        component_id: str,
        user_id: str | None = None,
        name: str | None = None,
        team_session_id: str | None = None,
    ) -> None:
        """Add a run to a session, or replace it; the session is made on the way."""
        session = NewSession(
            user_id=user_id,
            agent_name=component_id,
            title=name,
            metadata={"session_type": kind},
            belongs_to=team_session_id,
        )
        entry = NewEntry(run, entry_id=run["run_id"], agent_name=component_id)
        self._store.history.append(session_id, [entry], create=session, on_conflict="replace")

    def get_sessions(
        self,
        *,
        kind: str | None = None,
        user_id: str | None = None,
        component_id: str | None = None,
        session_name: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        sort_by: str = "created_at",
        descending: bool = True,
        limit: int = 20,
        page: int = 1,
        runs: int = 0,
    ) -> tuple[list[dict[str, Any]], int]:
        """A page of sessions, each with its last *runs* runs, and how many sessions there are on all pages."""
        found = self._store.sessions.page(
            user_id=user_id,
            agent_name=component_id,
            metadata=None if kind is None else {"session_type": kind},
            title_contains=session_name,
            created_since=since,
            created_until=None if until is None else until + timedelta(microseconds=1),  # It is included there.
            order_by=sort_by,
            descending=descending,
            limit=limit,
            offset=(page - 1) * limit,
            with_total=True,
        )
        ids = [session.session_id for session in found.sessions]
        last: Mapping[str, Sequence[Any]] = self._store.history.last_many(ids, runs) if runs and ids else {}
        rows = [
            {
                "session_id": session.session_id,
                "session_type": session.metadata.get("session_type"),
                "user_id": session.user_id,
                "component_id": session.agent_name,
                "session_name": session.title,
                "created_at": session.created_at,
                "runs": [entry.content for entry in last.get(session.session_id, ())],
            }
            for session in found.sessions
        ]
        return rows, found.total

    def rename(self, session_id: str, name: str) -> None:
        self._store.sessions.update(session_id, title=name)

    def delete_sessions(self, session_ids: Sequence[str], *, user_id: str | None = None) -> None:
        """Delete sessions, of that user only if one is given, with what belongs to them."""
        if user_id is not None:
            owned = self._store.sessions.load_many(session_ids)
            session_ids = [one for one in session_ids if one in owned and owned[one].user_id == user_id]
        self._store.sessions.delete_many(session_ids)
