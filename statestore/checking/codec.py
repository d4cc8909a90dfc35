"""How a cached value becomes bytes, and comes back as it was.

The codec's name is stored beside the bytes: `json`, `str` or `bytes`, with `+zstd` if they are compressed. Unlike
pickle, nothing here can run code that somebody put into the database.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from statestore.checking import exactjson
from statestore.errors import DatabaseError, InvalidValueError

if sys.version_info >= (3, 14):
    from compression import zstd as zstd
else:
    from backports import zstd as zstd

COMPRESS_ABOVE: Final = 4096
_ZSTD = "+zstd"

# A frame says itself how much memory its window takes, before a byte is decompressed. What `encode` writes needs 2 MiB.
_OPTIONS: Final[Mapping[int, int]] = {zstd.DecompressionParameter.window_log_max: 24}


@dataclass(frozen=True, slots=True)
class Encoded:
    """A value as it is stored."""

    data: bytes
    codec: str


def encode(value: Any, argument: str, *, max_bytes: int, compress_above: int = COMPRESS_ABOVE) -> Encoded:
    """The bytes of *value*.

    Args:
        value: Any exact JSON value, bytes, or text.
        argument: Its name, for the error.
        max_bytes: The largest value, before it is compressed.
        compress_above: Larger values are compressed, if that makes them smaller.

    Raises:
        InvalidValueError: The value is of another type, not exact JSON, or too large.
    """
    if isinstance(value, bytes):
        codec, data = "bytes", bytes(value)
    elif isinstance(value, str):
        try:
            codec, data = "str", value.encode()
        except UnicodeEncodeError:  # A lone surrogate, which JSON can escape.
            codec, data = "json", exactjson.encode(value, argument, max_bytes=max_bytes)[0]
    elif isinstance(value, bytearray | memoryview):
        if not exactjson.is_lenient(max_bytes):
            raise InvalidValueError(argument, f"is a {type(value).__name__}, which can change later; pass bytes")
        codec, data = "bytes", bytes(value)
    else:
        codec, data = "json", exactjson.encode(value, argument, max_bytes=max_bytes)[0]
    if len(data) > max_bytes:
        raise InvalidValueError(
            argument, f"is {len(data):,} bytes long, more than the limit of {max_bytes:,}; keep large data elsewhere"
        )
    if len(data) > compress_above:
        packed = zstd.compress(data)
        if len(packed) < len(data):
            return Encoded(packed, codec + _ZSTD)
    return Encoded(data, codec)


def decode(data: bytes, codec: str, *, max_bytes: int = exactjson.MAX_BYTES) -> Any:
    """The value that `encode` was given.

    Args:
        data: The stored bytes.
        codec: The codec stored with them.
        max_bytes: The largest value that the reader's own store may write. A value larger than this, and larger than
            any store writes by default, is not decompressed: a few kilobytes can become a gigabyte.

    Raises:
        DatabaseError: The codec is unknown, the bytes do not match it, or the value is too large.
    """
    kind = codec.removesuffix(_ZSTD)
    try:
        plain = _plain(data, codec, max_bytes)
        if kind == "json":
            return exactjson.loads(plain)
        if kind == "str":
            return plain.decode()
        if kind == "bytes":
            return plain
    except (zstd.ZstdError, ValueError):
        raise DatabaseError(f"a cached value is damaged: its bytes are not {codec}; invalidate it") from None
    raise DatabaseError(
        f"a cached value has the codec {codec!r}, which a newer version of statestore must have written"
    )


def same(one: Encoded, other: Encoded) -> bool:
    """Whether both are the same value, however each was compressed; false if one of them is damaged."""
    if one.codec.removesuffix(_ZSTD) != other.codec.removesuffix(_ZSTD):
        return False
    try:
        most = max(exactjson.MAX_BYTES, len(one.data), len(other.data))
        return _plain(one.data, one.codec, most) == _plain(other.data, other.codec, most)
    except (zstd.ZstdError, ValueError, DatabaseError):
        return False


def _plain(data: bytes, codec: str, max_bytes: int) -> bytes:
    return _decompress(data, max(max_bytes, exactjson.MAX_BYTES)) if codec.endswith(_ZSTD) else bytes(data)


def _decompress(data: bytes, most: int) -> bytes:
    decompressor = zstd.ZstdDecompressor(options=_OPTIONS)
    plain = decompressor.decompress(data, max_length=most + 1)
    if len(plain) > most:
        raise DatabaseError(
            f"a cached value is larger than {most:,} bytes when decompressed; invalidate it, or raise max_value_bytes"
        )
    if not decompressor.eof or decompressor.unused_data:
        raise ValueError("not one whole frame")
    return plain
