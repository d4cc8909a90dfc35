"""Messages of pydantic-ai as entries, and back."""

from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError
from pydantic_ai.messages import (
    ModelMessage,
    ModelMessagesTypeAdapter,
    ModelResponse,
    RetryPromptPart,
    ToolCallPart,
    ToolReturnPart,
    UserPromptPart,
)

from statestore import InvalidValueError, NewEntry, Usage
from statestore.adapters.layouts.labels import label

AGENT = "pydantic-ai"


def entry_of(message: ModelMessage, agent_name: str, *, entry_id: str | None) -> NewEntry:
    """A message as an entry."""
    [content] = ModelMessagesTypeAdapter.dump_python([message], mode="json")
    about: dict[str, Any] = {"agent_name": agent_name, "created_at": message.timestamp, "entry_id": entry_id}
    if isinstance(message, ModelResponse):
        calls = [part for part in message.parts if isinstance(part, ToolCallPart)]
        about |= {
            "role": "assistant",
            "usage": Usage.of(message.usage, strict=False),
            "provider_name": label(message.provider_name),
            "response_model": label(message.model_name),
            "finish_reason": label(message.finish_reason),
        }
        if calls:
            about |= {"tool_name": label(calls[0].tool_name), "tool_call_id": label(calls[0].tool_call_id)}
        return NewEntry(content, **about)
    answers = [part for part in message.parts if isinstance(part, ToolReturnPart | RetryPromptPart)]
    is_prompt = any(isinstance(part, UserPromptPart) for part in message.parts)
    return NewEntry(
        content,
        role="user" if is_prompt else "tool" if answers else "system",
        tool_call_id=label(answers[0].tool_call_id) if answers else None,
        error_type="tool_retry" if any(isinstance(part, RetryPromptPart) for part in answers) else None,
        **about,
    )


def messages_of(contents: Sequence[Any], argument: str, name: str) -> list[ModelMessage]:
    """The messages again, of what *argument* has named.

    Raises:
        InvalidValueError: One of them, appended by other means, is not a message.
    """
    try:
        messages: list[ModelMessage] = ModelMessagesTypeAdapter.validate_python(contents)
    except ValidationError as error:  # It quotes the content.
        number = int(error.errors(include_input=False)[0]["loc"][0]) + 1
        raise InvalidValueError(
            argument,
            f"entry {number} of the {len(contents)} of {name!r} is not a message of pydantic-ai; remove or replace it",
        ) from None
    return messages
