"""What the tests of the SDK's sessions share: items, and what runs used."""

from types import SimpleNamespace
from typing import Any

from agents import Usage
from agents.usage import RequestUsage
from openai.types.responses.response_usage import InputTokensDetails, OutputTokensDetails


def user(text: str) -> Any:
    return {"role": "user", "content": text}


def assistant(text: str) -> Any:
    return {"role": "assistant", "content": text}


def turns(*texts: str) -> list[Any]:
    """A question for each, and its answer."""
    return [item for text in texts for item in (user(text), assistant(f"{text}!"))]


def requests(*tokens: tuple[int, int]) -> Usage:
    """What a run used that made requests of so many tokens of input and output."""
    used = Usage()
    for given, made in tokens:
        used.add(
            Usage(
                requests=1,
                input_tokens=given,
                output_tokens=made,
                total_tokens=given + made,
                input_tokens_details=InputTokensDetails(cached_tokens=given // 2, cache_write_tokens=given // 10),
                output_tokens_details=OutputTokensDetails(reasoning_tokens=made // 2),
            )
        )
    assert all(isinstance(entry, RequestUsage) for entry in used.request_usage_entries)
    return used


def result(used: Usage, model: Any = "small-1", *, responses: dict[str, Usage] | None = None) -> Any:
    """The result of a run, as far as a session looks at it; *responses* by the ids that the provider gave them."""
    raw = [SimpleNamespace(response_id=name, usage=usage) for name, usage in (responses or {}).items()]
    return SimpleNamespace(
        context_wrapper=SimpleNamespace(usage=used), last_agent=SimpleNamespace(model=model), raw_responses=raw
    )
