"""What items of the SDK are: their type, the tool that they call, and the text of a message."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from statestore import Entry, InvalidValueError, NewEntry

_NAMED_BY_TYPE: Final = frozenset(
    {
        "computer_call",
        "file_search_call",
        "web_search_call",
        "code_interpreter_call",
        "shell_call",
        "apply_patch_call",
    }
)
_SEARCHES: Final = frozenset({"tool_search_call", "tool_search_output"})
_OF_SERVERS: Final = frozenset({"mcp_call", "mcp_approval_request"})
_CALLS: Final = _NAMED_BY_TYPE | _OF_SERVERS | {"tool_call", "function_call", "custom_tool_call", "tool_search_call"}


def entries_of(items: Sequence[Any]) -> list[NewEntry]:
    """Items as entries.

    Raises:
        InvalidValueError: One of them is not a dictionary.
    """
    if isinstance(items, str | Mapping):
        raise InvalidValueError("items", "must be a list of items; wrap a single one in a list")
    for number, item in enumerate(items, 1):
        if not isinstance(item, Mapping):
            problem = f"item {number} of {len(items)} is of type {type(item).__name__}; an item is a dictionary"
            raise InvalidValueError("items", problem)
    return [NewEntry(item) for item in items]


def type_of(item: Any) -> str:
    """`user` or `assistant` for their messages, otherwise the item's own type."""
    if not isinstance(item, Mapping):
        return "other"
    role = item.get("role")
    return role if role in ("user", "assistant") else str(item.get("type") or "other")


def tool_of(item: Any) -> str | None:
    """The tool that an item calls or answers for, with the server or the namespace that it is from."""
    if not isinstance(item, Mapping):
        return None
    kind, name = item.get("type"), item.get("name")
    if kind in _SEARCHES:
        return "tool_search"
    if kind in _NAMED_BY_TYPE:
        return str(kind)
    if kind in _OF_SERVERS and "server_label" in item:
        parts = [item["server_label"], name]
    else:
        # The SDK gives a tool of the top level that is loaded late a namespace of its own name.
        parts = [name] if item.get("namespace") == name else [item.get("namespace"), name]
    return ".".join(str(part) for part in parts if part) or None


def calls_of(entries: Iterable[Entry]) -> list[tuple[str, int, int]]:
    """The tools that were called: each with how often, and in which turn, by turn."""
    typed = [(type_of(entry.content), tool_of(entry.content), entry.turn) for entry in entries]
    times = Counter((tool, turn) for kind, tool, turn in typed if kind in _CALLS and tool is not None)
    # What a search for tools found may be there without the call that asked for it.
    found = Counter((tool, turn) for kind, tool, turn in typed if kind == "tool_search_output" and tool is not None)
    for call in found.keys() - times.keys():
        times[call] = found[call]
    return sorted(((tool, number, turn) for (tool, turn), number in times.items()), key=lambda call: call[2])


def turn_of(entry: Entry, *, longest: int | None = None) -> dict[str, Any]:
    """A message of the user as the SDK lists it, with up to *longest* characters of its content."""
    content = _content_of(entry)
    text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
    return {
        "turn": entry.turn,
        "content": text if longest is None or len(text) <= longest else f"{text[:longest]}...",
        "full_content": content,
        "timestamp": time_text(entry.created_at),
        "can_branch": True,
    }


def texts_of(entry: Entry) -> Iterator[str]:
    """The texts of a message."""
    content = _content_of(entry)
    for part in [content] if isinstance(content, str) else content if isinstance(content, list) else []:
        text = part.get("text") if isinstance(part, Mapping) else part
        if isinstance(text, str):
            yield text


def time_text(at: datetime) -> str:
    """A time as the SDK's sessions have it, in UTC."""
    return f"{at:%Y-%m-%d %H:%M:%S}"


def _content_of(entry: Entry) -> Any:
    return entry.content.get("content", "") if isinstance(entry.content, Mapping) else entry.content
