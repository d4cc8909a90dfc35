"""What a chat message says about itself, and what SDKs return, as entries.

A message mapping is stored whole, as the content of an entry. This module reads from it the columns that reports and
windows need, in the shapes of OpenAI's chat completions and responses, Anthropic, Gemini and Ollama. A field of another
shape stays in the content only, and its column stays empty.

Objects of SDKs are recognised by their shape, so that none of the SDKs needs to be installed:

- A message, or an item of OpenAI's responses, is stored as it dumps itself. At its top level fields that are None are
  left out, since providers refuse some of them when the message is sent again.
- A whole response of OpenAI's chat completions is stored as the message in it.
- A whole response of OpenAI's Responses API is stored as the message in it if that is all it has, and otherwise as
  `{"role": "assistant", "output": [...]}`, whose items can be sent again.

Usage, model and finish reason of a whole response become those of the entry.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any, NamedTuple

from statestore.checking import exactjson, inexact
from statestore.errors import InvalidValueError
from statestore.values import reported_usage
from statestore.values.history import NewEntry, Usage

MAX_NAME = 512
RESULT_ROLES = ("tool", "function")
# OpenTelemetry's name for the error of a tool that does not say which it was.
TOOL_ERROR = "tool_error"
_CALLING = frozenset({"tool_calls", "function_call", "call_id", "parts", "output"})
_ANSWERING = frozenset({"tool_call_id", "call_id", "parts"})
# LangChain's types of messages.
_LANGCHAIN_ROLES = {
    "human": "user",
    "ai": "assistant",
    "AIMessageChunk": "assistant",
    "system": "system",
    "tool": "tool",
    "function": "function",
}
# What a model puts into an OpenAI response beside messages and calls.
_ITEMS_OF_THE_MODEL = frozenset({"reasoning", "compaction", "mcp_list_tools", "mcp_approval_request"})
_SAYING = {"content", "parts", "tool_calls", "function_call"}


class Tool(NamedTuple):
    """What a message says about a tool call that it makes or answers."""

    call_id: str | None
    name: str | None


def columns(message: Mapping[str, Any]) -> dict[str, Any]:
    """The columns of an entry that the message fills, except its usage."""
    if len(message) == 2 and isinstance(message.get("content"), str) and "role" in message:
        found = {"role": _name(message["role"])}  # Most messages say only this.
    else:
        calls, results = tools(message)
        ids = [tool.call_id for tool in (*results, *calls) if tool.call_id is not None]
        # Reports count each entry with a tool name as a call, so a result that has an id must not set one here.
        names = [tool.name for tool in (*calls, *results) if tool.name and (tool.call_id or tool not in results)]
        found = {
            "role": _role(message, calls, results),
            "response_model": model(message),
            "tool_name": names[0] if names else None,
            "tool_call_id": ids[0] if ids else None,
            "finish_reason": finish_reason(message),
            "error_type": TOOL_ERROR if results and _has_failed(message) else None,
        }
    return {name: value for name, value in found.items() if value is not None}


def _role(message: Mapping[str, Any], calls: Sequence[Tool], results: Sequence[Tool]) -> str | None:
    """The role of the speaker.

    Anthropic and Gemini send tool results as the user; these get the role `tool`, since they do not start a turn.
    LangChain's messages and the items of OpenAI's responses have a type instead of a role.
    """
    said = message.get("content") or message.get("parts")
    if results and isinstance(said, list) and all(map(_is_result, said)):
        return "tool"
    if "role" in message:
        return _name(message["role"])
    kind = message.get("type")
    if not isinstance(kind, str):
        return None
    if kind in _LANGCHAIN_ROLES and ("content" in message or "data" in message):
        return _LANGCHAIN_ROLES[kind]
    if kind.endswith("_call_output"):
        return "tool"
    return "assistant" if kind.endswith("_call") or kind in _ITEMS_OF_THE_MODEL else None


def missing_role(message: Any) -> str:
    """Why a message without a role that fits its column cannot be an entry by itself."""
    if isinstance(message, Mapping) and message.get("role") is not None:
        return f"has a role that is not text of 1 to {MAX_NAME} characters; say whose it is: NewEntry(content, role=…)"
    return "is a mapping without a role; add one, or say what it is: NewEntry(content, role=…)"


def tools(message: Mapping[str, Any]) -> tuple[list[Tool], list[Tool]]:
    """The tool calls that the message makes, and those that it answers."""
    # Most messages have nothing to do with tools, and most of the others have either calls or results.
    listed = isinstance(message.get("content"), list)
    calls = tool_calls(message) if listed or not _CALLING.isdisjoint(message) else []
    answers = listed or message.get("role") in RESULT_ROLES or not _ANSWERING.isdisjoint(message)
    return calls, tool_results(message) if answers else []


def tool_calls(message: Mapping[str, Any]) -> list[Tool]:
    """The tool calls that the message makes."""
    found = []
    listed = message.get("tool_calls")
    for call in listed if isinstance(listed, list) else ():
        if isinstance(call, Mapping):
            function = call.get("function")
            named = function if isinstance(function, Mapping) else call
            found.append(Tool(_name(call.get("id")), _name(named.get("name"))))
    found += [Tool(_name(block.get("id")), _name(block.get("name"))) for block in _blocks(message, "tool_use")]
    if isinstance(message.get("function_call"), Mapping):
        found.append(Tool(None, _name(message["function_call"].get("name"))))
    if _is_item(message, "_call"):
        found.append(Tool(_name(message["call_id"]), _name(message.get("name"))))
    output = message.get("output")
    if isinstance(output, list) and "call_id" not in message:  # Several items of an OpenAI response.
        found += [tool for item in output if isinstance(item, Mapping) for tool in tool_calls(item)]
    return found + _parts(message, "functionCall", "function_call")


def tool_results(message: Mapping[str, Any]) -> list[Tool]:
    """The tool calls that the message answers. Ollama, Gemini and OpenAI's functions answer without an id."""
    found = [Tool(_name(block.get("tool_use_id")), None) for block in _blocks(message, "tool_result")]
    found += _parts(message, "functionResponse", "function_response")
    if _is_item(message, "_call_output"):
        found.append(Tool(_name(message["call_id"]), None))
    call_id = _name(message.get("tool_call_id"))
    if call_id is not None or (not found and message.get("role") in RESULT_ROLES):
        found.append(Tool(call_id, _name(message.get("name")) or _name(message.get("tool_name"))))
    return found


def _has_failed(result: Mapping[str, Any]) -> bool:
    """Whether a tool ended with an error, as results of Anthropic, MCP and LangChain say it."""
    if any(block.get("is_error") is True for block in _blocks(result, "tool_result")):
        return True
    return result.get("isError") is True or result.get("is_error") is True or result.get("status") == "error"


def model(message: Mapping[str, Any]) -> str | None:
    said = _mapping(message, "response_metadata")
    return _name(message.get("model")) or _name(said.get("model_name")) or _name(said.get("model"))


def finish_reason(message: Mapping[str, Any]) -> str | None:
    reasons = (
        _name(said.get(name))
        for said in (message, _mapping(message, "response_metadata"))
        for name in ("finish_reason", "stop_reason")
    )
    return next(filter(None, reasons), None)


def usage(message: Mapping[str, Any]) -> Usage:
    """The tokens that the message reports, in OpenTelemetry's terms."""
    for name in ("usage", "usage_metadata"):
        found = reported_usage.find(message.get(name))
        if found is not None:
            return Usage(**found)
    return Usage()


def text(content: Any) -> str:
    """What a model reads of an entry's content, for counting tokens: text as it is, anything else as JSON.

    For a message this is its content and its tool calls, without role and names.
    """
    if isinstance(content, str):
        return content
    if not isinstance(content, Mapping) or "role" not in content or not _SAYING & content.keys():
        return exactjson.text(content)
    said = content.get("content") if "parts" not in content else content["parts"]
    blocks = said if isinstance(said, list) else [] if said is None else [said]
    parts = [_block_text(block) for block in blocks]
    parts += [exactjson.text(content[calls]) for calls in ("tool_calls", "function_call") if content.get(calls)]
    return "\n".join(parts)


def _block_text(block: Any) -> str:
    if isinstance(block, str):
        return block
    if isinstance(block, Mapping) and isinstance(block.get("text"), str):
        found: str = block["text"]
        return found
    return exactjson.text(block)


def cache_writes_for_an_hour(message: Mapping[str, Any]) -> int:
    """How many of the tokens that the message reports as written to a cache stay for an hour, which costs more."""
    said = message.get("usage")
    writes = _mapping(said, "cache_creation") if isinstance(said, Mapping) else {}
    return _tokens(writes, "ephemeral_1h_input_tokens") or 0


def _blocks(message: Mapping[str, Any], kind: str) -> list[Mapping[str, Any]]:
    content = message.get("content")
    if not isinstance(content, list):
        return []
    return [block for block in content if isinstance(block, Mapping) and block.get("type") == kind]


def _is_result(block: Any) -> bool:
    if not isinstance(block, Mapping):
        return False
    return block.get("type") == "tool_result" or "functionResponse" in block or "function_response" in block


def _parts(message: Mapping[str, Any], *kinds: str) -> list[Tool]:
    """Gemini's calls or results; its libraries spell the keys in two ways."""
    parts = message.get("parts")
    if not isinstance(parts, list):
        return []
    mappings = [part for part in parts if isinstance(part, Mapping)]
    said = [part[kind] for part in mappings for kind in kinds if isinstance(part.get(kind), Mapping)]
    return [Tool(_name(one.get("id")), _name(one.get("name"))) for one in said]


def _is_item(message: Mapping[str, Any], kind: str) -> bool:
    """Whether the message is an item of OpenAI's responses, such as `function_call` or `custom_tool_call_output`."""
    return "call_id" in message and isinstance(message.get("type"), str) and message["type"].endswith(kind)


def _name(value: Any) -> str | None:
    """The value if it fits a name column, else None: it then stays in the content only."""
    if not isinstance(value, str) or not 0 < len(value) <= MAX_NAME or "\0" in value:
        return None
    return value if value.isascii() or not exactjson.SURROGATES.search(value) else None


def _mapping(said: Mapping[str, Any], *names: str) -> Mapping[str, Any]:
    for name in names:
        if isinstance(said.get(name), Mapping):
            found: Mapping[str, Any] = said[name]
            return found
    return {}


def _tokens(said: Mapping[str, Any], *names: str) -> int | None:
    for name in names:
        value = said.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= reported_usage.MAX_TOKENS:
            return value
    return None


_DUMPS = ("model_dump", "to_dict", "dict")
_JSON = (dict, list, str, int, float, type(None))


def is_entry(given: Any) -> bool:
    """Whether something is a single entry; objects of SDKs may be iterable themselves."""
    return isinstance(given, NewEntry | Mapping) or _dump_of(given) is not None


def as_entry(given: Any, argument: str) -> NewEntry | dict[str, Any]:
    """What is stored for something that is appended: an entry, or a message that the columns are read from.

    Raises:
        InvalidValueError: It is not an entry, a mapping, nor an object that dumps a message.
    """
    if isinstance(given, NewEntry):
        return _with_content(given, argument)
    if type(given) is dict and "role" in given:
        return given
    return _entry(given, argument)


def _entry(given: Any, argument: str) -> NewEntry | dict[str, Any]:
    message = dict(given) if isinstance(given, Mapping) else _dumped(given)
    if message is None:
        raise InvalidValueError(
            argument,
            "must be a message (a mapping with a role), an object that dumps one by model_dump() or to_dict(), "
            f"or a NewEntry, not {type(given).__name__}",
        )
    choices, output = message.get("choices"), message.get("output")
    if isinstance(choices, list) and "role" not in message:
        return _completion(message, choices, argument)
    if isinstance(output, list) and message.get("object") == "response":
        return _response(message, output)
    return message


def _with_content(given: NewEntry, argument: str) -> NewEntry:
    """The entry, with what is stored for its content if that is an object. What the entry says itself goes first."""
    if isinstance(given.content, _JSON) or _dumped(given.content) is None:
        return given
    made = _entry(given.content, f"{argument}.content")
    if not isinstance(made, NewEntry):
        return replace(given, content=made)
    said = {field.name: getattr(given, field.name) for field in fields(given) if field.name != "content"}
    return replace(made, **{name: value for name, value in said.items() if value is not None})


def _dumped(given: Any) -> dict[str, Any] | None:
    dump = _dump_of(given)
    found = None if dump is None else inexact.called(dump)
    return _without_nones(found) if isinstance(found, Mapping) else None


def _dump_of(given: Any) -> Callable[[], Any] | None:
    if isinstance(given, type):
        return None
    return next(filter(callable, (getattr(given, name, None) for name in _DUMPS)), None)


def _without_nones(message: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in message.items() if value is not None or name == "content"}


def _completion(response: Mapping[str, Any], choices: list[Any], argument: str) -> NewEntry:
    if len(choices) != 1 or not isinstance(choices[0], Mapping) or not isinstance(choices[0].get("message"), Mapping):
        raise InvalidValueError(
            argument, "is a response without exactly one choice that has a message; append the message that you use"
        )
    message = _without_nones(choices[0]["message"])
    return NewEntry(
        message,
        role=columns(message).get("role", "assistant"),
        usage=_usage(response),
        response_model=model(response),
        finish_reason=finish_reason(choices[0]),
    )


def _response(response: Mapping[str, Any], output: list[Any]) -> NewEntry:
    items = [_without_nones(item) if isinstance(item, Mapping) else item for item in output]
    single = len(items) == 1 and isinstance(items[0], dict) and "role" in items[0]
    stopped = response.get("incomplete_details")
    reason = stopped.get("reason") if isinstance(stopped, Mapping) else response.get("status")
    return NewEntry(
        items[0] if single else {"role": "assistant", "output": items},
        usage=_usage(response),
        response_model=model(response),
        finish_reason=finish_reason({"finish_reason": reason}),
    )


def _usage(response: Mapping[str, Any]) -> Usage | None:
    found = reported_usage.find(response)
    return None if found is None else Usage(**found)
