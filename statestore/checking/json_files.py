"""JSON files that other programs wrote: read exactly or not at all, and never more than fits in memory.

The limits are the same for every importer, whatever wrote the file.
"""

import re
from collections.abc import Iterator
from typing import Any, BinaryIO

import orjson

from statestore.checking import exactjson
from statestore.errors import InvalidValueError

# The size of one JSON document, which is held in memory: a line of JSON Lines, or a file that is one document. The
# largest text that the store accepts still fits, even if each of its characters has to be escaped.
MAX_BYTES = 128 * 1024 * 1024
# The number of values in a document: a small number takes two bytes in the file, and more than thirty in memory.
MAX_VALUES = 16 * 1024 * 1024

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_STRINGS = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)


def lines(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """The lines of *file* with their ends, numbered from 1. A line that is too long is cut, and `parse` refuses it."""
    number = 0
    while line := file.readline(MAX_BYTES + 1):
        number += 1
        rest = line
        while len(rest) > MAX_BYTES and not rest.endswith(b"\n"):
            rest = file.readline(MAX_BYTES + 1)
        yield number, line


def whole(file: BinaryIO) -> bytes:
    """All of a file that is one document. A file that is too long is cut, and `parse` refuses it."""
    return file.read(MAX_BYTES + 1)


def parse(data: bytes, where: str) -> Any:
    """The value of a document, or of a line.

    Raises:
        InvalidValueError: It is not JSON in UTF-8, not exact, or too large; the message begins with *where* and quotes
            none of it.
    """
    if len(data) > MAX_BYTES:
        raise InvalidValueError(where, f"is longer than {MAX_BYTES:,} bytes")
    # An upper bound of the number of values. Marks inside strings are left out only if that could make a difference.
    if _marks(data) > MAX_VALUES and _marks(_STRINGS.sub(b'""', data)) > MAX_VALUES:
        raise InvalidValueError(where, f"contains more than {MAX_VALUES:,} values")
    data = data.removeprefix(_BYTE_ORDER_MARK)
    try:
        value = orjson.loads(data)
        # If writing it gives the same bytes, it was read exactly. JSON that orjson wrote is thus spared the slow way.
        if orjson.dumps(value) == data.rstrip():
            return value
    except (orjson.JSONDecodeError, TypeError):
        pass
    return exactjson.read(data, where)


def _marks(data: bytes) -> int:
    return data.count(b",") + data.count(b"[") + data.count(b"{")
