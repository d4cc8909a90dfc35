"""Which sessions a list is to have: conditions on the row `s`, and their parameters."""

import re
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

import orjson

from statestore.checking import checks, exactjson
from statestore.engine.sql import Link, Params, Statement
from statestore.engine.sql_parts import prefix_range
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

_ESCAPED = re.compile("[\0\ud800-\udfff]")

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
        where.append("s.session_id >= :id_prefix AND s.session_id < :id_end")
        params["id_prefix"], params["id_end"] = prefix_range(prefix)
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
        # As it would be stored: a lenient store converts it.
        wanted = exactjson.loads(checks.metadata(metadata, "metadata", max_bytes=max_bytes) or "{}")
        if len(wanted) > _MAX_KEYS:
            raise InvalidValueError("metadata", f"must have at most {_MAX_KEYS} keys, has {len(wanted)}")
        for number, (key, value) in enumerate(wanted.items()):
            where.append(f"<{'large' if _is_large(value) else 'metadata'} {number}>")
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
    number = _number(condition)
    if number is None:
        return condition
    return f"""CASE WHEN strpos(CAST(s.metadata AS text), '\\u') = 0
            THEN CAST(s.metadata -> CAST(:key_{number} AS text) AS text) IN (:value_{number}, :other_{number})
            ELSE CAST(CAST({_WITHOUT_ESCAPES} AS json) -> CAST(:plain_key_{number} AS text) AS text)
                IN (:plain_value_{number}, :plain_other_{number}) END"""


def _sqlite(condition: str) -> str:
    """A condition as SQLite takes it."""
    if condition == "<title>":
        return "instr(lower(s.title), lower(:title_contains)) > 0"
    number = _number(condition)
    if number is None:
        return condition
    # SQLite makes a float of an integer beyond 64 bits: all its digits stand behind the key, in the text.
    digits = f"""AND (instr({_WITHOUT_ESCAPES}, :member_{number} || ',') > 0
                OR instr({_WITHOUT_ESCAPES}, :member_{number} || '}}') > 0)"""
    return f"""EXISTS (SELECT 1 FROM json_each({_WITHOUT_ESCAPES}) AS j
            WHERE j.key = :key_{number} AND j.type = :type_{number}
                AND (j.value IS :value_{number} OR j.value IS :other_{number})
                {digits if condition.startswith("<large") else ""})"""


def _number(condition: str) -> str | None:
    """Which key of the metadata a condition is on."""
    return condition[1:-1].split()[1] if condition.startswith(("<metadata ", "<large ")) else None


def _is_large(value: Any) -> bool:
    return isinstance(value, int) and not -(2**63) <= value < 2**63


def _metadata(link: Link, number: int, key: str, value: Any) -> Params:
    """The value may stand there as either of two texts."""
    key_text = exactjson.texts(key)[1]
    texts = exactjson.texts(value)
    plain_key = orjson.loads(_without_escapes(key_text))
    plain_texts = [_without_escapes(text) for text in texts]
    if link.dialect.name == "postgresql":
        escaped = _ESCAPED.search(key) is not None  # Then no key without escapes is this one.
        return {
            f"key_{number}": None if escaped else key,
            f"value_{number}": texts[0],
            f"other_{number}": texts[1],
            f"plain_key_{number}": plain_key,
            f"plain_value_{number}": plain_texts[0],
            f"plain_other_{number}": plain_texts[1],
        }
    kind: str
    given: list[Any]
    if isinstance(value, dict | list):
        kind, given = "array" if isinstance(value, list) else "object", plain_texts
    elif isinstance(value, bool):
        kind, given = str(value).lower(), [int(value)]
    elif value is None:
        kind, given = "null", [None]
    elif isinstance(value, int):
        kind, given = "integer", [float(texts[0]) if _is_large(value) else value]
    else:
        kind, given = ("real", [value]) if isinstance(value, float) else ("text", [orjson.loads(plain_texts[0])])
    return {
        f"key_{number}": plain_key,
        f"type_{number}": kind,
        f"value_{number}": given[0],
        f"other_{number}": given[-1],
        f"member_{number}": f"{_without_escapes(key_text)}:{texts[0]}",
    }


def _without_escapes(text: str) -> str:
    for old, new in _ESCAPES:
        text = text.replace(old, new)
    return text
