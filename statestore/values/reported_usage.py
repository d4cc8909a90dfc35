"""Tokens as SDKs report them: the shapes that `Usage.of` understands.

What a usage is called, and what it counts, differs. In some, tokens of the provider's prompt cache are part of the
input, as OpenTelemetry wants it; others report them separately, and they are added here.
"""

from collections.abc import Mapping
from typing import Any

# Of one entry: more than any call uses, and small enough that sums over all entries of a table still fit 64 bits.
MAX_TOKENS = 10**9

# In each: the names of the input, the output, what was read from the cache, what was written to it, and the reasoning.
# A dot leads into an object. The first group that has the input or the output counts.
_INCLUSIVE = (
    # OpenAI's chat completions, and those who imitate them.
    (
        ("prompt_tokens",),
        ("completion_tokens",),
        ("prompt_tokens_details.cached_tokens", "cache_read_input_tokens"),
        ("prompt_tokens_details.cache_write_tokens", "cache_creation_input_tokens"),
        ("completion_tokens_details.reasoning_tokens",),
    ),
    # OpenAI's responses, openai-agents, LangChain and pydantic-ai.
    (
        ("input_tokens",),
        ("output_tokens",),
        ("input_tokens_details.cached_tokens", "input_token_details.cache_read", "cache_read_tokens"),
        ("input_tokens_details.cache_write_tokens", "input_token_details.cache_creation", "cache_write_tokens"),
        ("output_tokens_details.reasoning_tokens", "output_token_details.reasoning"),
    ),
    # Ollama.
    (("prompt_eval_count",), ("eval_count",), (), (), ()),
)
_EXCLUSIVE = (
    # Anthropic, and Bedrock.
    ("input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens"),
    ("inputTokens", "outputTokens", "cacheReadInputTokens", "cacheWriteInputTokens"),
)
_HOLDERS = ("usage", "usage_metadata", "context_wrapper.usage")

Figures = dict[str, int | None]


def find(reported: Any, *, most: int | None = MAX_TOKENS) -> Figures | None:
    """The figures of a usage, or of what has one: a response, a message, the result of a run. None if there are none.

    A figure that is negative, or greater than *most*, counts as not reported; None takes each as it is.
    """
    found = _figures(reported, most)
    for holder in _HOLDERS:
        if found is not None:
            break
        held = _get(reported, holder)
        found = _figures(held() if callable(held) else held, most)
    if found is None or most is None:
        return found
    # A sum of figures may exceed what each of them does not.
    return {name: figure if figure is None or figure <= most else None for name, figure in found.items()}


def _figures(said: Any, most: int | None) -> Figures | None:
    def number(*names: str) -> int | None:
        for name in names:
            value = _get(said, name)
            if isinstance(value, int) and not isinstance(value, bool) and (most is None or 0 <= value <= most):
                return int(value)
        return None

    for input_name, output_name, read_name, written_name in _EXCLUSIVE:
        read, written = number(read_name), number(written_name)
        if (read is not None or written is not None or "T" in input_name) and number("prompt_tokens") is None:
            plain, output = number(input_name), number(output_name)
            if plain is None and output is None and read is None and written is None:
                continue
            total = None if plain is None else plain + (read or 0) + (written or 0)
            return _named(total, output, read, written, None)
    for names in _INCLUSIVE:
        found = [number(*one) for one in names]
        if found[0] is not None or found[1] is not None:
            return _named(*found)
    # Gemini counts its thoughts beside the answer, and the results of tools that it runs itself beside the prompt.
    plain, answer, thoughts = (number(f"{name}_token_count") for name in ("prompt", "candidates", "thoughts"))
    if plain is not None or answer is not None:
        total = None if plain is None else plain + (number("tool_use_prompt_token_count") or 0)
        output = None if answer is None and thoughts is None else (answer or 0) + (thoughts or 0)
        return _named(total, output, number("cached_content_token_count"), None, thoughts)
    return None


def _named(
    total: int | None, output: int | None, read: int | None, written: int | None, reasoning: int | None
) -> Figures:
    return {
        "input_tokens": total,
        "output_tokens": output,
        "cache_read_input_tokens": read,
        "cache_write_input_tokens": written,
        "reasoning_output_tokens": reasoning,
    }


def _get(said: Any, name: str) -> Any:
    for step in name.split("."):
        said = said.get(step) if isinstance(said, Mapping) else getattr(said, step, None)
    return said
