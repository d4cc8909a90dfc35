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

AGENT = "pydantic-ai"


def entry_of(message: ModelMessage, agent_name: str, *, entry_id: str | None) -> NewEntry:
    """A message as an entry."""
    [content] = ModelMessagesTypeAdapter.dump_python([message], mode="json")
    about: dict[str, Any] = {"agent_name": agent_name, "created_at": message.timestamp, "entry_id": entry_id}
    if isinstance(message, ModelResponse):
        calls = [part for part in message.parts if isinstance(part, ToolCallPart)]
        about |= {
            "role": "assistant",
            "usage": _usage(message),
            "provider_name": message.provider_name,
            "response_model": message.model_name,
            "finish_reason": message.finish_reason,
        }
        if calls:
            about |= {"tool_name": calls[0].tool_name, "tool_call_id": calls[0].tool_call_id or None}
        return NewEntry(content, **about)
    answers = [part for part in message.parts if isinstance(part, ToolReturnPart | RetryPromptPart)]
    is_prompt = any(isinstance(part, UserPromptPart) for part in message.parts)
    return NewEntry(
        content,
        role="user" if is_prompt else "tool" if answers else "system",
        tool_call_id=answers[0].tool_call_id or None if answers else None,
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


def _usage(message: ModelResponse) -> Usage:
    try:
        return Usage.of(message.usage)
    except InvalidValueError:  # It reports none.
        return Usage()
