"""JSON that comes back as it went in, or is refused before anything is written.

Both databases store the text that `dumps` returns, so values are accepted or refused here, alike for both. orjson is
fast but lenient: it writes NaN as null, a tuple as a list and a UUID as a string. Instead of walking each value in
Python, `dumps` reads its own output back and compares: a value that does not come back equal was not exact. The
comparison runs in C and costs less than a walk over a small chat message.

orjson knows neither lone surrogates nor integers beyond 64 bits: it refuses to write them, and reads such an integer as
a float without a word. Values that have any are written and read by `json`, and their text begins with a space. JSON
allows that, databases and other programs do not notice it, and the reader sees by the first character what it needs.
"""

import json
import re
from array import array
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from itertools import accumulate
from typing import Any, NoReturn

import orjson

from statestore.checking import inexact
from statestore.checking.inexact import MAX_DEPTH
from statestore.errors import DatabaseError, InvalidValueError

# Each list and object takes time to read, however small it is: two million of them in 6 MB of JSON took as long as
# 400 MB of text.
MAX_CONTAINERS = 500_000
MAX_BYTES = 16 * 1024 * 1024

# How many levels a file may add around a value.
_AROUND = 10

# Subclasses of the JSON types are accepted (a StrEnum, an OrderedDict); other types must not be converted silently.
_OPTIONS = orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_PASSTHROUGH_DATETIME
SURROGATES = re.compile("[\ud800-\udfff]")


class Limit(int):
    """How many bytes of JSON a store accepts, and whether it converts what is not exact JSON.

    Every check of a value takes the limit in bytes; since both come in one argument, none can forget the other.
    """

    lenient: bool

    def __new__(cls, max_bytes: int, *, lenient: bool = False) -> "Limit":
        limit = super().__new__(cls, max_bytes)
        limit.lenient = lenient
        return limit


def is_lenient(max_bytes: int) -> bool:
    """Whether a limit is that of a store that converts values."""
    return isinstance(max_bytes, Limit) and max_bytes.lenient


def dumps(value: Any, argument: str, *, max_bytes: int = MAX_BYTES) -> str:
    """The JSON text of *value*, key order kept. See `encode`."""
    return encode(value, argument, max_bytes=max_bytes)[0].decode()


def encode(value: Any, argument: str, *, max_bytes: int = MAX_BYTES) -> tuple[bytes, Any]:
    """The JSON of *value* in UTF-8, key order kept, and a copy of *value* that shares nothing with it.

    A value that is not exact JSON is converted first if *max_bytes* is a lenient `Limit`: see `inexact.converted`.

    Raises:
        InvalidValueError: *value* is not exact JSON, is nested deeper than 200, contains more than 500,000 lists and
            objects, or is longer than *max_bytes* in UTF-8.
    """
    try:
        data = orjson.dumps(value, option=_OPTIONS)
    except (TypeError, RecursionError):
        return _encode_slowly(value, argument, max_bytes)
    _check_length(data, argument, max_bytes)
    check_nesting(data, argument)
    copy = orjson.loads(data)
    if copy != value:
        return _encode_slowly(value, argument, max_bytes)
    return data, copy


def _encode_slowly(value: Any, argument: str, max_bytes: int) -> tuple[bytes, Any]:
    """What `encode` does with values that orjson does not write exactly: nothing here is done for any other."""
    if is_lenient(max_bytes):
        return encode(inexact.converted(value, argument), argument, max_bytes=int(max_bytes))
    inexact.check(value, argument)
    data = b" " + _text(value).encode()
    _check_length(data, argument, max_bytes)
    check_nesting(data, argument)
    copy = _loads_slowly(data)
    if copy != value:
        raise InvalidValueError(argument, "would change in a JSON round trip")
    return data, copy


def _text(value: Any, default: Callable[[Any], Any] | None = None) -> str:
    text = json.dumps(value, default=default, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return SURROGATES.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def _check_length(data: bytes, argument: str, max_bytes: int) -> None:
    if len(data) > max_bytes:
        raise InvalidValueError(
            argument, f"is {len(data):,} bytes of JSON, more than the limit of {max_bytes:,}; keep large data elsewhere"
        )


def text(value: Any) -> str:
    """The text that `dumps` has written for a value that was read."""
    try:
        return orjson.dumps(value).decode()
    except TypeError:
        return f" {_text(value)}"


def spellings(value: Any) -> tuple[str, str]:
    """What may represent a value inside the text of another: it depends on what else that one contains."""
    slow = _text(value)
    try:
        return orjson.dumps(value).decode(), slow
    except TypeError:
        return slow, slow


def record(value: Any, *, default: Callable[[Any], Any] | None = None) -> str:
    """JSON of a dataclass or a mapping of ours, whose fields may be values that were read. Times end with Z.

    *default* makes something simpler of what is neither, as for orjson.
    """

    def plain(item: Any) -> Any:
        if is_dataclass(item) and not isinstance(item, type):
            return {field.name: getattr(item, field.name) for field in fields(item)}
        return orjson.loads(orjson.dumps(item, default=default, option=orjson.OPT_UTC_Z))

    try:
        return orjson.dumps(value, default=default, option=orjson.OPT_UTC_Z).decode()
    except TypeError:
        return _text(value, plain)


def canonical(value: Any) -> bytes:
    """The same bytes for values that differ only in the order of their keys."""
    try:
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    except TypeError:
        return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def loads(text: str | bytes) -> Any:
    """The value of a text that `dumps` made.

    Raises:
        orjson.JSONDecodeError: It is not JSON.
    """
    first = text[:1]
    return _loads_slowly(text) if first in (" ", b" ") else orjson.loads(text)


# For loops over many texts, where a call for each would be noticeable: `plain_loads(text) if text >= PLAIN else
# loads(text)` is the same. All JSON that does not begin with whitespace is greater.
plain_loads = orjson.loads
PLAIN = "!"


def _loads_slowly(text: str | bytes) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass  # Not raised from here: the error would hold this one, and this one holds the text.
    raise orjson.JSONDecodeError("not JSON", "", 0)


def damaged(table: str, place: str, **facts: Any) -> DatabaseError:
    """The error to raise when a text in the database is no longer JSON."""
    return DatabaseError(
        f"a row of {table} is damaged: its content at {place} is not JSON; restore it from a backup, or remove it",
        table=table,
        **facts,
    )


def read(data: str | bytes, argument: str) -> Any:
    """The value of JSON that another program wrote, exactly or not at all.

    Lone surrogates that are escaped, and integers of up to 4,300 digits, are exact. Not read with orjson, which turns a
    large integer into a float and keeps the last of two equal keys.

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
    # Before it is converted: Python refuses that, too.
    if len(digits.removeprefix("-")) > inexact.MAX_DIGITS:
        raise _Inexact(f"contains an integer of {inexact.TOO_MANY_DIGITS}")
    return int(digits)


def _float(digits: str) -> float:
    value = float(digits)
    if value in (float("inf"), float("-inf")):
        raise _Inexact("contains a number that is too large; use a string")
    return value


def _constant(name: str) -> NoReturn:
    raise _Inexact("contains NaN or an infinity; use null or a string")


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
            argument, f"contains more than {MAX_CONTAINERS:,} lists and objects; store it as text, or keep it elsewhere"
        )
    if max(accumulate(steps), default=0) > max_depth:
        raise InvalidValueError(argument, f"is nested deeper than {MAX_DEPTH}; flatten it")
