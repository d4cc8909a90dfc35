"""Which sessions a list is to have: conditions on the row `s`, and their parameters."""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

import orjson

from statestore.checking import checks, exactjson
from statestore.engine.sql import Link, Params, Statement
from statestore.errors import InvalidValueError
from statestore.values.sessions import STATUSES

_MAX_KEYS = 20

# PostgreSQL refuses to look into JSON that has an escaped NUL in some text, and SQLite ends the text there. So escapes
# become text, in what is stored and in what it is compared with: first those of a backslash, so that what is left
# before a u begins an escape.
_ESCAPES = (("\\\\", "\\b\\b"), ("\\u", "\\\\u"))
_WITHOUT_ESCAPES = "CAST(s.metadata AS text)"
for _old, _new in _ESCAPES:
    _WITHOUT_ESCAPES = f"replace({_WITHOUT_ESCAPES}, '{_old}', '{_new}')"

_TIMES = {"created": "created_at", "active": "last_activity_at"}


def conditions(
    link: Link,
    *,
    user_id: str | None,
    status: str | None,
    agent_name: str | None,
    metadata: Mapping[str, Any] | None,
    title_contains: str | None,
    id_prefix: str | None,
    project_root: str | None,
    created_since: datetime | None,
    created_until: datetime | None,
    active_since: datetime | None,
    active_until: datetime | None,
    belongs_to: str | None,
    include_parts: bool,
) -> tuple[tuple[str, ...], Params]:
    """The conditions for living sessions, and their parameters. See `Sessions.page` for the arguments."""
    max_bytes = link.settings.max_value_bytes
    equal: dict[str, Any] = {
        "user_id": checks.optional_key(user_id, "user_id"),
        "status": None if status is None else checks.one_of(status, STATUSES, "status"),
        "agent_name": checks.optional_key(agent_name, "agent_name"),
        "project_root": checks.optional_text(project_root, "project_root", max_bytes=max_bytes),
        "belongs_to": checks.optional_key(belongs_to, "belongs_to"),
    }
    params = {name: value for name, value in equal.items() if value is not None}
    where = ["s.namespace = :namespace", "$live", *(f"s.{name} = :{name}" for name in params)]
    if belongs_to is None and not include_parts:
        where.append("s.belongs_to IS NULL")
    prefix = checks.optional_key(id_prefix, "id_prefix")
    if prefix is not None:
        where.append("s.session_id >= :id_prefix AND substr(s.session_id, 1, :prefix_length) = :id_prefix")
        params |= {"id_prefix": prefix, "prefix_length": len(prefix)}
    title = checks.optional_text(title_contains, "title_contains", max_bytes=max_bytes)
    if title is not None:
        where.append("<title>")
        params["title_contains"] = title
    times = {
        "created_since": created_since,
        "created_until": created_until,
        "active_since": active_since,
        "active_until": active_until,
    }
    for name, given in times.items():
        at = checks.optional_time(given, name)
        if at is None:
            continue
        column, comparison = _TIMES[name.partition("_")[0]], ">=" if name.endswith("since") else "<"
        where.append(f"s.{column} {comparison} $time(:{name})")
        params[name] = at
        if name == "active_since":  # Which is indexed by the hour.
            where.append("s.active_hour >= $time(:active_hour)")
            params["active_hour"] = at.replace(minute=0, second=0, microsecond=0)
    if metadata is not None:
        checks.metadata(metadata, "metadata", max_bytes=max_bytes)
        if len(metadata) > _MAX_KEYS:
            raise InvalidValueError("metadata", f"must have at most {_MAX_KEYS} keys, has {len(metadata)}")
        for number, (key, value) in enumerate(metadata.items()):
            where.append(f"<metadata {number}>")
            params |= _metadata(link, number, key, value)
    return tuple(where), params


def statement(where: tuple[str, ...], select: Callable[[str], str]) -> Statement:
    """A statement with the conditions: what *select* says of them."""
    return Statement(
        postgresql=select(" AND ".join(map(_postgresql, where))), sqlite=select(" AND ".join(map(_sqlite, where)))
    )


def _postgresql(condition: str) -> str:
    """A condition as PostgreSQL takes it."""
    if condition == "<title>":
        return """strpos(lower(s.title COLLATE "C"), lower(CAST(:title_contains AS text) COLLATE "C")) > 0"""
    if not condition.startswith("<metadata "):
        return condition
    number = condition[len("<metadata ") : -1]
    return f"""CASE WHEN strpos(CAST(s.metadata AS text), '\\u') = 0
            THEN CAST(s.metadata -> CAST(:key_{number} AS text) AS text) = :value_{number}
            ELSE CAST(CAST({_WITHOUT_ESCAPES} AS json) -> CAST(:plain_key_{number} AS text) AS text)
                = :plain_value_{number} END"""


def _sqlite(condition: str) -> str:
    """A condition as SQLite takes it."""
    if condition == "<title>":
        return "instr(lower(s.title), lower(:title_contains)) > 0"
    if not condition.startswith("<metadata "):
        return condition
    number = condition[len("<metadata ") : -1]
    return f"""EXISTS (SELECT 1 FROM json_each({_WITHOUT_ESCAPES}) AS j
            WHERE j.key = :key_{number} AND j.type = :type_{number} AND j.value IS :value_{number})"""


def _metadata(link: Link, number: int, key: str, value: Any) -> Params:
    text = exactjson.dumps(value, "metadata")
    plain_key = orjson.loads(_without_escapes(orjson.dumps(key).decode()))
    plain_text = _without_escapes(text)
    if link.dialect.name == "postgresql":
        return {
            f"key_{number}": key.replace("\0", ""),  # Which no key has that is compared with it.
            f"value_{number}": text,
            f"plain_key_{number}": plain_key,
            f"plain_value_{number}": plain_text,
        }
    stored = orjson.loads(plain_text)
    kinds = {str: "text", int: "integer", float: "real", bool: str(stored).lower(), type(None): "null", list: "array"}
    given = plain_text if isinstance(stored, dict | list) else int(stored) if isinstance(stored, bool) else stored
    return {f"key_{number}": plain_key, f"type_{number}": kinds.get(type(stored), "object"), f"value_{number}": given}


def _without_escapes(text: str) -> str:
    for old, new in _ESCAPES:
        text = text.replace(old, new)
    return text
