"""Sessions as Google's Agent Development Kit has them: state in three scopes, events with changes of it, lists.

An app is a store with a namespace of its own. A key of the state belongs to the app or to the user if its prefix says
so, to the session without a prefix, and to nobody if it begins with `temp:`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from statestore import ConflictError, NewEntry, SessionNotFoundError, StateScopes

Store = Any

APP, USER, TEMP = "app:", "user:", "temp:"


class StaleSessionError(Exception):
    """Somebody else has appended to the session since it was read."""


@dataclass
class AdkSession:
    id: str
    user_id: str
    state: dict[str, Any]
    events: list[dict[str, Any]] = field(default_factory=list)
    seq: int = 0


def _scope(delta: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    return {key.removeprefix(prefix): value for key, value in delta.items() if key.startswith(prefix)}


def _own(delta: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in delta.items() if not key.startswith((APP, USER, TEMP))}


def _prefixed(prefix: str, values: Mapping[str, Any]) -> dict[str, Any]:
    return {prefix + key: value for key, value in values.items()}


def _merged(scopes: StateScopes) -> dict[str, Any]:
    return _prefixed(APP, scopes.app) | _prefixed(USER, scopes.user) | scopes.session


class AdkSessions:
    def __init__(self, store: Store) -> None:
        self._store = store
        self._app = store.namespace

    def create(self, user_id: str, session_id: str, state: Mapping[str, Any] | None = None) -> AdkSession:
        with self._store.transaction() as tx:
            tx.sessions.create(session_id, user_id=user_id, agent_name=self._app)
            self._change(tx, session_id, user_id, state or {})
        found = self.get(user_id, session_id)
        assert found is not None
        return found

    def get(self, user_id: str, session_id: str) -> AdkSession | None:
        session = self._store.sessions.find(session_id)
        if session is None or session.user_id != user_id:
            return None
        scopes = self._store.state.scopes_many([session_id])[session_id]
        events = self._store.history.messages(session_id)
        return AdkSession(session_id, user_id, _merged(scopes), events, session.next_seq - 1)

    def list(self, user_id: str | None = None) -> list[AdkSession]:
        """All sessions of a user, or of everybody, without their events."""
        page = self._store.sessions.page(agent_name=self._app, user_id=user_id, limit=1000)
        scopes = self._store.state.scopes_many([session.session_id for session in page.sessions])
        return [
            AdkSession(one.session_id, one.user_id, _merged(scopes[one.session_id]))
            for one in page.sessions
            if one.session_id in scopes
        ]

    def append(self, session: AdkSession, event: Mapping[str, Any]) -> None:
        """Store an event with the changes of state that it makes, unless the session has gone on meanwhile."""
        delta = event.get("state_delta", {})
        kept = {key: value for key, value in delta.items() if not key.startswith(TEMP)}
        stored = {**event, "state_delta": kept}
        try:
            with self._store.transaction() as tx:
                entry = NewEntry(stored, role=event.get("author"), entry_id=event["id"])
                tx.history.append(session.id, [entry], after_seq=session.seq)
                self._change(tx, session.id, session.user_id, kept)
        except ConflictError as error:
            raise StaleSessionError(session.id) from error
        session.state.update(delta)
        session.events.append(stored)
        session.seq += 1

    def delete(self, session_id: str) -> None:
        try:
            self._store.sessions.delete(session_id)
        except SessionNotFoundError:
            return

    def _change(self, tx: Store, session_id: str, user_id: str, delta: Mapping[str, Any]) -> None:
        for change, owner, values in (
            (tx.state.set_many, session_id, _own(delta)),
            (tx.user_state.set_many, user_id, _scope(delta, USER)),
            (tx.app_state.set_many, self._app, _scope(delta, APP)),
        ):
            if values:
                change(owner, values)
