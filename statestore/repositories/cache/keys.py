"""Keys of cached results: the same for the same question, and for no other."""

import hashlib
from typing import Any

from statestore.checking import checks, exactjson


def make_key(agent_name: str, request: Any, permissions: Any = None, *, limit: int = exactjson.MAX_BYTES) -> str:
    """SHA-256 in hex over a canonical JSON array of the three; see `operations.cache.Cache.make_key`."""
    checks.key(agent_name, "agent_name")
    # Each is checked by itself, so that an error names the one that is wrong.
    given = {"request": request, "permissions": permissions}
    parts = [agent_name, *(exactjson.encode(value, name, max_bytes=limit)[1] for name, value in given.items())]
    return hashlib.sha256(exactjson.canonical(parts)).hexdigest()
