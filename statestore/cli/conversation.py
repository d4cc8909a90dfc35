"""A history entry as lines of text: messages in the well-known shapes as a conversation, anything else as JSON."""

from collections.abc import Iterator, Mapping
from typing import Any

import click

from statestore.cli.output import json_text, time_text, visible, visible_text
from statestore.values.history import Entry

_INDENT = "    "


def render(entry: Entry) -> Iterator[str]:
    """A heading, then indented what was said and which tools were called."""
    yield click.style(f"#{entry.seq} {visible(' · '.join(_heading(entry)))}", bold=True)
    body = list(_message(entry.content)) or [json_text(entry.content)]
    for text in body:
        for line in visible_text(text).split("\n"):
            yield (_INDENT + line).rstrip()


def _heading(entry: Entry) -> Iterator[str]:
    yield entry.role or "no role"
    if entry.role == "tool" and entry.tool_name:
        yield entry.tool_name
    if entry.role == "tool" and entry.tool_call_id:
        yield f"answers {entry.tool_call_id}"
    for value in (entry.agent_name, entry.response_model or entry.request_model):
        if value:
            yield value
    tokens = ", ".join(_tokens(entry))
    if tokens:
        yield f"{tokens} tokens"
    if entry.cost_usd is not None:
        yield f"${entry.cost_usd.normalize():f}"
    if entry.duration is not None:
        yield f"{entry.duration.total_seconds():g} s"
    if entry.error_type:
        yield f"error {entry.error_type}"
    yield time_text(entry.created_at)


def _tokens(entry: Entry) -> Iterator[str]:
    usage = entry.usage
    if usage.input_tokens is not None:
        cached = f" ({usage.cache_read_input_tokens:,} cached)" if usage.cache_read_input_tokens else ""
        yield f"{usage.input_tokens:,}{cached} in"
    if usage.output_tokens is not None:
        reasoning = f" ({usage.reasoning_output_tokens:,} reasoning)" if usage.reasoning_output_tokens else ""
        yield f"{usage.output_tokens:,}{reasoning} out"


def _message(content: Any) -> Iterator[str]:
    if isinstance(content, str):
        yield content
    elif isinstance(content, Mapping) and "content" in content:
        yield from _said(content["content"])
        calls = content.get("tool_calls")
        for call in calls if isinstance(calls, list) else []:
            yield _call(call)
    elif content is not None:
        yield json_text(content)


def _said(content: Any) -> Iterator[str]:
    """The text of a message, or its blocks: text, tool calls and results, and anything else as JSON."""
    if isinstance(content, list):
        for block in content:
            yield _block(block)
    elif isinstance(content, str):
        if content:
            yield content
    elif content is not None:
        yield json_text(content)


def _block(block: Any) -> str:
    if isinstance(block, Mapping):
        if isinstance(block.get("text"), str):
            return str(block["text"])
        if block.get("type") == "tool_use":
            return _call(block)
        if block.get("type") == "tool_result":
            return f"← {_plain(block.get('tool_use_id'))} " + "\n".join(_said(block.get("content")))
    return json_text(block)


def _call(call: Any) -> str:
    """`→ name(arguments)  id`, for OpenAI's calls and Anthropic's."""
    if not isinstance(call, Mapping):
        return json_text(call)
    function = call.get("function")
    named = function if isinstance(function, Mapping) else call
    if not isinstance(named.get("name"), str):
        return json_text(call)
    arguments = named.get("arguments", named.get("input"))
    return f"→ {named['name']}({_plain(arguments)})  {_plain(call.get('id'))}".rstrip()


def _plain(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json_text(value)
