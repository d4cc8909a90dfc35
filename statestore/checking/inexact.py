"""What JSON cannot hold: where it is inside a value, and what a lenient store makes of it.

A store that is opened with `json="lenient"` converts values as `converted` says, and stores and returns the result.
"""

import base64
import inspect
import json
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from itertools import repeat
from pathlib import PurePath
from typing import Any
from uuid import UUID

from statestore.errors import InvalidValueError

MAX_DEPTH = 200
# More than Python writes or reads by default, since both take time that grows with the square of the digits.
MAX_DIGITS = 4300
TOO_MANY_DIGITS = f"more than {MAX_DIGITS:,} digits; use a string"
TOO_LARGE = 10**MAX_DIGITS
BYTES = "$bytes"
"""The one key of the object that bytes become; its value is base64."""

_PAIR = re.compile("[\ud800-\udbff][\udc00-\udfff]")
# A key is somebody's data: it is shown only if it looks like the name of a field.
_LONGEST_NAME = 40
_TOO_DEEP = f"is nested deeper than {MAX_DEPTH}, or contains itself; flatten it"
_PLAIN = "only dict, list, str, int, float, bool and None are exact JSON"


def check(value: Any, argument: str) -> None:
    """Refuse a value that is not exact JSON, and say where in it the reason is; quotes none of it.

    A walk in Python, for the few values that orjson did not write exactly.

    Raises:
        InvalidValueError: It is not exact JSON.
    """
    # Iterators, not lists of what is still to be seen: a value has up to millions of items.
    places: list[Any] = [None]
    levels: list[Iterator[Any]] = [iter([(None, value)])]
    while levels:
        for places[-1], item in levels[-1]:
            problem = _problem(item)
            if problem is not None:
                raise InvalidValueError(argument, f"{_at(_step(*place) for place in places[1:])}{problem}")
            if isinstance(item, dict):
                levels.append(zip(enumerate(item), item.values(), strict=True))
            elif isinstance(item, list):
                levels.append(zip(enumerate(repeat(None)), item, strict=False))
            else:
                continue
            if len(levels) > MAX_DEPTH + 1:
                raise InvalidValueError(argument, _TOO_DEEP)
            places.append(None)
            break
        else:
            levels.pop()
            places.pop()


def _problem(item: Any) -> str | None:
    """Why an item by itself is not exact JSON."""
    if isinstance(item, dict):
        for key in item:
            if not isinstance(key, str):
                return f"has a key of type {type(key).__name__}; JSON keys are strings"
            if not key.isascii() and _PAIR.search(key):
                return "has a key with a surrogate pair as two characters; join them"
    elif isinstance(item, str):
        if not item.isascii() and _PAIR.search(item):
            return "contains a surrogate pair as two characters, which JSON reads as one; join them"
    elif isinstance(item, float):
        if item != item or item in (float("inf"), float("-inf")):
            return "contains NaN or an infinity; use None or a string"
        if type(item) is not float:
            return f"contains a {type(item).__name__}; {_PLAIN}"
    elif isinstance(item, int):
        if not -TOO_LARGE < item < TOO_LARGE:
            return f"contains an integer of {TOO_MANY_DIGITS}"
    elif item is not None and not isinstance(item, list):
        return f"contains a {type(item).__name__}; {_PLAIN}"
    return None


def _step(place: int, key: Any) -> str:
    """How one item of a list is written, or that of a key."""
    if key is None:
        return f"[{place}]"
    shown = isinstance(key, str) and key.isascii() and key.isidentifier() and len(key) <= _LONGEST_NAME
    return f".{key}" if shown else f"[key {place + 1}]"


def _at(steps: Iterable[str]) -> str:
    way = "".join(steps).removeprefix(".")
    return way and f"{way} "


def converted(value: Any, argument: str) -> Any:
    """A copy of *value* that is exact JSON.

    - Mappings, dataclasses, and what has a `model_dump()` as models of pydantic do, become objects. Keys become text:
      `null`, `true`, `false`, numbers as JSON has them, dates and ids as values.
    - Tuples, sets, frozensets and deques become lists; those of sets are sorted.
    - NaN and infinities become null. Other kinds of int, float and str become plain ones.
    - Bytes, bytearrays and memoryviews become `{"$bytes": "<base64>"}`.
    - Dates and times become ISO text; a timedelta its seconds; a UUID, a Decimal and a path their text; a member of an
      Enum its value.
    - Two surrogates in a row that make one character become that character; lone ones stay.

    Raises:
        InvalidValueError: It holds something else, contains itself, or two keys of a mapping become the same text.
    """
    return _converted(value, argument, ())


def _converted(item: Any, argument: str, way: tuple[str, ...]) -> Any:
    if len(way) > MAX_DEPTH:
        raise InvalidValueError(argument, _TOO_DEEP)
    if not isinstance(item, Enum):
        if isinstance(item, str):
            return _joined(item)
        if item is None or isinstance(item, bool):
            return item
        if isinstance(item, int):
            if not -TOO_LARGE < item < TOO_LARGE:
                raise InvalidValueError(argument, f"{_at(way)}contains an integer of {TOO_MANY_DIGITS}")
            return int(item)
        if isinstance(item, float):
            return float(item) if float("-inf") < item < float("inf") else None
    plain = _as_json(item)
    if isinstance(plain, dict):
        found: dict[str, Any] = {}
        for place, (key, child) in enumerate(plain.items()):
            name = _key_text(key)
            if name is None or name in found:
                problem = f"of type {type(key).__name__}" if name is None else "that becomes the same text as another"
                raise InvalidValueError(argument, f"{_at(way)}has a key {problem}")
            found[name] = _converted(child, argument, (*way, _step(place, name)))
        return found
    if isinstance(plain, list):
        children = [_converted(child, argument, (*way, _step(place, None))) for place, child in enumerate(plain)]
        return sorted(children, key=lambda child: json.dumps(child, sort_keys=True)) if _is_set(item) else children
    if plain is item:
        raise InvalidValueError(argument, f"{_at(way)}contains a {type(item).__name__}, which has no form in JSON")
    return _converted(plain, argument, way)


def _as_json(item: Any) -> Any:
    """A dict or a list with the same items, or something simpler; the item itself if there is nothing to make of it."""
    if isinstance(item, Mapping):
        return dict(item)
    if isinstance(item, list | tuple | deque) or _is_set(item):
        return list(item)
    for kinds, convert in _CONVERSIONS:
        if isinstance(item, kinds):
            return convert(item)
    if is_dataclass(item) and not isinstance(item, type):
        return {field.name: getattr(item, field.name) for field in fields(item)}
    if not isinstance(item, type) and callable(getattr(item, "model_dump", None)):
        found = called(item.model_dump)
        return item if found is NotImplemented else found
    return item


def called(dump: Callable[[], Any]) -> Any:
    """What a method such as `model_dump` returns; NotImplemented if it needs arguments, and so is something else."""
    try:
        return dump()
    except TypeError:
        try:
            inspect.signature(dump).bind()
        except TypeError:
            return NotImplemented
        except ValueError:
            pass  # It does not say what it takes.
        raise


_CONVERSIONS: tuple[tuple[tuple[type, ...], Callable[[Any], Any]], ...] = (
    ((Enum,), lambda item: item.value),
    ((bytes, bytearray, memoryview), lambda item: {BYTES: base64.b64encode(item).decode()}),
    ((datetime, date, time), lambda item: item.isoformat()),
    ((timedelta,), timedelta.total_seconds),
    ((UUID, Decimal, PurePath), str),
)


def _is_set(item: Any) -> bool:
    return isinstance(item, set | frozenset)


def _key_text(key: Any) -> str | None:
    while isinstance(key, Enum):
        key = key.value
    if isinstance(key, str):
        return _joined(key)
    if key is None or isinstance(key, bool | float):
        return json.dumps(key)
    if isinstance(key, int):
        return str(int(key)) if -TOO_LARGE < key < TOO_LARGE else None
    made = _as_json(key)
    return made if isinstance(made, str) else None


def _joined(text: str) -> str:
    """*text* as a plain str, with each surrogate pair as the one character that it stands for."""
    if text.isascii() or not _PAIR.search(text):
        return str.__str__(text)
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")
