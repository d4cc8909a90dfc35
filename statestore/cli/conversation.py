"""A history entry as lines of text: messages in the well-known shapes as a conversation, anything else as JSON."""

from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any

import click

from statestore.cli.output import counted, display_width, json_text, size_text, time_text, visible, visible_text
from statestore.cli.terminal import cut, wrapped
from statestore.values.history import Entry, Usage

_INDENT = "    "
_FOLDED_LINES = 3
_COLORS = {"user": "green", "assistant": "cyan", "tool": "yellow"}


def render(entry: Entry, *, width: int | None = None, fold: bool = False) -> Iterator[str]:
    """A heading, then indented what was said and which tools were called.

    Args:
        entry: The entry.
        width: Break lines that are longer.
        fold: Show a tool's call and its result in a line each, and of a system prompt the beginning.
    """
    if fold and entry.role == "tool":
        yield _folded_result(entry, width)
        return
    color = "red" if entry.error_type else _COLORS.get(entry.role or "")
    heading = f"#{entry.seq} {visible(' · '.join(_heading(entry)))}"
    for index, line in enumerate(_fitting(heading, None if width is None else width - len(_INDENT))):
        yield click.style(f"{_INDENT if index else ''}{line}", bold=True, fg=color)
    texts = list(_message(entry.content)) or [json_text(entry.content)]
    lines = [line for text in texts for line in _lines(text, width, fold)]
    if fold and entry.role == "system" and len(lines) > _FOLDED_LINES:
        more = counted(len(lines) - _FOLDED_LINES, "more line")
        lines = [*lines[:_FOLDED_LINES], click.style(f"{_INDENT}… {more}; --full shows all", dim=True)]
    yield from lines


def _lines(text: str, width: int | None, fold: bool) -> Iterator[str]:
    call = fold and text.startswith(("→ ", "← "))
    if call and width is not None:
        yield click.style(_INDENT + cut(visible(text), width - len(_INDENT)), dim=text.startswith("←"))
        return
    shown = visible_text(text)
    for line in (shown if width is None else shown.expandtabs(4)).split("\n"):
        yield from _fitting((_INDENT + line).rstrip(), width)


def _fitting(line: str, width: int | None) -> Iterator[str]:
    if width is None:
        yield line
    else:
        yield from wrapped(line, width)


def _folded_result(entry: Entry, width: int | None) -> str:
    """`#4 tool get_weather ← {"morning": …  1.2 kB, 0.3 s`, on one line."""
    said = " ".join(_message(entry.content)) or json_text(entry.content)
    facts = [size_text(entry.content_bytes)]
    if entry.duration is not None:
        facts.append(f"{entry.duration.total_seconds():g} s")
    if entry.error_type:
        facts.append(f"error {entry.error_type}")
    begin = f"#{entry.seq} {' '.join(filter(None, ('tool', entry.tool_name)))} "
    end = f"  {', '.join(facts)}"
    text = visible(f"← {said.removeprefix('← ')}")
    if width is not None:
        begin = cut(visible(begin), width // 2)
        text = cut(text, max(_FOLDED_LINES, width - display_width(begin) - display_width(end)))
    styled = click.style(visible(begin), bold=True, fg="red" if entry.error_type else _COLORS["tool"])
    return styled + text + click.style(visible(end), dim=True)


def _heading(entry: Entry) -> Iterator[str]:
    yield entry.role or "no role"
    if entry.role == "tool" and entry.tool_name:
        yield entry.tool_name
    if entry.role == "tool" and entry.tool_call_id:
        yield f"answers {entry.tool_call_id}"
    for value in (entry.agent_name, entry.response_model or entry.request_model):
        if value:
            yield value
    if tokens := tokens_text(entry.usage):
        yield tokens
    if entry.cost_usd is not None:
        yield cost_text(entry.cost_usd)
    if entry.duration is not None:
        yield f"{entry.duration.total_seconds():g} s"
    if entry.error_type:
        yield f"error {entry.error_type}"
    yield time_text(entry.created_at)


def tokens_text(usage: Usage) -> str:
    """`1,200 (1,000 cached) in, 34 out tokens`; empty if none are known."""
    parts = []
    if usage.input_tokens is not None:
        cached = f" ({usage.cache_read_input_tokens:,} cached)" if usage.cache_read_input_tokens else ""
        parts.append(f"{usage.input_tokens:,}{cached} in")
    if usage.output_tokens is not None:
        reasoning = f" ({usage.reasoning_output_tokens:,} reasoning)" if usage.reasoning_output_tokens else ""
        parts.append(f"{usage.output_tokens:,}{reasoning} out")
    return f"{', '.join(parts)} tokens" if parts else ""


def cost_text(cost: Decimal) -> str:
    """`$0.0012`."""
    return f"${cost.normalize():f}"


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
