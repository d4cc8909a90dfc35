"""The attributes of a session on their way into its columns."""

from collections.abc import Mapping
from typing import Any

from statestore.checking import checks
from statestore.engine.sql import Link
from statestore.values.sessions import STATUSES, Status


def new(link: Link, session_id: str, attributes: Mapping[str, Any], status: Status) -> dict[str, Any]:
    """All columns of a new session, checked."""
    checks.key(session_id, "session_id")
    checks.one_of(status, STATUSES, "status")
    if attributes["metadata"] is None:
        attributes = {**attributes, "metadata": {}}
    return {name: attribute(link, name, value) for name, value in attributes.items()} | {"status": status}


def attribute(link: Link, name: str, value: Any) -> Any:
    """An attribute, checked, as its column takes it."""
    max_bytes = link.settings.max_value_bytes
    if name in ("user_id", "agent_name"):
        return checks.optional_key(value, name)
    if name == "metadata":
        return checks.metadata(value, name, max_bytes=max_bytes)
    if name == "ttl":
        return checks.ttl(value)
    return checks.optional_text(value, name, max_bytes=max_bytes)
