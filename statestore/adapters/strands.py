"""strands: a repository of sessions on a store, for its RepositorySessionManager.

    from strands import Agent
    from strands.session.repository_session_manager import RepositorySessionManager
    from statestore.adapters.strands import StatestoreSessionRepository

    repository = StatestoreSessionRepository("sqlite:///agents.db")
    agent = Agent(session_manager=RepositorySessionManager("trip-1", session_repository=repository))

Each agent of a session is a session that belongs to it, see `agent_session_id`, with a message as an entry.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from strands.session.session_repository import SessionRepository
from strands.types.exceptions import SessionException
from strands.types.session import Session, SessionAgent, SessionMessage, SessionType

from statestore import (
    ConflictError,
    Entry,
    EntryNotFoundError,
    InvalidValueError,
    LazyStore,
    NewEntry,
    NewSession,
    SessionExistsError,
    SessionNotFoundError,
    StoreLike,
    Usage,
)
from statestore.adapters.layouts.labels import label

if TYPE_CHECKING:
    from strands.multiagent.base import MultiAgentBase

# Keys of an agent's state, and in the metadata of a session and of an entry what strands keeps of it.
_AGENT, _CREATED_AT, _STRANDS = "strands:agent", "strands:created_at", "strands"


def agent_session_id(session_id: str, agent_id: str) -> str:
    """The id that an agent of a session has in the store, for the store's own operations: `trip-1/default`.

    Raises:
        InvalidValueError: One of them is empty, or contains a path separator, which strands does not allow.
    """
    return f"{_checked('session_id', session_id)}/{_checked('agent_id', agent_id)}"


class StatestoreSessionRepository(SessionRepository):
    """Sessions of strands in a store, with the semantics of its FileSessionManager.

    Safe to share between threads and between session managers.
    """

    def __init__(self, store: StoreLike = None, *, user_id: str | None = None) -> None:
        """Keep sessions in *store*: a `LazyStore`, an open `StateStore`, a URL, or None for STATESTORE_URL.

        Args:
            store: The store.
            user_id: The user that new sessions belong to, for reports and erasure.
        """
        self._store = LazyStore.of(store)
        self._user_id = user_id

    def create_session(self, session: Session, **kwargs: Any) -> Session:
        session_id = _checked("session_id", session.session_id)
        kept = {"type": session.session_type, "created_at": session.created_at, "updated_at": session.updated_at}
        try:
            self._store.sync().sessions.create(session_id, user_id=self._user_id, metadata={_STRANDS: _plain(kept)})
        except SessionExistsError as error:
            raise SessionException(f"Session {session_id} already exists") from error
        return session

    def read_session(self, session_id: str, **kwargs: Any) -> Session | None:
        """A session, also one that was made in the store; None if there is none."""
        found = self._store.sync().sessions.find(_checked("session_id", session_id))
        if found is None:
            return None
        created_at = found.created_at.isoformat()
        kept = {"type": SessionType.AGENT, "created_at": created_at, "updated_at": created_at}
        kept |= found.metadata.get(_STRANDS, {})
        return Session(session_id, SessionType(kept["type"]), kept["created_at"], kept["updated_at"])

    def delete_session(self, session_id: str, **kwargs: Any) -> None:
        """Delete a session with all that belongs to it."""
        if not self._store.sync().sessions.delete(_checked("session_id", session_id)):
            raise SessionException(f"Session {session_id} does not exist")

    def create_agent(self, session_id: str, session_agent: SessionAgent, **kwargs: Any) -> None:
        agent_id = session_agent.agent_id
        values = {_AGENT: _plain(session_agent.to_dict()), _CREATED_AT: session_agent.created_at}
        part = NewSession(user_id=self._user_id, agent_name=agent_id, belongs_to=session_id)
        with _missing(f"Session {session_id} does not exist"):
            self._store.sync().state.set_many(agent_session_id(session_id, agent_id), values, create=part)

    def read_agent(self, session_id: str, agent_id: str, **kwargs: Any) -> SessionAgent | None:
        try:
            state = self._store.sync().state.get_many(agent_session_id(session_id, agent_id), [_AGENT, _CREATED_AT])
        except SessionNotFoundError:
            return None
        if _AGENT not in state:
            return None
        return SessionAgent.from_dict({**state[_AGENT], "agent_id": agent_id, "created_at": state[_CREATED_AT]})

    def update_agent(self, session_id: str, session_agent: SessionAgent, **kwargs: Any) -> None:
        """Replace what is known of an agent, except when it was created."""
        key = agent_session_id(session_id, session_agent.agent_id)
        missing = f"Agent {session_agent.agent_id} in session {session_id} does not exist"
        with _missing(missing):
            if self._store.sync().state.set(key, _AGENT, _plain(session_agent.to_dict()), only_if="present") is None:
                raise SessionException(missing)

    def create_message(self, session_id: str, agent_id: str, session_message: SessionMessage, **kwargs: Any) -> None:
        """Append a message. Its id has to be the next one, so of two writers at once one is refused.

        Raises:
            SessionException: There is no such agent, or the message is not its next one. Nothing was written.
        """
        key, index = agent_session_id(session_id, agent_id), _index(session_message.message_id)
        with _missing(f"Agent {agent_id} in session {session_id} does not exist"):
            try:
                self._store.sync().history.append(key, [_entry(session_message, agent_id)], after_seq=index)
            except ConflictError as error:
                raise SessionException(
                    f"Message {index} is not the next one of agent {agent_id} in session {session_id}: another writer "
                    "came first, or messages are missing; restore the agent from its session"
                ) from error

    def read_message(self, session_id: str, agent_id: str, message_id: int, **kwargs: Any) -> SessionMessage | None:
        key, index = agent_session_id(session_id, agent_id), _index(message_id)
        try:
            return _message(self._store.sync().history.get(key, index + 1))
        except (SessionNotFoundError, EntryNotFoundError):
            return None

    def update_message(self, session_id: str, agent_id: str, session_message: SessionMessage, **kwargs: Any) -> None:
        """Put a message in the place of the one with its id, except for when that was created.

        A redacted message takes the place of the original, which is kept beside it, as strands does.
        """
        key, index = agent_session_id(session_id, agent_id), _index(session_message.message_id)
        store = self._store.sync()
        with _missing(f"Message {index} does not exist"):
            created_at = _message(store.history.get(key, index + 1)).created_at
            store.history.replace(key, index + 1, _entry(replace(session_message, created_at=created_at), agent_id))

    def list_messages(
        self, session_id: str, agent_id: str, limit: int | None = None, offset: int = 0, **kwargs: Any
    ) -> list[SessionMessage]:
        key = agent_session_id(session_id, agent_id)
        with _missing(f"Agent {agent_id} in session {session_id} does not exist"):
            return [_message(entry) for entry in self._store.sync().history.read(key, after=offset, limit=limit)]

    def create_multi_agent(self, session_id: str, multi_agent: "MultiAgentBase", **kwargs: Any) -> None:
        state = _plain(multi_agent.serialize_state())
        with _missing(f"Session {session_id} does not exist"):
            self._store.sync().state.set(_checked("session_id", session_id), _multi_agent(multi_agent.id), state)

    def read_multi_agent(self, session_id: str, multi_agent_id: str, **kwargs: Any) -> dict[str, Any] | None:
        key = _multi_agent(multi_agent_id)
        try:
            state: dict[str, Any] | None = self._store.sync().state.get(
                _checked("session_id", session_id), key, default=None
            )
        except SessionNotFoundError:
            return None
        return state

    def update_multi_agent(self, session_id: str, multi_agent: "MultiAgentBase", **kwargs: Any) -> None:
        if self.read_multi_agent(session_id, multi_agent.id) is None:
            raise SessionException(f"MultiAgent state {multi_agent.id} in session {session_id} does not exist")
        self.create_multi_agent(session_id, multi_agent)

    def close(self) -> None:
        """Close the connections that the repository has opened. A store that it was given stays open."""
        self._store.close()


def _entry(given: SessionMessage, agent_id: str) -> NewEntry:
    """The entry of a message: what the model is to see as its content, and what else strands keeps as its metadata."""
    kept = _plain(given.to_dict())
    del kept["message_id"]
    message = kept.pop("message")
    redacted = kept.pop("redact_message")
    if redacted is not None:
        kept["message"], message = message, redacted
    blocks = [block for block in message["content"] if isinstance(block, dict)]
    calls = [block["toolUse"] for block in blocks if "toolUse" in block]
    results = [block["toolResult"] for block in blocks if "toolResult" in block]
    reported = given.message.get("metadata", {})
    metrics = reported.get("metrics", {})
    return NewEntry(
        message,
        role="tool" if results else message["role"],
        agent_name=agent_id,
        usage=_usage(reported.get("usage")),
        tool_name=label(calls[0].get("name")) if calls else None,
        tool_call_id=label((calls + results)[0].get("toolUseId")) if calls or results else None,
        duration=timedelta(milliseconds=metrics["latencyMs"]) if metrics.get("latencyMs") else None,
        metadata={_STRANDS: kept},
    )


def _usage(reported: Any) -> Usage:
    """What a model call used. Tokens of a prompt cache are part of the input for some models; the total tells."""
    if not reported:
        return Usage()
    used = Usage.of(reported, strict=False)
    plain, output = reported.get("inputTokens", 0), reported.get("outputTokens", 0)
    is_whole = used.input_tokens is not None and plain + output == reported.get("totalTokens")
    return replace(used, input_tokens=plain) if is_whole else used


def _message(entry: Entry) -> SessionMessage:
    """The message of an entry, also of one that was appended by other means than strands'."""
    created_at = entry.created_at.isoformat()
    kept: dict[str, Any] = {"created_at": created_at, "updated_at": created_at, **entry.metadata.get(_STRANDS, {})}
    if "message" in kept:
        kept["redact_message"] = entry.content
    else:
        kept["message"] = entry.content
    return SessionMessage.from_dict({**kept, "message_id": entry.seq - 1})


@contextmanager
def _missing(problem: str) -> Iterator[None]:
    try:
        yield
    except (SessionNotFoundError, EntryNotFoundError) as error:
        raise SessionException(problem) from error


def _plain(value: Any) -> Any:
    """What a file of JSON would have: a tuple becomes a list."""
    return json.loads(json.dumps(value))


def _multi_agent(multi_agent_id: str) -> str:
    return f"strands:multi_agent:{_checked('multi_agent_id', multi_agent_id)}"


def _index(message_id: Any) -> int:
    if not isinstance(message_id, int) or message_id < 0:
        raise InvalidValueError("message_id", f"must be an integer from 0 on, not {message_id!r}")
    return message_id


def _checked(argument: str, name: Any) -> str:
    if not isinstance(name, str) or not name or "/" in name or "\\" in name:
        raise InvalidValueError(argument, f"must be a string without path separators, and not be empty, not {name!r}")
    return name
