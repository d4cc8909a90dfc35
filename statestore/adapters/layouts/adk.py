"""How sessions of ADK are kept in a store: for the adapter, and for the import, which needs no framework.

An event is an entry with the JSON that ADK's own database has for it. Different names never become the same id: in the
names of apps and users the separator is escaped.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

from statestore import InvalidValueError, NewEntry, Usage
from statestore.adapters.layouts.labels import label

_APP, _USER, _TEMP = "app:", "user:", "temp:"


class Delta(NamedTuple):
    """Changes of state by scope, under the keys that they have in the store."""

    session: dict[str, Any]
    user: dict[str, Any]
    app: dict[str, Any]


def statestore_id(app_name: str, user_id: str, session_id: str) -> str:
    """The id in the store of a session of ADK, for the store's own operations: `travel:ada:s-1`.

    Raises:
        InvalidValueError: One of them is empty, or not a string.
    """
    return id_prefix(app_name, user_id) + _checked("session_id", session_id)


def id_prefix(app_name: str, user_id: str | None = None) -> str:
    """What the ids of an app's sessions begin with, or of one of its users'."""
    app = f"{_escaped(_checked('app_name', app_name))}:"
    return app if user_id is None else f"{app}{_escaped(_checked('user_id', user_id))}:"


def user_and_session(statestore_id: str) -> tuple[str, str] | None:
    """The user and the session that an id stands for; None if it is not the id of a session of ADK."""
    _, _, rest = statestore_id.partition(":")
    user_id, _, session_id = rest.partition(":")
    if not user_id or not session_id:
        return None
    return user_id.replace("%3A", ":").replace("%25", "%"), session_id


def split(delta: Mapping[str, Any], app_name: str) -> Delta:
    """Changes of state by scope, without those of `temp:`."""
    found = Delta({}, {}, {})
    for key, value in delta.items():
        if key.startswith(_APP):
            found.app[key.removeprefix(_APP)] = value
        elif key.startswith(_USER):
            found.user[user_key(app_name, key.removeprefix(_USER))] = value
        elif not is_temporary(key):
            found.session[key] = value
    return found


def is_temporary(key: str) -> bool:
    return key.startswith(_TEMP)


def merged(session: Mapping[str, Any], user: Mapping[str, Any], app: Mapping[str, Any]) -> dict[str, Any]:
    """The state that a session of ADK shows. *user* is what one app has of the user's."""
    return {
        **session,
        **{_APP + key: value for key, value in app.items()},
        **{_USER + key: value for key, value in user.items()},
    }


def user_key(app_name: str, key: str) -> str:
    """The key that a key of an app has in the state of a user: each app has a state of its own for a user."""
    return f"{_escaped(app_name)}:{key}"


def of_app(app_name: str, user_state: Mapping[str, Any]) -> dict[str, Any]:
    """What an app has of a user's state."""
    prefix = user_key(app_name, "")
    return {key.removeprefix(prefix): value for key, value in user_state.items() if key.startswith(prefix)}


def entry_of(event: Mapping[str, Any]) -> NewEntry:
    """The entry for an event, which is given as JSON with ADK's own names of the fields."""
    parts = (event.get("content") or {}).get("parts") or ()
    calls = [part["function_call"] for part in parts if part.get("function_call")]
    results = [part["function_response"] for part in parts if part.get("function_response")]
    tool = (calls + results or [{}])[0]
    author = event.get("author")
    return NewEntry(
        event,
        role="user" if author == "user" else "tool" if results else "assistant",
        agent_name=None if author == "user" else label(author),
        usage=_usage(event.get("usage_metadata") or {}),
        response_model=label(event.get("model_version")),
        tool_name=label(tool.get("name")),
        tool_call_id=label(tool.get("id")),
        finish_reason=label(event.get("finish_reason")),
        error_type=label(event.get("error_code")),
        entry_id=event["id"],
        created_at=time_of(event["timestamp"], "event"),
    )


def time_of(timestamp: float, argument: str) -> datetime:
    try:
        return datetime.fromtimestamp(timestamp, UTC)
    except (ValueError, OverflowError, OSError):
        raise InvalidValueError(argument, f"has the timestamp {timestamp!r}; give seconds since 1970") from None


def _usage(reported: Mapping[str, Any]) -> Usage:
    is_counted = any(reported.get(name) is not None for name in ("prompt_token_count", "candidates_token_count"))
    return Usage.of(reported, strict=False) if is_counted else Usage()


def _checked(argument: str, name: Any) -> str:
    if not isinstance(name, str) or not name:
        raise InvalidValueError(argument, f"must be a string of at least one character, not {name!r}")
    return name


def _escaped(name: str) -> str:
    return name.replace("%", "%25").replace(":", "%3A")
