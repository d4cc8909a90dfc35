"""Whether an entry that is given is the one that is stored."""

from datetime import timedelta

from statestore.checking import exactjson
from statestore.repositories.history.entry_rows import PreparedEntry
from statestore.schema import TOKEN_COLUMNS
from statestore.values.history import Entry

_NAMES = (
    "role",
    "agent_name",
    "provider_name",
    "request_model",
    "response_model",
    "tool_name",
    "tool_call_id",
    "finish_reason",
    "error_type",
)


def has_same_content(stored: Entry, given: PreparedEntry) -> bool:
    same: bool = exactjson.text(stored.content) == given.columns["content"]
    return same


def beside_content(stored: Entry, given: PreparedEntry) -> str | None:
    """The first field beside the content in which both differ; None if there is none.

    What the store fills in by itself is not a difference: a cost, a time or a turn that was not given, or what is read
    from the content, which may be more than an older version read from it. A plain message is its content alone.
    """
    if given.given is None:
        return None
    columns = given.given
    for name in _NAMES:
        if name == "tool_name" and name not in columns and stored.role == "tool" and stored.tool_call_id is not None:
            continue  # Taken from the call that it answers, if that was found.
        if (name in columns or given.columns.get(name) is None) and columns.get(name) != getattr(stored, name):
            return name
    for name in TOKEN_COLUMNS:
        if (name in columns or given.columns.get(name) is None) and columns.get(name) != getattr(stored.usage, name):
            return f"usage.{name}"
    if exactjson.canonical(given.metadata) != exactjson.canonical(stored.metadata):
        return "metadata"
    # SQLite keeps costs as floats.
    cost = columns.get("cost_usd")
    if cost is not None and (stored.cost_usd is None or float(cost) != float(stored.cost_usd)):
        return "cost_usd"
    milliseconds = columns.get("duration_ms")
    if (None if milliseconds is None else timedelta(milliseconds=milliseconds)) != stored.duration:
        return "duration"
    if "created_at" in columns and columns["created_at"] != stored.created_at:
        return "created_at"
    return None
