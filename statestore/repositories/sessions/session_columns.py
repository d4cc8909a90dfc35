"""The attributes of a session on their way into its columns."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from statestore.checking import checks
from statestore.engine.sql import Link
from statestore.errors import InvalidValueError
from statestore.values.markers import NEVER
from statestore.values.sessions import STATUSES, NewSession, Status


def new(link: Link, session_id: str, attributes: Mapping[str, Any], status: Status) -> dict[str, Any]:
    """All columns of a new session, checked."""
    checks.key(session_id, "session_id")
    checks.one_of(status, STATUSES, "status")
    if attributes["metadata"] is None:
        attributes = {**attributes, "metadata": {}}
    return {name: attribute(link, name, value) for name, value in attributes.items()} | {"status": status}


def of_new(link: Link, create: bool | NewSession) -> dict[str, Any] | None:
    """The columns of the session that a write creates if there is none, checked; None if it is not to create one."""
    if isinstance(create, bool):
        return {} if create else None
    if not isinstance(create, NewSession):
        raise InvalidValueError("create", f"must be True, False or a NewSession, not {type(create).__name__}")
    given = {field.name: getattr(create, field.name) for field in fields(create)}
    return {name: attribute(link, name, value) for name, value in given.items() if value not in (None, NEVER)}


def attribute(link: Link, name: str, value: Any) -> Any:
    """An attribute, checked, as its column takes it."""
    max_bytes = link.settings.max_value_bytes
    if name in ("user_id", "agent_name", "belongs_to"):
        return checks.optional_key(value, name)
    if name == "metadata":
        return checks.metadata(value, name, max_bytes=max_bytes)
    if name == "ttl":
        return checks.ttl(value)
    if name == "created_at":
        return checks.optional_time(value, name)
    return checks.optional_text(value, name, max_bytes=max_bytes)
