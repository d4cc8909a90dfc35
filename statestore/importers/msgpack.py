"""MessagePack as plain data: what it holds of other types stays as bytes, so that reading it makes no objects.

It also finds where in the bytes each value of a map is, for those who keep the values as they are.
"""

import struct
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

from statestore.errors import InvalidValueError

T = TypeVar("T")

_DEEPEST = 200


class Extension(NamedTuple):
    """A value of another type: its number, and its bytes."""

    code: int
    data: bytes


def loads(data: bytes, where: str) -> Any:
    """The value that *data* is.

    Raises:
        InvalidValueError: It is not MessagePack; the message begins with *where*.
    """
    return _guarded(where, lambda: _read(data, 0, 0)[0])


def parts(data: bytes, where: str) -> dict[str, bytes]:
    """The values of a map, each as the bytes that it is."""

    def read() -> dict[str, bytes]:
        found: dict[str, bytes] = {}
        count, at = _map_size(data)
        for _ in range(count):
            key, begin = _read(data, at, 0)
            _, at = _read(data, begin, 0)
            found[key] = data[begin:at]
        return found

    return _guarded(where, read)


def _guarded(where: str, read: Callable[[], T]) -> T:
    try:
        return read()
    except (IndexError, KeyError, TypeError, UnicodeDecodeError, struct.error):
        raise InvalidValueError(where, "is damaged: it is not MessagePack") from None


def _map_size(data: bytes) -> tuple[int, int]:
    kind = data[0]
    if 0x80 <= kind <= 0x8F:
        return kind & 0x0F, 1
    return _number(data, 1, {0xDE: ">H", 0xDF: ">I"}[kind])


# What follows each kind: a number, or the size of bytes, of a text, of an extension, of a list or of a map.
_NUMBERS = {
    0xCA: ">f", 0xCB: ">d", 0xCC: ">B", 0xCD: ">H", 0xCE: ">I", 0xCF: ">Q",
    0xD0: ">b", 0xD1: ">h", 0xD2: ">i", 0xD3: ">q",
}  # fmt: skip
_BYTES = {0xC4: ">B", 0xC5: ">H", 0xC6: ">I"}
_TEXTS = {0xD9: ">B", 0xDA: ">H", 0xDB: ">I"}
_EXTENSIONS = {0xC7: ">B", 0xC8: ">H", 0xC9: ">I"}
_FIXED_EXTENSIONS = {0xD4: 1, 0xD5: 2, 0xD6: 4, 0xD7: 8, 0xD8: 16}
_LISTS = {0xDC: ">H", 0xDD: ">I"}
_MAPS = {0xDE: ">H", 0xDF: ">I"}
_CONSTANTS = {0xC0: None, 0xC2: False, 0xC3: True}


def _read(data: bytes, at: int, depth: int) -> tuple[Any, int]:
    """The value at a place, and where the next one is."""
    if depth > _DEEPEST:
        raise TypeError
    kind, at = data[at], at + 1
    if kind <= 0x7F:
        return kind, at
    if kind >= 0xE0:
        return kind - 0x100, at
    if kind <= 0x8F:
        return _map(data, at, kind & 0x0F, depth)
    if kind <= 0x9F:
        return _list(data, at, kind & 0x0F, depth)
    if kind <= 0xBF:
        return _text(data, at, kind & 0x1F)
    if kind in _CONSTANTS:
        return _CONSTANTS[kind], at
    if kind in _NUMBERS:
        return _number(data, at, _NUMBERS[kind])
    if kind in _FIXED_EXTENSIONS:
        return _extension(data, at, _FIXED_EXTENSIONS[kind])
    for kinds, read in ((_TEXTS, _text), (_BYTES, _bytes), (_EXTENSIONS, _extension)):
        if kind in kinds:
            size, at = _number(data, at, kinds[kind])
            return read(data, at, size)
    if kind in _LISTS:
        size, at = _number(data, at, _LISTS[kind])
        return _list(data, at, size, depth)
    size, at = _number(data, at, _MAPS[kind])
    return _map(data, at, size, depth)


def _number(data: bytes, at: int, form: str) -> tuple[Any, int]:
    (number,) = struct.unpack_from(form, data, at)
    return number, at + struct.calcsize(form)


def _bytes(data: bytes, at: int, size: int) -> tuple[bytes, int]:
    if at + size > len(data):
        raise IndexError
    return data[at : at + size], at + size


def _text(data: bytes, at: int, size: int) -> tuple[str, int]:
    found, at = _bytes(data, at, size)
    return found.decode(errors="surrogatepass"), at


def _extension(data: bytes, at: int, size: int) -> tuple[Extension, int]:
    code, at = _number(data, at, ">b")
    found, at = _bytes(data, at, size)
    return Extension(code, found), at


def _list(data: bytes, at: int, size: int, depth: int) -> tuple[list[Any], int]:
    found = []
    for _ in range(size):
        value, at = _read(data, at, depth + 1)
        found.append(value)
    return found, at


def _map(data: bytes, at: int, size: int, depth: int) -> tuple[dict[Any, Any], int]:
    found = {}
    for _ in range(size):
        key, at = _read(data, at, depth + 1)
        found[key], at = _read(data, at, depth + 1)
    return found, at
