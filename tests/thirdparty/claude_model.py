"""Transcripts as the Claude Agent SDK hands them to a store: lines of a project's sessions and of their sub-agents.

A sub-agent's transcript belongs to the session that started it. A line with a `uuid` is stored once. What a list shows
of a session is folded from its lines as they come, and kept in its metadata.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from statestore import NewEntry, NewSession, SessionNotFoundError

Store = Any


class ClaudeTranscripts:
    def __init__(self, store: Store, project: str) -> None:
        self._store = store
        self._project = project

    def append(self, session_id: str, lines: Sequence[Mapping[str, Any]], *, subpath: str | None = None) -> None:
        session = NewSession(project_root=self._project, belongs_to=None if subpath is None else session_id)
        if subpath is not None:
            self._store.sessions.open(session_id, project_root=self._project)
        entries = [NewEntry(line, role=line.get("type"), entry_id=line.get("uuid")) for line in lines]
        self._store.history.append(_id(session_id, subpath), entries, create=session, on_conflict="keep")
        if subpath is None and (summary := _summary(lines)):
            self._store.sessions.merge_metadata(session_id, summary)

    def load(self, session_id: str, *, subpath: str | None = None) -> list[dict[str, Any]] | None:
        try:
            lines: list[dict[str, Any]] = self._store.history.messages(_id(session_id, subpath))
        except SessionNotFoundError:
            return None
        return lines

    def summaries(self) -> list[dict[str, Any]]:
        """What a list shows of the project's sessions, the latest first."""
        found = self._store.sessions.page(project_root=self._project, limit=1000).sessions
        return [{"session_id": one.session_id, "mtime": one.last_activity_at, "data": one.metadata} for one in found]

    def subkeys(self, session_id: str) -> list[str]:
        parts = self._store.sessions.page(belongs_to=session_id, order_by="created_at", descending=False).sessions
        return [part.session_id.removeprefix(f"{session_id}/") for part in parts]

    def delete(self, session_id: str, *, subpath: str | None = None) -> None:
        """Delete a transcript; that of a session with those of its sub-agents."""
        try:
            self._store.sessions.delete(_id(session_id, subpath))
        except SessionNotFoundError:
            return


def _id(session_id: str, subpath: str | None) -> str:
    return session_id if subpath is None else f"{session_id}/{subpath}"


def _summary(lines: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What the lines tell about their session: the newest title."""
    titles = [line["customTitle"] for line in lines if line.get("type") == "custom-title"]
    return {"custom_title": titles[-1]} if titles else {}
