"""Which session of a store a transcript of the SDK is."""

from collections.abc import Mapping
from typing import Any

from claude_agent_sdk import SessionKey, SessionListSubkeysKey

from statestore import InvalidValueError, Session


def statestore_id(key: SessionKey | SessionListSubkeysKey) -> str:
    """The id of the session with a transcript: `project/session`, and for a sub-agent `project/session/subpath`.

    Slashes in the first two, and percent signs, are written as in URLs, so no two keys have the same id.
    """
    said: Any = key
    if not isinstance(said, Mapping):
        raise InvalidValueError("key", f"must have project_key and session_id, is of type {type(said).__name__}")
    parts = [quoted(said.get("project_key"), "project_key"), quoted(said.get("session_id"), "session_id")]
    return "/".join([*parts, subpath] if (subpath := subpath_of(key)) else parts)


def whole(key: SessionKey) -> str:
    """The id of the session that a transcript is of, or belongs to."""
    return statestore_id({"project_key": key["project_key"], "session_id": key["session_id"]})


def subpath_of(key: SessionKey | SessionListSubkeysKey) -> str | None:
    subpath = key.get("subpath")
    if subpath is not None and not isinstance(subpath, str):
        raise InvalidValueError("subpath", f"must be a string, not {type(subpath).__name__}")
    return subpath or None


def quoted(name: object, argument: str) -> str:
    if not isinstance(name, str) or not name:
        raise InvalidValueError(argument, "must be a string that is not empty")
    return name.replace("%", "%25").replace("/", "%2F")


def sdk_id(session: Session) -> str:
    """The SDK's id of a session."""
    return session.session_id.partition("/")[2].replace("%2F", "/").replace("%25", "%")
