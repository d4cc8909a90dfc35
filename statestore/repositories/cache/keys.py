"""Keys of cached results: the same for the same question, and for no other."""

import hashlib
from typing import Any

import orjson

from statestore.checking import checks, exactjson


def make_key(agent_name: str, request: Any, permissions: Any = None) -> str:
    """SHA-256 in hex over a canonical JSON array of the three; see `operations.cache.Cache.make_key`."""
    checks.key(agent_name, "agent_name")
    # Each is checked by itself, so that an error names the one that is wrong.
    parts = [agent_name, exactjson.encode(request, "request")[1], exactjson.encode(permissions, "permissions")[1]]
    return hashlib.sha256(orjson.dumps(parts, option=orjson.OPT_SORT_KEYS)).hexdigest()
