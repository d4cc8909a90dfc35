"""Google's Agent Development Kit: a session service on a store.

    from google.adk.runners import Runner
    from statestore.adapters.adk import StatestoreSessionService

    runner = Runner(app_name="travel", agent=agent, session_service=StatestoreSessionService("sqlite:///agents.db"))

An event is an entry of the history, and `statestore_id` names the session of the store. Keys of the state that begin
with `app:` are in `app_state`, under the name of the app, and those with `user:` in `user_state`.
"""

import asyncio
from collections.abc import Sequence
from datetime import datetime
from types import TracebackType
from typing import Any, Self
from weakref import WeakValueDictionary

from google.adk.errors import StaleSessionError
from google.adk.errors.already_exists_error import AlreadyExistsError
from google.adk.errors.session_not_found_error import SessionNotFoundError as AdkSessionNotFoundError
from google.adk.events.event import Event
from google.adk.events.event_actions import EventActions
from google.adk.platform import uuid as platform_uuid
from google.adk.sessions.base_session_service import BaseSessionService, GetSessionConfig, ListSessionsResponse
from google.adk.sessions.session import Session

from statestore import (
    AsyncStateStore,
    AsyncTransaction,
    ConflictError,
    Entry,
    InvalidValueError,
    LazyStore,
    NewEntry,
    SessionExistsError,
    SessionNotFoundError,
    StateScopes,
    StoreLike,
)
from statestore.adapters.layouts import adk as layout
from statestore.adapters.layouts.adk import statestore_id as statestore_id

_PAGE = 1000


class StatestoreSessionService(BaseSessionService):
    """Sessions of ADK in a store, with the semantics of its `DatabaseSessionService`.

    Safe to share between tasks, and between event loops that run at the same time.
    """

    def __init__(self, store: StoreLike = None) -> None:
        """Keep sessions in *store*: a `LazyStore`, an open `AsyncStateStore`, a URL, or None for STATESTORE_URL."""
        self._store = LazyStore.of(store)
        self._locks: WeakValueDictionary[Any, asyncio.Lock] = WeakValueDictionary()

    async def create_session(
        self,
        *,
        app_name: str,
        user_id: str,
        state: dict[str, Any] | None = None,
        session_id: str | None = None,
    ) -> Session:
        """A new session; without *session_id*, or with an empty one, it gets an id.

        Raises:
            AlreadyExistsError: The app and the user have a session with this id. Nothing was written.
        """
        session_id = session_id or platform_uuid.new_uuid()
        key = statestore_id(app_name, user_id, session_id)
        delta = layout.split(_json_safe(state or {}), app_name)

        async def create(on: AsyncTransaction) -> tuple[datetime, StateScopes]:
            made = await on.sessions.create(key, user_id=user_id, agent_name=app_name)
            await _change(on, key, user_id, app_name, delta)
            return made.created_at, (await on.state.scopes_many([key]))[key]

        store = await self._store.here()
        try:
            created_at, scopes = await (store.run_transaction(create) if any(delta) else create(store))
        except SessionExistsError as error:
            raise AlreadyExistsError(f"Session with id {session_id} already exists.") from error
        return _session(app_name, user_id, session_id, scopes, seq=0, at=created_at)

    async def get_session(
        self, *, app_name: str, user_id: str, session_id: str, config: GetSessionConfig | None = None
    ) -> Session | None:
        """A session with its events and the state of all scopes; None if there is none.

        The state is read last: what is appended meanwhile may show in it, and makes what was read stale.

        Raises:
            InvalidValueError: An entry of the session, appended by other means, is not an event.
        """
        key = statestore_id(app_name, user_id, session_id)
        last = None if config is None else config.num_recent_events
        since = layout.time_of(config.after_timestamp, "config") if config and config.after_timestamp else None
        store = await self._store.here()
        try:
            some = since is not None or last == 0
            events = newest = await store.history.read(key, last=1 if some else last)
            if newest and some:
                before = newest[-1].seq + 1
                events = await store.history.read(key, last=last, since=since, before=before) if last != 0 else []
            if newest:
                seq, at = newest[-1].seq, newest[-1].created_at
            else:
                found = await store.sessions.get(key)
                seq, at = found.first_seq - 1, found.created_at
        except SessionNotFoundError:
            return None
        scopes = (await store.state.scopes_many([key])).get(key)
        return None if scopes is None else _session(app_name, user_id, session_id, scopes, events, seq=seq, at=at)

    async def list_sessions(self, *, app_name: str, user_id: str | None = None) -> ListSessionsResponse:
        """The sessions of a user, or of all users, without their events; the one that was used last is the last."""
        prefix = layout.id_prefix(app_name, user_id)
        store = await self._store.here()
        sessions: list[Session] = []
        cursor: str | None = None
        while True:
            page = await store.sessions.page(id_prefix=prefix, order_by="created_at", limit=_PAGE, cursor=cursor)
            scopes = await store.state.scopes_many([one.session_id for one in page.sessions])
            newest = await store.history.last_many([one.session_id for one in page.sessions if one.entry_count], 1)
            for one in page.sessions:
                names = layout.user_and_session(one.session_id)
                if names is not None and one.session_id in scopes:
                    last = newest.get(one.session_id)
                    seq, at = (last[-1].seq, last[-1].created_at) if last else (one.first_seq - 1, one.created_at)
                    sessions.append(_session(app_name, *names, scopes[one.session_id], seq=seq, at=at))
            cursor = page.next_cursor
            if cursor is None:
                break
        sessions.sort(key=lambda session: (session.last_update_time, session.user_id, session.id))
        return ListSessionsResponse(sessions=sessions)

    async def delete_session(self, *, app_name: str, user_id: str, session_id: str) -> None:
        """Delete a session, if there is one, with its events and its own state."""
        key = statestore_id(app_name, user_id, session_id)
        await (await self._store.here()).sessions.delete(key)

    async def get_user_state(self, *, app_name: str, user_id: str) -> dict[str, Any]:
        layout.id_prefix(app_name, user_id)
        store = await self._store.here()
        return layout.of_app(app_name, await store.user_state.get_all(user_id))

    async def append_event(self, session: Session, event: Event) -> Event:
        """Store an event and its changes of the state: all of it, or nothing. A partial event is not stored.

        An event that the session has already is not stored again, and changes nothing.

        Raises:
            StaleSessionError: Somebody has appended to the session since it was read. Nothing was written.
            SessionNotFoundError: ADK's: there is no such session, or it has expired. Nothing was written.
            ConflictError: The session has another event with this id. Nothing was written.
        """
        if event.partial:
            return event
        key = statestore_id(session.app_name, session.user_id, session.id)
        entry = _entry(event)
        delta = layout.split(entry.content["actions"]["state_delta"], session.app_name)
        store = await self._store.here()
        # Agents that run in parallel share one object, which goes on with each append.
        async with self._locks.setdefault((asyncio.get_running_loop(), key), asyncio.Lock()):
            try:
                seq = await _position(store, key, session)

                async def append(on: AsyncTransaction) -> Entry:
                    # What an event changed when it was stored may have been changed again since.
                    is_new = any(delta) and await on.history.find(key, event.id) is None
                    [stored] = await on.history.append(key, [entry], after_seq=seq)
                    if is_new:
                        await _change(on, key, session.user_id, session.app_name, delta)
                    return stored

                stored = await (store.run_transaction(append) if any(delta) else append(store))
            except SessionNotFoundError as error:
                raise AdkSessionNotFoundError(f"Session {session.id} not found.") from error
            except ConflictError as error:
                if error.entry_id == event.id:
                    raise
                raise _stale() from error
            if stored.seq <= seq:
                return event
            _mark(session, stored.seq, stored.created_at)
            return await super().append_event(session, event)

    async def close(self) -> None:
        """Close the connections that the service has opened. A store that it was given stays open."""
        await self._store.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()


async def _change(on: AsyncTransaction, key: str, user_id: str, app_name: str, delta: layout.Delta) -> None:
    if delta.session:
        await on.state.set_many(key, delta.session)
    if delta.user:
        await on.user_state.set_many(user_id, delta.user)
    if delta.app:
        await on.app_state.set_many(app_name, delta.app)


async def _position(store: AsyncStateStore, key: str, session: Session) -> int:
    """The position that the next event of a session is to have before it.

    One that was made by hand, or comes from JSON, has no marker. Like ADK's own store, this one then looks whether the
    newest event is later than the session's last update, and not the one that the session has.
    """
    marker = session._storage_update_marker
    if marker is not None:
        if not marker.isdecimal():  # It is a time, and the session is from another of ADK's services.
            raise _stale()
        return int(marker)
    newest = await store.history.read(key, last=1)
    if not newest:
        return (await store.sessions.get(key)).next_seq - 1
    is_later = newest[0].created_at.timestamp() > session.last_update_time
    if is_later and (not session.events or session.events[-1].id != newest[0].entry_id):
        raise _stale()
    return newest[0].seq


def _session(
    app_name: str,
    user_id: str,
    session_id: str,
    scopes: StateScopes,
    entries: Sequence[Entry] = (),
    *,
    seq: int,
    at: datetime,
) -> Session:
    state = layout.merged(scopes.session, layout.of_app(app_name, scopes.user), scopes.app)
    events = [_event(session_id, entry) for entry in entries]
    session = Session(id=session_id, app_name=app_name, user_id=user_id, state=state, events=events)
    _mark(session, seq, at)
    return session


def _event(session_id: str, entry: Entry) -> Event:
    try:
        event: Event = Event.model_validate(entry.content)
    except ValueError:  # It quotes the content.
        raise InvalidValueError(
            "session_id",
            f"the entry at position {entry.seq} of session {session_id!r} is not an event of ADK; remove or replace it",
        ) from None
    return event


def _mark(session: Session, seq: int, at: datetime) -> None:
    """Note which revision of the stored session this is: the position of its newest event."""
    session.last_update_time = at.timestamp()
    session._storage_update_marker = str(seq)


def _stale() -> StaleSessionError:
    return StaleSessionError("the session was modified in storage since it was loaded; load it again, then append")


def _entry(event: Event) -> NewEntry:
    """An event as it is stored: without changes of the state that are temporary."""
    content = event.model_dump(mode="json", exclude_none=True)
    delta = content["actions"]["state_delta"]
    content["actions"]["state_delta"] = {key: delta[key] for key in delta if not layout.is_temporary(key)}
    return layout.entry_of(content)


def _json_safe(state: dict[str, Any]) -> dict[str, Any]:
    """The state as an event would have it: what JSON does not know is converted."""
    safe: dict[str, Any] = EventActions(state_delta=state).model_dump(mode="json")["state_delta"]
    return safe
