"""Cache entries as files: one JSON object in a line, and the cache.json of Conexus.

A line holds all that `CacheEntry` does. Its `codec` says what `value` is: JSON as it stands, text, or bytes in base64.

Conexus saves a JSON object by key, of its Go structs: `Key`, `Output`, `Metadata` with `Agent`, `Request`,
`ContentHash` and `Tags`, `CreatedAt`, `LastAccessed`, `AccessCount`. How long an entry lives is not in the file but in
its configuration, an hour by default. Read tolerantly: a field may be spelled in snake or camel case, too, and stand
beside or within the metadata.
"""

import base64
import binascii
import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import orjson

from statestore.errors import InvalidValueError
from statestore.values import CacheEntry

CONEXUS_TTL: Final = timedelta(hours=1)

_FIELDS = frozenset(
    {
        "key",
        "codec",
        "value",
        "agent_name",
        "request",
        "content_hash",
        "metadata",
        "tags",
        "created_at",
        "expires_at",
        "last_accessed_at",
        "access_count",
    }
)


def dump(entry: CacheEntry) -> bytes:
    """The line of an entry, with its end."""
    value = entry.value
    codec = "bytes" if isinstance(value, bytes) else "str" if isinstance(value, str) else "json"
    record = {
        "key": entry.key,
        "codec": codec,
        "value": base64.b64encode(value).decode() if codec == "bytes" else value,
        "agent_name": entry.agent_name,
        "request": entry.request,
        "content_hash": entry.content_hash,
        "metadata": entry.metadata,
        "tags": list(entry.tags),
        "created_at": entry.created_at,
        "expires_at": entry.expires_at,
        "last_accessed_at": entry.last_accessed_at,
        "access_count": entry.access_count,
    }
    return orjson.dumps(record, option=orjson.OPT_UTC_Z | orjson.OPT_APPEND_NEWLINE)


def load(lines: Iterable[bytes]) -> Iterator[CacheEntry]:
    """The entries of a file that `dump` wrote.

    Raises:
        InvalidValueError: A line is no entry; the message says which and why.
    """
    for number, line in enumerate(lines, start=1):
        if line.strip():
            yield _entry(line, f"line {number}")


def _entry(line: bytes, where: str) -> CacheEntry:
    try:
        record = orjson.loads(line)
    except orjson.JSONDecodeError:
        raise InvalidValueError(where, "is not JSON") from None
    if not isinstance(record, dict) or not {"key", "codec", "value", "created_at"} <= record.keys() <= _FIELDS:
        raise InvalidValueError(where, "is not a cache entry that 'statestore cache export' wrote")
    created_at = _time(record["created_at"], where)
    if created_at is None:
        raise InvalidValueError(where, "has no created_at")
    return CacheEntry(
        key=record["key"],
        value=_value(record["value"], record["codec"], where),
        agent_name=record.get("agent_name"),
        request=record.get("request"),
        content_hash=record.get("content_hash"),
        metadata=record.get("metadata") or {},
        tags=tuple(_list(record.get("tags"), where)),
        size_bytes=0,
        created_at=created_at,
        expires_at=_time(record.get("expires_at"), where),
        last_accessed_at=_time(record.get("last_accessed_at"), where) or created_at,
        access_count=record.get("access_count", 0),
    )


def _value(value: Any, codec: Any, where: str) -> Any:
    if codec == "json":
        return value
    if isinstance(value, str) and codec == "str":
        return value
    if isinstance(value, str) and codec == "bytes":
        try:
            return base64.b64decode(value, validate=True)
        except binascii.Error:
            raise InvalidValueError(where, "holds bytes that are not base64") from None
    raise InvalidValueError(where, f"holds a value that is not of its codec, {codec!r}")


def load_conexus(data: bytes, *, ttl: timedelta | None = CONEXUS_TTL) -> list[CacheEntry]:
    """The entries of Conexus' cache.json, the least recently used first.

    Args:
        data: The file.
        ttl: How long an entry lives that does not say it itself; None for no end.

    Raises:
        InvalidValueError: The file is something else; the message says where and why.
    """
    try:
        found = orjson.loads(data)
    except orjson.JSONDecodeError:
        raise InvalidValueError("cache.json", "is not JSON") from None
    if isinstance(found, dict) and set(found) == {"entries"}:
        found = found["entries"]
    if isinstance(found, dict):
        pairs = list(found.items())
    elif isinstance(found, list):
        pairs = [(None, one) for one in found]
    else:
        raise InvalidValueError("cache.json", "holds no entries; Conexus saves them as an object by key")
    entries = [_conexus_entry(key, one, number, ttl) for number, (key, one) in enumerate(pairs, start=1)]
    return sorted(entries, key=lambda entry: entry.last_accessed_at)


def _conexus_entry(key: str | None, given: Any, number: int, ttl: timedelta | None) -> CacheEntry:
    where = f"entry {number}"
    if not isinstance(given, Mapping):
        raise InvalidValueError(where, "is no object")
    fields = _plain(given)
    metadata = fields.get("metadata")
    if isinstance(metadata, Mapping):
        fields = _plain(metadata) | fields
    key = fields.get("key") or key
    created_at = _time(_first(fields, "createdat", "created"), where)
    value = _first(fields, "output", "response", "value", "result")
    if not isinstance(key, str) or created_at is None or not fields.keys() & {"output", "response", "value", "result"}:
        raise InvalidValueError(where, "has no Key, Output or CreatedAt; is it a cache entry of Conexus?")
    expires_at = _time(_first(fields, "expiresat", "expires"), where)
    own_ttl = fields.get("ttl")
    if expires_at is None and isinstance(own_ttl, int) and own_ttl > 0:
        expires_at = created_at + timedelta(microseconds=own_ttl // 1000)  # Go counts durations in nanoseconds.
    elif expires_at is None and ttl is not None:
        expires_at = created_at + ttl
    return CacheEntry(
        key=key,
        value=value,
        agent_name=_first(fields, "agent", "agentid", "agentname") or None,
        request=_first(fields, "request"),
        content_hash=_first(fields, "contenthash") or None,
        metadata={},
        tags=tuple(_list(fields.get("tags"), where)),
        size_bytes=0,
        created_at=created_at,
        expires_at=expires_at,
        last_accessed_at=_time(_first(fields, "lastaccessed", "lastaccessedat"), where) or created_at,
        access_count=_first(fields, "accesscount", "hits") or 0,
    )


def _plain(given: Mapping[str, Any]) -> dict[str, Any]:
    """By names without case and underscores: CreatedAt, createdAt and created_at are one."""
    return {name.replace("_", "").lower(): value for name, value in given.items()}


def _first(fields: Mapping[str, Any], *names: str) -> Any:
    return next((fields[name] for name in names if fields.get(name) is not None), None)


def _list(value: Any, where: str) -> list[str]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise InvalidValueError(where, "has tags that are no list")
    return value


def _time(value: Any, where: str) -> datetime | None:
    """A time; None for none, and for Go's zero time."""
    if value is None or value == "":
        return None
    try:
        # Go writes up to nine digits of a second.
        found = datetime.fromisoformat(re.sub(r"(\.\d{6})\d+", r"\1", value))
        found = found.astimezone(UTC) if found.tzinfo is not None else found.replace(tzinfo=UTC)
    except (TypeError, ValueError, OverflowError):
        raise InvalidValueError(where, f"has a time that is none: {str(value)[:40]!r}") from None
    return None if found.year == 1 else found
