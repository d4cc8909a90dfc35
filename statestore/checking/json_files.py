"""Files of JSON that somebody else wrote: read exactly or not at all, and never more of them than fits in memory.

The limits are the same for every importer, whatever wrote the file.
"""

import re
from collections.abc import Iterator
from typing import Any, BinaryIO

import orjson

from statestore.checking import exactjson
from statestore.errors import InvalidValueError

# Of one JSON document, which is held in memory: a line of JSON Lines, or a whole file that is one. The largest text
# that the store takes still fits if each of its characters has to be escaped.
MAX_BYTES = 128 * 1024 * 1024
# Of the values in it: a small number takes two bytes in the file, and more than thirty in memory.
MAX_VALUES = 16 * 1024 * 1024

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_STRINGS = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)


def lines(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """The lines of *file*, from 1, each with its end. One that is too long comes cut, for `parse` to refuse."""
    number = 0
    while line := file.readline(MAX_BYTES + 1):
        number += 1
        rest = line
        while len(rest) > MAX_BYTES and not rest.endswith(b"\n"):
            rest = file.readline(MAX_BYTES + 1)
        yield number, line


def whole(file: BinaryIO) -> bytes:
    """All of a file that is one document. One that is too long comes cut, for `parse` to refuse."""
    return file.read(MAX_BYTES + 1)


def parse(data: bytes, where: str) -> Any:
    """The value of a document, or of a line.

    Raises:
        InvalidValueError: It is not JSON in UTF-8, not exact, or too much; the message begins with *where* and tells
            none of it.
    """
    if len(data) > MAX_BYTES:
        raise InvalidValueError(where, f"is longer than {MAX_BYTES:,} bytes")
    # At most so many values; what stands in texts is counted only if that may decide.
    if _marks(data) > MAX_VALUES and _marks(_STRINGS.sub(b'""', data)) > MAX_VALUES:
        raise InvalidValueError(where, f"holds more than {MAX_VALUES:,} values")
    data = data.removeprefix(_BYTE_ORDER_MARK)
    try:
        value = orjson.loads(data)
        # What comes back as it stands was read exactly. That is so for all that orjson wrote, and saves the slow way.
        if orjson.dumps(value) == data.rstrip():
            return value
    except (orjson.JSONDecodeError, TypeError):
        pass
    return exactjson.read(data, where)


def _marks(data: bytes) -> int:
    return data.count(b",") + data.count(b"[") + data.count(b"{")
