"""What SDKs return, as entries: recognised by its shape, so that none of them needs to be installed.

- A message, or an item of OpenAI's responses, is stored as it dumps itself. At its top level fields that are None are
  left out, since providers refuse some of them when the message is sent again.
- A whole response of OpenAI's chat completions is stored as the message in it.
- A whole response of OpenAI's Responses API is stored as the message in it if that is all it has, and otherwise as
  `{"role": "assistant", "output": [...]}`, whose items can be sent again.

Usage, model and finish reason of a whole response become those of the entry.
"""

from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from typing import Any

from statestore.checking import messages
from statestore.checking.checks import MAX_TOKENS
from statestore.errors import InvalidValueError
from statestore.values import reported_usage
from statestore.values.history import NewEntry, Usage

_DUMPS = ("model_dump", "to_dict", "dict")
_JSON = (dict, list, str, int, float, type(None))


def is_one(given: Any) -> bool:
    """Whether something is a single entry; objects of SDKs may be iterable themselves."""
    return isinstance(given, NewEntry | Mapping) or _dump_of(given) is not None


def taken(given: Any, argument: str) -> NewEntry | dict[str, Any]:
    """What is stored for something that is appended: an entry, or a message whose columns are read from it.

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
    found = None if dump is None else dump()
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
        role=messages.columns(message).get("role", "assistant"),
        usage=_usage(response),
        response_model=messages.model(response),
        finish_reason=messages.finish_reason(choices[0]),
    )


def _response(response: Mapping[str, Any], output: list[Any]) -> NewEntry:
    items = [_without_nones(item) if isinstance(item, Mapping) else item for item in output]
    single = len(items) == 1 and isinstance(items[0], dict) and "role" in items[0]
    stopped = response.get("incomplete_details")
    reason = stopped.get("reason") if isinstance(stopped, Mapping) else response.get("status")
    return NewEntry(
        items[0] if single else {"role": "assistant", "output": items},
        usage=_usage(response),
        response_model=messages.model(response),
        finish_reason=messages.finish_reason({"finish_reason": reason}),
    )


def _usage(response: Mapping[str, Any]) -> Usage | None:
    found = reported_usage.find(response, most=MAX_TOKENS)
    return None if found is None else Usage(**found)
