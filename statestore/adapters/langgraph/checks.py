"""What arguments must be. LangGraph passes them on unchecked, or makes a text of whatever it is given."""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from datetime import timedelta
from typing import Any
from uuid import UUID

from statestore import NEVER, InvalidValueError

_LONGEST_NAME = 512
_LONGEST_TTL = timedelta(days=36_500)


def checked(argument: str, value: Any, kind: Any, described: str) -> Any:
    """*value*, which must be of a kind. True and False are no numbers here."""
    if isinstance(value, kind) and not isinstance(value, bool):
        return value
    raise InvalidValueError(argument, f"must be {described}, not {type(value).__name__}")


def mapping(argument: str, value: Any) -> Mapping[str, Any]:
    found: Mapping[str, Any] = checked(argument, value, Mapping, "a mapping")
    return found


def several(argument: str, values: Any, one: str) -> list[Any]:
    """The members of a sequence. A text is none, though its characters can be gone through."""
    if isinstance(values, str | bytes | Mapping):
        raise InvalidValueError(argument, f"must be a sequence of {one}s, not one {one}")
    return list(checked(argument, values, Iterable, f"a sequence of {one}s"))


def name(argument: str, value: Any) -> str:
    """An id or a key: LangGraph takes numbers and UUIDs for the texts of them."""
    return str(checked(argument, value, str | int | UUID, "a string, a whole number or a UUID"))


def names(argument: str, values: Any) -> list[str]:
    return [name(f"{argument}[{n}]", value) for n, value in enumerate(several(argument, values, "id"))]


def user(argument: str, value: Any) -> str | None:
    """The id of a user; none for a visitor who has an empty one."""
    return None if value is None or value == "" else name(argument, value)


def text(argument: str, value: Any) -> str:
    """A string that both databases can store."""
    found: str = checked(argument, value, str, "a string")
    if "\0" in found:
        raise InvalidValueError(argument, "contains a NUL character, which PostgreSQL cannot store; remove it")
    try:
        found.encode()
    except UnicodeEncodeError:
        raise InvalidValueError(argument, "contains a lone surrogate; it is not valid Unicode") from None
    return found


def agent(argument: str, value: Any) -> str:
    if not 1 <= len(found := text(argument, value)) <= _LONGEST_NAME:
        raise InvalidValueError(argument, f"must have 1 to {_LONGEST_NAME} characters, has {len(found)}")
    return found


def count(argument: str, value: Any) -> int:
    if (found := int(checked(argument, value, int, "a whole number"))) < 0:
        raise InvalidValueError(argument, "must be a whole number from 0 on")
    return found


def span(argument: str, number: Any, unit: timedelta) -> timedelta:
    """So many units of time."""
    factor: float = checked(argument, number, int | float, "a number")
    with suppress(OverflowError, ValueError):  # Of what is infinite, or not a number.
        if (found := unit * factor) <= _LONGEST_TTL:
            return found
    raise InvalidValueError(argument, "must be a finite number, of at most 36,500 days; use None for no expiry")


def ttl(argument: str, value: Any) -> None:
    """Refuse what is no TTL for the store."""
    if value is None or value is NEVER:
        return
    if not timedelta(0) < checked(argument, value, timedelta, "a timedelta") <= _LONGEST_TTL:
        raise InvalidValueError(argument, "must be longer than zero, and at most 36,500 days; use None for no expiry")


def serialiser(argument: str, value: Any) -> None:
    """Refuse what LangGraph would wrap, to fail at the first value."""
    if value is not None and not (hasattr(value, "dumps_typed") or hasattr(value, "dumps")):
        raise InvalidValueError(argument, "must have dumps_typed and loads_typed, as langgraph's serialisers do")


def checkpoint(argument: str, value: Any) -> None:
    """Refuse what lacks a field that is read of a checkpoint."""
    fields = mapping(argument, value)
    checked(f"{argument}.v", fields.get("v"), int, "the version of the format")
    checked(f"{argument}.id", fields.get("id"), str, "a string")
    for field in ("channel_values", "channel_versions"):
        mapping(f"{argument}.{field}", fields.get(field))
