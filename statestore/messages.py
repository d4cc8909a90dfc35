"""What a chat message says about itself.

A message mapping is stored whole, as the content of an entry. The columns that reports and windows need are read from
it here, where they stand in the shapes of OpenAI chat completions and of Anthropic messages. A field of another shape
is left alone: it stays in the content, and the column stays empty.
"""

from collections.abc import Mapping
from typing import Any

import orjson

from statestore.checks import MAX_TOKENS
from statestore.values import Usage

MAX_NAME = 512


def columns(message: Mapping[str, Any]) -> dict[str, Any]:
    """The columns of an entry that the message fills, but for its usage."""
    if len(message) == 2 and isinstance(message.get("content"), str) and "role" in message:
        found = {"role": _name(message["role"])}  # Most messages say no more than this.
    else:
        found = {
            "role": role(message),
            "response_model": model(message),
            "tool_name": tool_name(message),
            "tool_call_id": tool_call_id(message),
            "finish_reason": finish_reason(message),
        }
    return {name: value for name, value in found.items() if value is not None}


def role(message: Mapping[str, Any]) -> str | None:
    """Who speaks. Anthropic sends tool results as the user; these are of role `tool`, since they start no turn."""
    if _blocks(message, "tool_result") and len(_blocks(message, "tool_result")) == len(message["content"]):
        return "tool"
    return _name(message.get("role"))


def tool_call_ids(message: Mapping[str, Any]) -> list[str]:
    """The ids of the tool calls that the message makes."""
    return [found for call in _calls(message) if (found := _name(call.get("id")))]


def tool_result_ids(message: Mapping[str, Any]) -> list[str]:
    """The ids of the tool calls that the message answers."""
    ids = [message.get("tool_call_id")] + [block.get("tool_use_id") for block in _blocks(message, "tool_result")]
    return [found for candidate in ids if (found := _name(candidate))]


def tool_call_id(message: Mapping[str, Any]) -> str | None:
    """The first tool call that the message answers or makes."""
    ids = tool_result_ids(message) or tool_call_ids(message)
    return ids[0] if ids else None


def tool_name(message: Mapping[str, Any]) -> str | None:
    """The tool that the message calls first, or whose result it is."""
    for call in _calls(message):
        function = call.get("function")
        found = _name(function.get("name")) if isinstance(function, Mapping) else _name(call.get("name"))
        if found:
            return found
    return _name(message.get("name")) if message.get("role") in ("tool", "function") else None


def model(message: Mapping[str, Any]) -> str | None:
    return _name(message.get("model"))


def finish_reason(message: Mapping[str, Any]) -> str | None:
    return _name(message.get("finish_reason")) or _name(message.get("stop_reason"))


def usage(message: Mapping[str, Any]) -> Usage:
    """The tokens that the message reports.

    Cached ones are part of the input in OpenTelemetry's and OpenAI's terms. Anthropic reports them beside it, so they
    are added here.
    """
    said = message.get("usage")
    if not isinstance(said, Mapping):
        return Usage()
    read, written = _tokens(said, "cache_read_input_tokens"), _tokens(said, "cache_creation_input_tokens")
    if read is not None or written is not None:
        plain = _tokens(said, "input_tokens")
        return Usage(
            input_tokens=None if plain is None else plain + (read or 0) + (written or 0),
            output_tokens=_tokens(said, "output_tokens"),
            cache_read_input_tokens=read,
            cache_write_input_tokens=written,
        )
    details = _mapping(said, "prompt_tokens_details", "input_tokens_details")
    output_details = _mapping(said, "completion_tokens_details", "output_tokens_details")
    return Usage(
        input_tokens=_tokens(said, "prompt_tokens", "input_tokens"),
        output_tokens=_tokens(said, "completion_tokens", "output_tokens"),
        cache_read_input_tokens=_tokens(details, "cached_tokens"),
        reasoning_output_tokens=_tokens(output_details, "reasoning_tokens"),
    )


def text(content: Any) -> str:
    """What a model reads of an entry's content, for counting tokens: text as it is, anything else as JSON.

    Of a message that is its content and its tool calls; role and names are left out.
    """
    if isinstance(content, str):
        return content
    if not isinstance(content, Mapping) or "role" not in content:
        return orjson.dumps(content).decode()
    said = content.get("content")
    blocks = said if isinstance(said, list) else [] if said is None else [said]
    parts = [_block_text(block) for block in blocks]
    if content.get("tool_calls"):
        parts.append(orjson.dumps(content["tool_calls"]).decode())
    return "\n".join(parts)


def _block_text(block: Any) -> str:
    if isinstance(block, str):
        return block
    if isinstance(block, Mapping) and isinstance(block.get("text"), str):
        found: str = block["text"]
        return found
    return orjson.dumps(block).decode()


def cache_writes_for_an_hour(message: Mapping[str, Any]) -> int:
    """Of the tokens that the message reports as written to a cache, those that stay for an hour, and cost more."""
    said = message.get("usage")
    writes = _mapping(said, "cache_creation") if isinstance(said, Mapping) else {}
    return _tokens(writes, "ephemeral_1h_input_tokens") or 0


def _calls(message: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    calls = message.get("tool_calls")
    listed = [call for call in calls if isinstance(call, Mapping)] if isinstance(calls, list) else []
    return listed + _blocks(message, "tool_use")


def _blocks(message: Mapping[str, Any], kind: str) -> list[Mapping[str, Any]]:
    content = message.get("content")
    if not isinstance(content, list):
        return []
    return [block for block in content if isinstance(block, Mapping) and block.get("type") == kind]


def _name(value: Any) -> str | None:
    """A value that fits a name column; anything else stays in the content only."""
    if not isinstance(value, str) or not 0 < len(value) <= MAX_NAME or "\0" in value:
        return None
    return value


def _mapping(said: Mapping[str, Any], *names: str) -> Mapping[str, Any]:
    for name in names:
        if isinstance(said.get(name), Mapping):
            found: Mapping[str, Any] = said[name]
            return found
    return {}


def _tokens(said: Mapping[str, Any], *names: str) -> int | None:
    for name in names:
        value = said.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_TOKENS:
            return value
    return None
