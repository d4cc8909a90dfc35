"""Which sessions a list is to have: conditions on the row `s`, and their parameters."""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

import orjson

from statestore.checking import checks, exactjson
from statestore.checking.namespaces import Chosen
from statestore.engine.sql import Link, Params, Statement
from statestore.engine.sql_parts import in_namespaces, prefix_range
from statestore.errors import InvalidValueError
from statestore.schema.liveness import LIVE_ANYWHERE
from statestore.values.sessions import STATUSES

_MAX_KEYS = 20

# PostgreSQL refuses to look into JSON that has an escaped NUL in some text, and SQLite ends the text there. So escapes
# become text, in what is stored and in what it is compared with: first those of a backslash, so that what is left
# before a u begins an escape. A backslash is followed by a b or a u then, so no two texts become one.
_ESCAPES = (("\\\\", "\\\\b"), ("\\u", "\\\\u"))
_WITHOUT_ESCAPES = "CAST(s.metadata AS text)"
for _old, _new in _ESCAPES:
    _WITHOUT_ESCAPES = f"replace({_WITHOUT_ESCAPES}, '{_old}', '{_new}')"

_TIMES = {"created": "created_at", "active": "last_activity_at"}


# How conditions begin by which an index finds the few sessions that meet them.
_INDEXED = ("s.user_id =", "s.belongs_to =", "s.session_id >=")


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
    namespaces: Chosen | None,
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
    within, names = in_namespaces(namespaces, "s")
    where = [within, "$live" if namespaces is None else LIVE_ANYWHERE, *(f"s.{name} = :{name}" for name in params)]
    params |= names
    if not checks.flag(include_parts, "include_parts") and belongs_to is None:
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
        given_metadata = exactjson.loads(checks.metadata(metadata, "metadata", max_bytes=max_bytes) or "{}")
        if len(given_metadata) > _MAX_KEYS:
            raise InvalidValueError("metadata", f"must have at most {_MAX_KEYS} keys, has {len(given_metadata)}")
        for number, (key, value) in enumerate(given_metadata.items()):
            where.append(f"<metadata {number}>")
            params |= _metadata(link, number, key, value)
    return tuple(where), params


def statement(where: tuple[str, ...], select: Callable[[str], str], *, ordered: str | None = None) -> Statement:
    """A statement with the conditions: what *select* says of them.

    *ordered*: the column of times by which the first few are taken, unless a condition has an index of its own.
    """
    postgresql, sqlite = (" AND ".join(map(write, where)) for write in (_postgresql, _sqlite))
    if ordered is not None and not any(condition.startswith(_INDEXED) for condition in where):
        # SQLite, which has no statistics, would read all of the namespace by its key and sort it. What is true of every
        # time leads it to the index of the namespace's times.
        sqlite += f" AND s.{ordered} > ''"
    return Statement(postgresql=select(postgresql), sqlite=select(sqlite))


def _postgresql(condition: str) -> str:
    """A condition as PostgreSQL takes it."""
    if condition == "<title>":
        return """strpos(lower(s.title COLLATE "C"), lower(CAST(:title_contains AS text) COLLATE "C")) > 0"""
    if not condition.startswith("<metadata "):
        return condition
    number = condition[len("<metadata ") : -1]
    return f"""CASE WHEN strpos(CAST(s.metadata AS text), '\\u') = 0
            THEN CAST(s.metadata -> CAST(:key_{number} AS text) AS text)
                IN (:value_{number}, :other_value_{number})
            ELSE CAST(CAST({_WITHOUT_ESCAPES} AS json) -> CAST(:plain_key_{number} AS text) AS text)
                IN (:plain_value_{number}, :other_plain_value_{number}) END"""


def _sqlite(condition: str) -> str:
    """A condition as SQLite takes it."""
    if condition == "<title>":
        return "instr(lower(s.title), lower(:title_contains)) > 0"
    if not condition.startswith("<metadata "):
        return condition
    number = condition[len("<metadata ") : -1]
    return f"""EXISTS (SELECT 1 FROM json_each({_WITHOUT_ESCAPES}) AS j
            WHERE j.key = :key_{number} AND j.type = :type_{number}
                AND typeof(j.value) = typeof(:value_{number})
                AND (j.value IS :value_{number} OR j.value IS :other_value_{number}))"""


def _metadata(link: Link, number: int, key: str, value: Any) -> Params:
    if isinstance(value, int) and not -checks.MAX_INTEGER - 1 <= value <= checks.MAX_INTEGER:
        # SQLite reads larger ones as floats, and takes different ones for the same.
        raise InvalidValueError("metadata", "asks for an integer beyond 64 bits; SQLite does not compare them exactly")
    escaped_key, _ = exactjson.spellings(key)
    plain_key = orjson.loads(_without_escapes(escaped_key))
    texts = ("0.0", "-0.0") if isinstance(value, float) and value == 0 else exactjson.spellings(value)
    plain_texts = [_without_escapes(text) for text in texts]
    values: tuple[Any, ...]
    if link.dialect.name == "postgresql":
        if "\\u" in escaped_key:  # Then nothing without escapes has the key, and PostgreSQL may not take it.
            key, values = "", (None, None)
        else:
            values = texts
        params = {"key": key, "plain_key": plain_key}
        params |= {"value": values[0], "other_value": values[1]}
        params |= {"plain_value": plain_texts[0], "other_plain_value": plain_texts[1]}
    elif isinstance(value, dict | list):
        params = {"key": plain_key, "type": "object" if isinstance(value, dict) else "array"}
        params |= {"value": plain_texts[0], "other_value": plain_texts[1]}
    else:
        stored = orjson.loads(plain_texts[0])
        kinds = {str: "text", int: "integer", float: "real", bool: str(value).lower(), type(None): "null"}
        same = int(stored) if isinstance(stored, bool) else stored
        params = {"key": plain_key, "type": kinds[type(stored)], "value": same, "other_value": same}
    return {f"{name}_{number}": param for name, param in params.items()}


def _without_escapes(text: str) -> str:
    for old, new in _ESCAPES:
        text = text.replace(old, new)
    return text
