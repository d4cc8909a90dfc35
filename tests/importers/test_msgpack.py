"""Reading MessagePack as plain data."""

from typing import Any

import pytest

from statestore import InvalidValueError
from statestore.importers.msgpack import Extension, loads, parts

VALUES: list[tuple[str, Any]] = [
    ("00", 0), ("7f", 127), ("ff", -1), ("e0", -32), ("c0", None), ("c2", False), ("c3", True),
    ("cc80", 128), ("cd0100", 256), ("ce00010000", 65536), ("cf0000000100000000", 2**32),
    ("d080", -128), ("d18000", -(2**15)), ("d280000000", -(2**31)), ("d38000000000000000", -(2**63)),
    ("cb3ff8000000000000", 1.5), ("ca3fc00000", 1.5), ("a0", ""), ("a2c3a4", "ä"), ("d90161", "a"),
    ("da000161", "a"), ("db0000000161", "a"), ("c401ff", b"\xff"), ("c50001ff", b"\xff"), ("c600000001ff", b"\xff"),
    ("920102", [1, 2]), ("dc000101", [1]), ("dd0000000101", [1]), ("81a16101", {"a": 1}), ("de0001a16101", {"a": 1}),
    ("df0000000101c0", {1: None}), ("d4050a", Extension(5, b"\n")), ("d507aabb", Extension(7, b"\xaa\xbb")),
    ("d6ff00000000", Extension(-1, bytes(4))), ("c70305010203", Extension(5, b"\1\2\3")),
    ("c8000105ff", Extension(5, b"\xff")), ("c90000000105ff", Extension(5, b"\xff")),
    ("d700" + "00" * 8, Extension(0, bytes(8))), ("d800" + "00" * 16, Extension(0, bytes(16))),
]  # fmt: skip


@pytest.mark.parametrize(("data", "value"), VALUES)
def test_each_kind_of_value_is_read(data: str, value: Any) -> None:
    found = loads(bytes.fromhex(data), "it")
    assert (found, type(found)) == (value, type(value))


def test_the_values_of_a_map_are_found_as_bytes() -> None:
    members = {chr(97 + n): bytes.fromhex(data) for n, (data, _) in enumerate(VALUES[:15])}
    data = bytes([0x8F]) + b"".join(b"\xa1" + key.encode() + value for key, value in members.items())
    assert parts(data, "it") == members
    assert parts(bytes.fromhex("de0001a161") + b"\x92\1\2", "it") == {"a": b"\x92\1\2"}
    assert parts(b"\x80", "it") == {}


@pytest.mark.parametrize("data", ["", "a2c3", "c1", "92", "d4", "c405ff", "81a1", "a1ff", "cd01", "91" * 600 + "00"])
def test_what_is_damaged_says_where(data: str) -> None:
    with pytest.raises(InvalidValueError, match=r"^it: .*MessagePack"):
        loads(bytes.fromhex(data), "it")
    with pytest.raises(InvalidValueError, match=r"^it: .*MessagePack"):
        parts(b"\x81\xa1a" + bytes.fromhex(data), "it")
