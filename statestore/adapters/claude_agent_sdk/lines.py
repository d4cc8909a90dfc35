"""Lines of a transcript as entries, and what the last of them says about those that follow."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from typing import Any, TypeAlias

from claude_agent_sdk import SessionKey, SessionStoreEntry, SessionSummaryEntry, fold_session_summary

from statestore import InvalidValueError, NewEntry, Usage
from statestore.adapters.claude_agent_sdk.keys import subpath_of
from statestore.adapters.layouts.labels import label

# The names that `statestore import claude-code` gives, so that either of the two sees what the other has counted.
AGENT = "claude-code"
SUB_AGENT = "claude-code/sub-agent"
TAIL = "claude_agent_sdk"
# The "model" of messages that the command-line tool itself wrote.
_SYNTHETIC = "<synthetic>"

Line: TypeAlias = SessionStoreEntry

_NOTHING = Usage()


@dataclass(slots=True)
class Tail:
    """What the next lines of a transcript continue. The last entry of each append keeps it in its metadata."""

    seq: int = 0
    """The last position."""
    summary: dict[str, Any] | None = None
    """What the SDK has folded from the lines so far; None for a sub-agent."""
    response: str | None = None
    """The latest response that was counted: later lines of it may report that it used more."""
    counted: Usage = field(default_factory=Usage)

    def extended(self, key: SessionKey, lines: Sequence[Line], copied: set[str]) -> tuple[list[NewEntry], "Tail"]:
        """The entries of the *lines* that follow, and the tail after them. What *copied* lines used is not counted."""
        after = Tail(response=self.response, counted=self.counted)
        agent_name = SUB_AGENT if subpath_of(key) else AGENT
        # The last line of a response has its final figures; they are counted with its first line.
        last = {_response(line): line for line in lines if "usage" in _message(line)}
        entries = []
        for line in lines:
            response, usage = _response(line), _NOTHING
            if response in last and (reported := usage_of(last.pop(response), copied)) != _NOTHING:
                usage = _rest(reported, after.counted) if response == after.response else reported
                after.response, after.counted = response, reported
            entries.append(_entry(line, usage, agent_name))
        if not subpath_of(key):
            before: SessionSummaryEntry | None = None
            if self.summary is not None:
                before = {"session_id": key["session_id"], "mtime": 0, "data": self.summary}
            after.summary = fold_session_summary(before, key, list(lines))["data"]
        entries[-1] = replace(entries[-1], metadata={TAIL: after.kept()})
        return entries, after

    def kept(self) -> dict[str, Any]:
        counted = {name: figure for name, figure in asdict(self.counted).items() if figure is not None}
        return {"summary": self.summary, "response": self.response, "counted": counted}


def _entry(line: Line, usage: Usage, agent_name: str) -> NewEntry:
    message = _message(line)
    content = message.get("content")
    blocks = [block for block in content if isinstance(block, Mapping)] if isinstance(content, list) else []
    call = next((block for block in blocks if block.get("type") == "tool_use"), {})
    result = next((block for block in blocks if block.get("type") == "tool_result"), {})
    model = label(message.get("model"))
    return NewEntry(
        line,
        role="tool" if result else label(message.get("role")),
        agent_name=agent_name,
        usage=usage,
        provider_name="anthropic" if model else None,
        response_model=model,
        tool_name=label(call.get("name")),
        tool_call_id=label(call.get("id")) or label(result.get("tool_use_id")),
        finish_reason=label(message.get("stop_reason")),
        error_type="tool_error" if result.get("is_error") is True else None,
        entry_id=label(line.get("uuid")),
        created_at=time_of(line),
    )


def usage_of(line: Line, copied: set[str]) -> Usage:
    """What a line says that its response has used; nothing for a copy, which the original has counted."""
    message = _message(line)
    if message.get("model") == _SYNTHETIC or "forkedFrom" in line or label(line.get("uuid")) in copied:
        return _NOTHING
    return Usage.of(message.get("usage"), strict=False)


def _response(line: Line) -> str | None:
    """What all lines of a response have in common."""
    return label(_message(line).get("id")) or label(line.get("uuid"))


def _rest(whole: Usage, part: Usage) -> Usage:
    """What *whole* has in addition to *part*."""
    counted = asdict(part)
    more = {name: max((figure or 0) - (counted[name] or 0), 0) for name, figure in asdict(whole).items()}
    return Usage(**{name: figure or None for name, figure in more.items()})


def _message(line: Line) -> Mapping[str, Any]:
    message = line.get("message")
    return message if isinstance(message, Mapping) else {}


def time_of(line: Line) -> datetime | None:
    try:
        found = datetime.fromisoformat(line["timestamp"])
    except (KeyError, TypeError, ValueError):
        return None
    # In the first and the last year some time zone has a time that Python has not.
    return found if found.tzinfo is not None and 1 < found.year < 9999 else None


def check_lines(lines: Any) -> None:
    if not isinstance(lines, Sequence) or isinstance(lines, str):
        raise InvalidValueError("entries", f"must be a list of lines, not {type(lines).__name__}")
    for number, line in enumerate(lines, 1):
        if not isinstance(line, Mapping):
            raise InvalidValueError("entries", f"line {number} must be a dictionary, not {type(line).__name__}")


def once(lines: Sequence[Line]) -> list[Line]:
    """Each line that has a `uuid` once."""
    first: dict[object, Line] = {}
    for index, line in enumerate(lines):
        first.setdefault(label(line.get("uuid")) or index, line)
    return list(first.values())
