"""Ids: time-ordered UUIDs for what the store names, stable UUIDs for what the caller can name again."""

import os
import threading
import time
import uuid

_lock = threading.Lock()
_last = 0


_pool = b""


def _random_bytes() -> bytes:
    """Eight random bytes from the system, which is asked for many at a time: each request is a system call."""
    global _pool
    if len(_pool) < 8:
        _pool = os.urandom(2048)
    found, _pool = _pool[:8], _pool[8:]
    return found


def _forget() -> None:
    global _lock, _pool
    _lock, _pool = threading.Lock(), b""


# A forked process must not go on with the same random bytes, nor wait for a thread that it does not have.
os.register_at_fork(after_in_child=_forget)


def uuid7() -> str:
    """A UUIDv7 (RFC 9562): sorts by creation time, strictly increasing within a process.

    `uuid.uuid7` exists only from Python 3.14 on.
    """
    global _last
    with _lock:
        # 48 bits of milliseconds and 12 bits of their fraction; two ids in one tick take the next tick.
        ticks = max(time.time_ns() * 4096 // 1_000_000, _last + 1)
        _last = ticks
        random = int.from_bytes(_random_bytes(), "big") >> 2
    number = (ticks >> 12) << 80 | 0x7 << 76 | (ticks & 0xFFF) << 64 | 0b10 << 62 | random
    # As uuid.UUID would format it, but that takes five times as long to create.
    text = f"{number:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def derive(namespace: str, *parts: str) -> str:
    """A UUIDv5 that is the same for the same namespace and parts, on every host."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, ":".join((namespace, "session", *parts))))
