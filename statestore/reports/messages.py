"""A history entry as the pieces of a page: what was said, which tools were called, and what they returned."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import orjson

from statestore.checking import exactjson
from statestore.values.history import Entry

Kind = Literal["text", "thinking", "call", "result", "media", "data", "cut"]

_RESULT_ROLES = ("tool", "function")
# Blocks and messages that say what is in their content.
_SAYING = ("message", "human", "ai", "system", "tool", "user-prompt", "system-prompt", "text")
_STRING = re.compile(r'"(?:text|content|input)"\s*:\s*"((?:[^"\\]|\\.)*)')


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of an entry. `call_id` is what a call and its result share; `name` is the tool's, or what the data is."""

    kind: Kind
    text: str
    name: str | None = None
    call_id: str | None = None
    failed: bool = False


def pieces(entry: Entry, beginning: str | None = None) -> list[Piece]:
    """What is in an entry, in order. *beginning* stands for a content that is too large to be looked into."""
    if beginning is not None:
        cut = Piece("cut", beginning, call_id=entry.tool_call_id)
        return [replace(cut, kind="result", name=entry.tool_name) if entry.role in _RESULT_ROLES else cut]
    try:
        found = list(_content(entry.content))
    except RecursionError:
        found = [Piece("data", "(nested too deeply to be shown)")]
    if entry.role in _RESULT_ROLES:
        failed = entry.error_type is not None
        found = [
            replace(
                one,
                kind="result",
                name=one.name or entry.tool_name,
                call_id=one.call_id or entry.tool_call_id,
                failed=one.failed or failed,
            )
            if one.kind in ("text", "data", "result")
            else one
            for one in found
        ]
    return found


def prompt(content: str | None, whole: bool) -> str:
    """The text of a prompt, from its JSON or from the beginning of it."""
    if content is None:
        return ""
    if whole:
        try:
            value = exactjson.loads(content)
        except ValueError:
            return ""
        return " ".join(piece.text for piece in _content(value) if piece.kind == "text")
    match = _STRING.search(content)
    text = match[1] if match else content.removeprefix('"')
    return re.sub(r"\\[nrt]", " ", text).replace('\\"', '"')


def _content(value: Any) -> Iterator[Piece]:
    if isinstance(value, str):
        if value:
            yield Piece("text", value)
    elif isinstance(value, list):
        for one in value:
            yield from _block(one)
    elif isinstance(value, Mapping):
        yield from _message(value)
    elif value is not None:
        yield Piece("data", as_json(value))


def _message(message: Mapping[str, Any]) -> Iterator[Piece]:
    """A message as a whole, of whichever provider."""
    if isinstance(message.get("type"), str) and "role" not in message and "data" not in message:
        yield from _block(message)
        if "tool_calls" in message:
            yield from _calls(message["tool_calls"])
        return
    known = False
    for name in ("reasoning_content", "reasoning"):
        if isinstance(message.get(name), str) and message[name]:
            yield Piece("thinking", message[name])
    for name in ("content", "parts", "output", "data"):
        if name in message:
            known = True
            yield from _content(message[name])
    if message.get("refusal"):
        yield Piece("text", _text(message["refusal"]))
    if "tool_calls" in message:
        known = True
        yield from _calls(message["tool_calls"])
    if isinstance(message.get("function_call"), Mapping):
        known = True
        yield _call(message["function_call"])
    if not known:
        yield Piece("data", as_json(message))


def _calls(calls: Any) -> Iterator[Piece]:
    for call in calls if isinstance(calls, list) else ():
        yield _call(call) if isinstance(call, Mapping) else Piece("data", as_json(call))


def _block(block: Any) -> Iterator[Piece]:
    """A block of a message: Anthropic's, OpenAI's, Gemini's, pydantic-ai's."""
    if not isinstance(block, Mapping):
        yield from _content(block) if isinstance(block, str) else (Piece("data", as_json(block)),)
        return
    kind = block.get("type") or block.get("part_kind") or ""
    kind = kind if isinstance(kind, str) else ""
    if kind in ("thinking", "reasoning", "redacted_thinking"):
        text = block.get("thinking") or block.get("text") or block.get("summary") or block.get("content") or ""
        said = _joined(text)
        if said:
            yield Piece("thinking", said)
    elif kind in ("tool_use", "server_tool_use", "function_call", "tool_call", "tool-call", "custom_tool_call"):
        yield _call(block)
    elif kind in ("tool_result", "tool-return") or kind.endswith(("_call_output", "_tool_result")):
        call_id = block.get("tool_use_id") or block.get("call_id") or block.get("tool_call_id")
        said = _joined(block.get("content", block.get("output")))
        yield Piece("result", said, _name(block.get("tool_name")), _name(call_id), bool(block.get("is_error")))
    elif isinstance(block.get("text"), str):
        yield Piece("text", block["text"])
    elif isinstance(function := block.get("functionCall") or block.get("function_call"), Mapping):
        yield _call(function)
    elif isinstance(answer := block.get("functionResponse") or block.get("function_response"), Mapping):
        yield Piece("result", _joined(answer.get("response")), _name(answer.get("name")), _name(answer.get("id")))
    elif kind in ("image", "image_url", "input_image", "input_audio", "audio", "document", "file", "input_file") or (
        "inlineData" in block or "inline_data" in block
    ):
        yield Piece("media", kind.removeprefix("input_").removesuffix("_url") or "attachment")
    elif "content" in block and kind in (
        "message",
        "human",
        "ai",
        "system",
        "tool",
        "user-prompt",
        "system-prompt",
        "text",
    ):
        yield from _content(block["content"])
    else:
        yield Piece("data", as_json(block))


def _call(call: Mapping[str, Any]) -> Piece:
    function = call.get("function")
    named = function if isinstance(function, Mapping) else call
    name = named.get("name") or named.get("tool_name")
    if not isinstance(name, str):
        return Piece("data", as_json(call))
    arguments = next((named[key] for key in ("arguments", "input", "args") if key in named), None)
    if isinstance(arguments, str):
        try:
            arguments = exactjson.loads(arguments)
        except ValueError:
            return Piece("call", arguments, name, _name(call.get("id") or call.get("call_id")))
    call_id = call.get("call_id") or call.get("id") or call.get("tool_call_id")
    return Piece("call", "" if arguments in (None, {}) else as_json(arguments), name, _name(call_id))


def _joined(value: Any) -> str:
    """The text of a result: its blocks one below the other."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return "\n".join(_texts(value))
    return "" if value is None else as_json(value)


def _texts(blocks: Iterable[Any]) -> Iterator[str]:
    for block in blocks:
        if isinstance(block, Mapping) and isinstance(block.get("text"), str):
            yield block["text"]
        elif isinstance(block, Mapping) and block.get("type") == "image":
            yield "[image]"
        else:
            yield _text(block)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else as_json(value)


def _name(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def as_json(value: Any) -> str:
    """Indented. What orjson does not take, a large number for example, goes the slow way."""
    try:
        return orjson.dumps(value, option=orjson.OPT_INDENT_2).decode()
    except TypeError:
        return json.dumps(value, indent=2, ensure_ascii=False, default=str)
