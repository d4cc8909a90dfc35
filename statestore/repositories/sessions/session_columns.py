"""How a store's sessions behave, and the attributes of a session on their way into its columns."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import timedelta
from typing import Any

from statestore.checking import checks
from statestore.engine.sql import Link
from statestore.errors import InvalidValueError
from statestore.values.markers import NEVER, NeverType
from statestore.values.sessions import STATUSES, NewSession, Status

ATTRIBUTES = ("user_id", "agent_name", "title", "instructions", "metadata", "project_root", "cwd", "ttl")
"""What a caller says of a session and may change. A fork takes it from its source, and a saved conversation has it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionOptions:
    """How a store's sessions behave; see `StateStore.open`."""

    default_ttl: timedelta | None = None
    max_sessions: int | None = None

    def __post_init__(self) -> None:
        checks.ttl(self.default_ttl, "default_ttl", hint="use None for no expiry")
        checks.optional_count(self.max_sessions, "max_sessions", least=1)


def new(link: Link, session_id: str, attributes: Mapping[str, Any], status: Status) -> dict[str, Any]:
    """All columns of a new session, checked."""
    checks.key(session_id, "session_id")
    checks.one_of(status, STATUSES, "status")
    return _of_new(link, attributes) | {"status": status}


def of_new(link: Link, create: bool | NewSession) -> dict[str, Any] | None:
    """The columns of the session that a write creates if there is none, checked; None if it is not to create one."""
    if isinstance(create, bool):
        return {"ttl": default_ttl(link)} if create else None
    if not isinstance(create, NewSession):
        raise InvalidValueError("create", f"must be True, False or a NewSession, not {type(create).__name__}")
    return _of_new(link, {field.name: getattr(create, field.name) for field in fields(create)})


def _of_new(link: Link, attributes: Mapping[str, Any]) -> dict[str, Any]:
    given = {**attributes, "metadata": {} if attributes["metadata"] is None else attributes["metadata"]}
    columns = {name: attribute(link, name, value) for name, value in given.items()}
    if columns.get("belongs_to") is None:
        if attributes["ttl"] is None:
            columns["ttl"] = default_ttl(link)
    elif columns["ttl"] is not None:
        raise part_has_no_ttl()
    return columns


def attribute(link: Link, name: str, value: Any) -> Any:
    """An attribute, checked, as its column takes it."""
    max_bytes = link.settings.max_value_bytes
    if name in ("user_id", "agent_name", "belongs_to"):
        return checks.optional_key(value, name)
    if name == "metadata":
        return checks.metadata(value, name, max_bytes=max_bytes)
    if name == "ttl":
        return None if value is NEVER else checks.ttl(value)
    if name == "created_at":
        return checks.optional_time(value, name)
    return checks.optional_text(value, name, max_bytes=max_bytes)


def default_ttl(link: Link) -> timedelta | None:
    """The TTL of sessions for which none is given."""
    return link.settings.of(SessionOptions).default_ttl


def ttl_as_given(link: Link, ttl: timedelta | None) -> timedelta | NeverType | None:
    """What a caller gives for a session to have this TTL."""
    return NEVER if ttl is None and default_ttl(link) is not None else ttl


def part_has_no_ttl() -> InvalidValueError:
    return InvalidValueError(
        "ttl", "must not be given for a session that belongs to another: it lives as long as that one; set its TTL"
    )
