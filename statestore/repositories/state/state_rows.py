"""The state of a session as a whole: read, compared and written by those who hold the session's row."""

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from statestore.checking import exactjson
from statestore.engine.sql import Link, Statement
from statestore.errors import ConflictError, DatabaseError

_FRESH = "(e.expires_at IS NULL OR e.expires_at > $now)"

_READ = Statement(f"""
    SELECT e.key, CAST(e.value AS text), e.version FROM $state_entries AS e
    WHERE e.namespace = :namespace AND e.session_id = :session_id AND {_FRESH} ORDER BY e.key""")

_VERSIONS_OF = Statement(f"""
    SELECT e.key, e.version FROM $state_entries AS e
    WHERE e.namespace = :namespace AND e.session_id = :session_id AND {_FRESH} AND e.key $in(:keys)""")

# A key that has expired but was not swept yet starts again at version 1.
_SET = Statement("""
    INSERT INTO $state_entries AS e (namespace, session_id, key, value, updated_at)
    VALUES (:namespace, :session_id, :key, :value, $now)
    ON CONFLICT (namespace, session_id, key) DO UPDATE SET value = excluded.value, updated_at = excluded.updated_at,
        expires_at = NULL, version = CASE WHEN e.expires_at <= excluded.updated_at THEN 1 ELSE e.version + 1 END""")

_DELETE = Statement("""
    DELETE FROM $state_entries WHERE namespace = :namespace AND session_id = :session_id AND key = :key""")


def value(session_id: str, key: str, text: str) -> Any:
    """The value of a key, from the text that is stored.

    Raises:
        DatabaseError: It is damaged.
    """
    try:
        return exactjson.loads(text)
    except orjson.JSONDecodeError:
        pass  # Not raised from here: the error would hold this one, and this one holds the text.
    raise damaged(session_id, key)


def damaged(session_id: str, key: str) -> DatabaseError:
    """The error to raise if the value of a key is no longer JSON."""
    place = f"key {key!r} of session {session_id!r}"
    return exactjson.damaged("state_entries", place, session_id=session_id, key=key)


def read(link: Link, session_id: str) -> dict[str, tuple[str, int]]:
    """The JSON text and the version of each key."""
    return {key: (text, version) for key, text, version in link.all(_READ, session_id=session_id)}


def check_versions(link: Link, session_id: str, keys: Sequence[str], expected: Mapping[str, int]) -> None:
    """Make sure that *keys* have the versions expected, 0 for those that are not to exist.

    Raises:
        ConflictError: One has another.
    """
    actual: dict[str, int] = dict(link.all(_VERSIONS_OF, session_id=session_id, keys=list(keys)))
    for key in keys:
        if actual.get(key, 0) != expected.get(key, 0):
            raise ConflictError(
                f"state key {key!r} of session {session_id!r} has changed since it was read; read it again",
                session_id=session_id,
                key=key,
                expected=expected.get(key, 0),
                actual=actual.get(key, 0),
            )


def write(link: Link, session_id: str, texts: Mapping[str, str], deleted: Sequence[str]) -> None:
    """Set some keys to JSON texts, and remove others."""
    link.many(_SET, [{"key": key, "value": text} for key, text in texts.items()], session_id=session_id)
    link.many(_DELETE, [{"key": key} for key in deleted], session_id=session_id)
