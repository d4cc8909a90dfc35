"""JSON that comes back as it went in, or is refused before anything is written.

Both databases store the text that `dumps` returns, so values are accepted or refused here, alike for both. orjson is
fast but lenient: it writes NaN as null, a tuple as a list and a UUID as a string. Instead of walking each value in
Python, `dumps` reads its own output back and compares: a value that does not come back equal was not exact. The
comparison runs in C and costs less than a walk over a small chat message.
"""

import json
import re
from array import array
from itertools import accumulate
from typing import Any, NoReturn

import orjson

from statestore.errors import DatabaseError, InvalidValueError

MAX_DEPTH = 200
# Each list and object takes time to read, however small it is: two million of them in 6 MB of JSON took as long as
# 400 MB of text.
MAX_CONTAINERS = 500_000
MAX_BYTES = 16 * 1024 * 1024

# How many levels a file may add around a value.
_AROUND = 10

# Subclasses of the JSON types are accepted (a StrEnum, an OrderedDict); other types must not be converted silently.
_OPTIONS = orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_PASSTHROUGH_DATETIME


def dumps(value: Any, argument: str, *, max_bytes: int = MAX_BYTES) -> str:
    """The JSON text of *value*, key order kept. See `encode`."""
    return encode(value, argument, max_bytes=max_bytes)[0].decode()


def encode(value: Any, argument: str, *, max_bytes: int = MAX_BYTES) -> tuple[bytes, Any]:
    """The JSON of *value* in UTF-8, key order kept, and a copy of *value* that shares nothing with it.

    Raises:
        InvalidValueError: *value* is not exact JSON, is nested deeper than 200, holds more than 500,000 lists and
            objects, or is longer than *max_bytes* in UTF-8.
    """
    try:
        data = orjson.dumps(value, option=_OPTIONS)
    except (TypeError, RecursionError):
        raise InvalidValueError(argument, _why_not(value)) from None
    if len(data) > max_bytes:
        raise InvalidValueError(
            argument, f"is {len(data):,} bytes of JSON, more than the limit of {max_bytes:,}; keep large data elsewhere"
        )
    check_nesting(data, argument)
    copy = orjson.loads(data)
    if copy != value:
        raise InvalidValueError(argument, _why_not(value))
    return data, copy


# The value of a text that `dumps` made. Not wrapped: the extra call would be noticeable when histories are read.
loads = orjson.loads


def damaged(table: str, place: str, **facts: Any) -> DatabaseError:
    """The error to raise when a text in the database is no longer JSON."""
    return DatabaseError(
        f"a row of {table} is damaged: its content at {place} is not JSON; restore it from a backup, or remove it",
        table=table,
        **facts,
    )


def read(data: str | bytes, argument: str) -> Any:
    """The value of JSON that another program wrote, exactly or not at all.

    Not read with orjson, which turns a large integer into a float and keeps the last of two equal keys.

    Raises:
        InvalidValueError: *data* is not JSON in UTF-8, or not exact; the message quotes none of it.
    """
    try:
        text = data.decode() if isinstance(data, bytes) else data
        check_nesting(data if isinstance(data, bytes) else data.encode(), argument, max_depth=MAX_DEPTH + _AROUND)
        return json.loads(
            text, object_pairs_hook=_object, parse_int=_integer, parse_float=_float, parse_constant=_constant
        )
    except UnicodeError:
        raise InvalidValueError(argument, "is not UTF-8 text") from None
    except json.JSONDecodeError as error:
        raise InvalidValueError(argument, f"is not JSON: {error.msg} at character {error.pos}") from None
    except RecursionError:
        raise InvalidValueError(argument, f"is nested deeper than {MAX_DEPTH}; flatten it") from None
    except _Inexact as error:
        raise InvalidValueError(argument, str(error)) from None


class _Inexact(Exception):
    """What is wrong with JSON that is being read."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise _Inexact("has an object with the same key twice")
    return found


def _integer(digits: str) -> int:
    # The length is checked first: Python refuses to convert thousands of digits.
    if len(digits) > 20 or not -(2**63) <= int(digits) < 2**64:
        raise _Inexact("holds an integer beyond 64 bits; use a string")
    return int(digits)


def _float(digits: str) -> float:
    value = float(digits)
    if value in (float("inf"), float("-inf")):
        raise _Inexact("holds a number that is too large; use a string")
    return value


def _constant(name: str) -> NoReturn:
    raise _Inexact("holds NaN or an infinity; use null or a string")


# A string with its quotes, or up to the end of JSON that was cut off. The pattern looks at each character only once.
_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+(?:"|\\?\Z)', re.DOTALL)
# Each opening bracket becomes 1 and each closing one -1; everything else is dropped.
_STEPS = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")
_NO_BRACKETS = bytes(set(range(256)) - set(b"[{]}"))


def check_nesting(data: bytes, argument: str, *, max_depth: int = MAX_DEPTH) -> None:
    """Refuse JSON that is nested too deeply, or has too many lists and objects, before it is read.

    Raises:
        InvalidValueError: *data* exceeds one of these limits.
    """
    if data.count(b"[") + data.count(b"{") <= max_depth:
        return
    steps = array("b", _STRING.sub(b"", data).translate(_STEPS, _NO_BRACKETS))
    if steps.count(1) > MAX_CONTAINERS:
        raise InvalidValueError(
            argument, f"holds more than {MAX_CONTAINERS:,} lists and objects; store it as text, or keep it elsewhere"
        )
    if max(accumulate(steps), default=0) > max_depth:
        raise InvalidValueError(argument, f"is nested deeper than {MAX_DEPTH}; flatten it")


def _why_not(value: Any) -> str:
    """What is wrong with a value that `dumps` refused; quotes none of it."""
    stack: list[tuple[Any, int]] = [(value, 1)]
    while stack:
        item, depth = stack.pop()
        if depth > MAX_DEPTH + 1:
            return f"is nested deeper than {MAX_DEPTH}, or contains itself; flatten it"
        if isinstance(item, dict):
            for key in item:
                if not isinstance(key, str):
                    return f"has a key of type {type(key).__name__}; JSON keys are strings"
                if _has_surrogate(key):
                    return "has a key with a lone surrogate; it is not valid Unicode"
            stack += [(child, depth + 1) for child in item.values()]
        elif isinstance(item, list):
            stack += [(child, depth + 1) for child in item]
        elif isinstance(item, str):
            if _has_surrogate(item):
                return "holds text with a lone surrogate; it is not valid Unicode"
        elif isinstance(item, float):
            if item != item or item in (float("inf"), float("-inf")):
                return "holds NaN or an infinity; use None or a string"
        elif isinstance(item, int):
            if not -(2**63) <= item < 2**64:
                return "holds an integer beyond 64 bits; use a string"
        elif item is not None:
            return f"holds a {type(item).__name__}; only dict, list, str, int, float, bool and None are exact JSON"
    return "does not come back from JSON as it went in"


def _has_surrogate(text: str) -> bool:
    return any("\ud800" <= char <= "\udfff" for char in text)
