"""Conversations from JSON Lines: one object per line, its `messages` in the shape of OpenAI's chat completions.

The other keys of a line become the session's metadata. A line is read exactly or refused: a duplicate key, a number
that would change or text that is not Unicode is an error, not a guess.
"""

import hashlib
import json
import string
from dataclasses import dataclass
from typing import Any

from statestore.importers.json_lines import LineError, parse_line


@dataclass(frozen=True, slots=True)
class Conversation:
    """A line: the session's id, its history, and its metadata."""

    line: int
    size: int
    session_id: str
    messages: list[dict[str, Any]]
    metadata: dict[str, Any]


class SessionId:
    """The id of a line's session: a template such as `{task_id}-{trial}` over the line's fields.

    The default is a digest of the line's content. Unlike a line number it does not change when the file is renamed,
    sorted, joined with another or read from a pipe. Equal lines become one session.
    """

    def __init__(self, template: str | None = None, *, option: str = "session_id") -> None:
        """Raises ValueError for a template that cannot be used. *option* is what messages call it."""
        self._option = option
        self._parts: list[tuple[str, str | None]] = []
        for text, field, spec, conversion in string.Formatter().parse(template or ""):
            if field == "" or spec or conversion:
                raise ValueError("a field is a name in braces, such as {id}")
            self._parts.append((text, field))
        if template is not None and all(field is None for _, field in self._parts):
            raise ValueError("the template has no field, such as {id}, so all lines would be one session")

    def of(self, record: dict[str, Any]) -> str:
        if not self._parts:
            # A digest of the parsed line: spacing does not matter, but key order does.
            return hashlib.sha256(json.dumps(record).encode()).hexdigest()[:32]
        return "".join(text + ("" if field is None else self._value(record, field)) for text, field in self._parts)

    def _value(self, record: dict[str, Any], field: str) -> str:
        if field not in record:
            raise LineError(f"{self._option} names field {field!r}, which the line does not have")
        value = record[field]
        if isinstance(value, str):
            return value
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise LineError(f"{self._option} names field {field!r}, which is neither text nor a number")
        return str(value)


def parse(number: int, line: bytes, session_id: SessionId) -> Conversation:
    """The conversation on a line.

    Raises:
        LineError: It is not a conversation.
    """
    record = parse_line(line)
    if not isinstance(record, dict):
        raise LineError("is not a JSON object")
    messages = record.get("messages")
    if not isinstance(messages, list):
        raise LineError("has no list under 'messages'")
    for index, message in enumerate(messages):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise LineError(f"messages[{index}] is not an object with a 'role'")
    try:
        found = session_id.of(record)
    except RecursionError:
        raise LineError("is nested too deeply") from None
    metadata = {key: value for key, value in record.items() if key != "messages"}
    return Conversation(number, len(line), found, messages, metadata)
