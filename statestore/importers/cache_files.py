"""Cache entries as files: JSON Lines with one object per entry, and the cache.json of Conexus.

A line has all fields of `CacheEntry`. Its `codec` says what `value` is: JSON as it is, text, or bytes in base64.

Conexus saves its Go structs as one JSON object by key: `Key`, `Output`, `Metadata` with `Agent`, `Request`,
`ContentHash` and `Tags`, `CreatedAt`, `LastAccessed`, `AccessCount`. How long an entry lives is not in the file but in
its configuration, an hour by default. The reader is tolerant: a field may also be spelled in snake or camel case, and
be inside or beside the metadata.
"""

import base64
import binascii
import os
import re
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import closing, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import chain
from typing import TYPE_CHECKING, Any, BinaryIO, Final, Literal, TypeAlias

from statestore.checking import checks, exactjson, json_files
from statestore.errors import InvalidValueError
from statestore.importers.json_lines import Source, check_source, name_of, unreadable
from statestore.importers.problems import check_store
from statestore.values.cache import CacheEntry
from statestore.values.markers import NEVER, NeverType

if TYPE_CHECKING:
    from statestore.store import StateStore

CacheFormat: TypeAlias = Literal["auto", "statestore", "conexus"]

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
        "keep_until",
    }
)

# Matches the beginning, since the line may be cut off.
_BEGINNING = re.compile(rb'\{\s*"key"\s*:\s*"')


@dataclass(frozen=True, slots=True)
class CacheReport:
    """What an import of cache entries has done."""

    restored: int
    """Entries that are now in the cache as they are in the file."""
    expired: int
    """Entries that were left out because they had expired."""
    newer: int
    """Entries that were left out because their keys have been set again since."""


def cache_entries(
    store: "StateStore", source: Source, *, format: CacheFormat = "auto", ttl: timedelta | NeverType | None = None
) -> CacheReport:
    """Import the entries of a file that `statestore cache export` wrote, or of Conexus' cache.json.

    They keep their times, and replace older entries of the same keys. Expired entries are left out, and so are entries
    whose keys have been set again since. Either all of the others are imported or none, in one transaction. Repeating
    the import changes nothing.

    Args:
        store: The store to import into. Its limits apply: a store opened with `cache_max_entries=None` evicts nothing.
        source: The path of a file, or a file that is open for reading in binary. A line, and a cache.json as a whole,
            may have 128 MiB.
        format: What wrote the file. By default its beginning decides.
        ttl: How long entries of Conexus live, since its files do not say; NEVER for no expiry, by default an hour.

    Raises:
        InvalidValueError: An argument cannot be used, or the file cannot be read, or something in it is not an entry;
            the message names the file and the place in it. Nothing was written.
        DatabaseError: The database failed. Nothing was written.
    """
    check_store(store)
    check_source(source)
    checks.one_of(format, ("auto", "statestore", "conexus"), "format")
    if ttl is not NEVER:
        checks.ttl(ttl, "ttl", hint="use NEVER for no expiry")
    with closing(_placed(source, format, ttl)) as entries:
        return restore(store, entries)


def _placed(
    source: Source, format: CacheFormat, ttl: timedelta | NeverType | None
) -> Generator[tuple[str, CacheEntry], None, None]:
    """The entries of a file, each with the file and its place in it. A *source* given by path is closed."""
    name = name_of(source)
    try:
        with open(source, "rb") if isinstance(source, str | os.PathLike) else nullcontext(source) as file:
            for where, entry in read(file, format, ttl):
                yield f"{name}: {where}", entry
    except InvalidValueError as error:
        raise InvalidValueError(name, str(error)) from None
    except OSError as error:
        raise InvalidValueError(name, unreadable(error)) from error


def read(file: BinaryIO, format: CacheFormat, ttl: timedelta | NeverType | None) -> Iterator[tuple[str, CacheEntry]]:
    """The entries of a file, each with its place in it: line by line, or all at once if the file is one document.

    Raises:
        InvalidValueError: Something is not an entry; the message begins with its place.
    """
    lines = json_files.lines(file)
    first = next(lines, (1, b""))
    if format == "auto":
        format = "statestore" if written_by_dump(first[1]) else "conexus"
    if format == "statestore":
        yield from load(line for _, line in chain([first], lines))
        return
    if ttl is None:
        ttl = CONEXUS_TTL
    yield from load_conexus(first[1] + json_files.whole(file), ttl=None if ttl is NEVER else ttl)


def restore(store: "StateStore", entries: Iterable[tuple[str, CacheEntry]]) -> CacheReport:
    """Put entries, each given with its place in a file, into the cache; all or none.

    Raises:
        InvalidValueError: An entry cannot be stored; the message begins with its place. Nothing was written.
    """
    now = datetime.now(UTC)
    restored = expired = newer = 0
    with store.transaction() as tx:
        for where, entry in entries:
            try:
                taken = tx.cache.restore(entry)
            except InvalidValueError as error:
                raise InvalidValueError(where, str(error)) from None
            if taken:
                restored += 1
            elif entry.expires_at is not None and entry.expires_at <= now:
                expired += 1
            else:
                newer += 1
    return CacheReport(restored, expired, newer)


def dump(entry: CacheEntry) -> bytes:
    """The line for an entry, with its newline."""
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
    if entry.expires_at is not None and entry.stale_ttl is not None:
        record["keep_until"] = entry.expires_at + entry.stale_ttl
    return exactjson.record(record).encode() + b"\n"


def written_by_dump(data: bytes) -> bool:
    """Whether `dump` seems to have written a file, even if the file was cut off."""
    first = data.split(b"\n", 1)[0].strip()
    # A line from `dump` is a whole object that begins with the key; Conexus writes one object over many lines.
    return not first or _BEGINNING.match(first) is not None or (first.endswith(b"}") and b'"codec"' in first)


def load(lines: Iterable[bytes]) -> Iterator[tuple[str, CacheEntry]]:
    """The entries of a file that `dump` wrote, each with its place.

    Raises:
        InvalidValueError: A line is not an entry; the message says which line and why.
    """
    for number, line in enumerate(lines, start=1):
        if line.strip():
            yield f"line {number}", _entry(line, f"line {number}")


def _entry(line: bytes, where: str) -> CacheEntry:
    record = json_files.parse(line, where)
    if not isinstance(record, dict) or not {"key", "codec", "value", "created_at"} <= record.keys() <= _FIELDS:
        raise InvalidValueError(where, "is not a cache entry that 'statestore cache export' wrote")
    created_at = _time(record["created_at"], where)
    if created_at is None:
        raise InvalidValueError(where, "has no created_at")
    metadata = record.get("metadata")
    expires_at, keep_until = (_time(record.get(name), where) for name in ("expires_at", "keep_until"))
    if keep_until is not None and (expires_at is None or keep_until < expires_at):
        raise InvalidValueError(where, "has a keep_until that is earlier than its expires_at")
    return CacheEntry(
        key=record["key"],
        value=_value(record["value"], record["codec"], where),
        agent_name=record.get("agent_name"),
        request=record.get("request"),
        content_hash=record.get("content_hash"),
        metadata={} if metadata is None else metadata,
        tags=tuple(_list(record.get("tags"), where)),
        size_bytes=0,
        created_at=created_at,
        expires_at=expires_at,
        last_accessed_at=_time(record.get("last_accessed_at"), where) or created_at,
        access_count=record.get("access_count", 0),
        stale_ttl=None if expires_at is None or keep_until in (None, expires_at) else keep_until - expires_at,
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
            raise InvalidValueError(where, "has bytes that are not base64") from None
    raise InvalidValueError(where, "has a value that does not match its codec, which is json, str or bytes")


def load_conexus(data: bytes, *, ttl: timedelta | None) -> list[tuple[str, CacheEntry]]:
    """The entries of Conexus' cache.json, the least recently used first, each with its place.

    Args:
        data: The content of the file.
        ttl: How long an entry lives if it does not say so itself; None for no expiry.

    Raises:
        InvalidValueError: The file is something else; the message says where and why.
    """
    found = json_files.parse(data, "cache.json")
    if isinstance(found, dict) and set(found) == {"entries"}:
        found = found["entries"]
    if isinstance(found, dict):
        pairs = list(found.items())
    elif isinstance(found, list):
        pairs = [(None, one) for one in found]
    else:
        raise InvalidValueError("cache.json", "has no entries; Conexus saves them as an object by key")
    entries = [
        (f"entry {number}", _conexus_entry(key, one, f"entry {number}", ttl))
        for number, (key, one) in enumerate(pairs, start=1)
    ]
    return sorted(entries, key=lambda entry: entry[1].last_accessed_at)


def _conexus_entry(key: str | None, given: Any, where: str, ttl: timedelta | None) -> CacheEntry:
    if not isinstance(given, Mapping):
        raise InvalidValueError(where, "is not an object")
    fields = _plain(given)
    metadata = fields.get("metadata")
    if isinstance(metadata, Mapping):
        fields = _plain(metadata) | fields
    key = fields.get("key") or key
    created_at = _time(_first(fields, "createdat", "created"), where)
    value = _first(fields, "output", "response", "value", "result")
    if not isinstance(key, str) or created_at is None or not fields.keys() & {"output", "response", "value", "result"}:
        raise InvalidValueError(where, "lacks Key, Output or CreatedAt; is it a cache entry of Conexus?")
    expires_at = _time(_first(fields, "expiresat", "expires"), where)
    own_ttl = fields.get("ttl")
    if isinstance(own_ttl, int) and own_ttl > 0:
        ttl = timedelta(microseconds=own_ttl // 1000)  # Go counts durations in nanoseconds.
    if expires_at is None and ttl is not None:
        try:
            expires_at = created_at + ttl
        except OverflowError:
            raise InvalidValueError(where, "expires after the year 9999") from None
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
    """The fields by lower-case names without underscores: CreatedAt, createdAt and created_at are the same."""
    return {name.replace("_", "").lower(): value for name, value in given.items()}


def _first(fields: Mapping[str, Any], *names: str) -> Any:
    return next((fields[name] for name in names if fields.get(name) is not None), None)


def _list(value: Any, where: str) -> list[str]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise InvalidValueError(where, "has tags that are not a list")
    return value


def _time(value: Any, where: str) -> datetime | None:
    """A time; None if there is none, and for Go's zero time."""
    if value is None or value == "":
        return None
    try:
        # Go writes up to nine digits of a second.
        found = datetime.fromisoformat(re.sub(r"(\.\d{6})\d+", r"\1", value))
        found = found.astimezone(UTC) if found.tzinfo is not None else found.replace(tzinfo=UTC)
    except (TypeError, ValueError, OverflowError):
        raise InvalidValueError(where, "has a time that is not in ISO 8601, as in 2026-01-31T12:00:00Z") from None
    return None if found.year == 1 else found
