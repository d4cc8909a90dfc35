"""The state of a session as a whole: read, compared and written by those who hold the session's row."""

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from statestore.checking import exactjson
from statestore.engine.sql import Link, Statement
from statestore.engine.sql_parts import numbered
from statestore.errors import ConflictError
from statestore.repositories.state.scopes import SESSION, STEP, Scope
from statestore.repositories.state.statements import FRESH, SESSION_STATEMENTS, set_many

CHUNK = 1000
"""Keys per statement: each takes two parameters, of at most 65,535."""

_READ = Statement(f"""
    SELECT e.key, CAST(e.value AS text), e.version FROM $state_entries AS e
    WHERE e.namespace = :namespace AND e.session_id = :owner_id AND {FRESH} ORDER BY e.key""")

# On PostgreSQL nobody else changes them from here on. A key that is missing may be made while this waits for the lock:
# whether it was, the write finds out.
_VERSIONS_OF = Statement(
    postgresql=f"""
    WITH {SESSION.alone}
    SELECT e.key, e.version FROM $state_entries AS e, owner
    WHERE e.namespace = :namespace AND e.session_id = :owner_id AND {FRESH} AND e.key $in(:keys)
    ORDER BY e.key FOR UPDATE OF e""",
    sqlite=f"""
    SELECT e.key, e.version FROM $state_entries AS e
    WHERE e.namespace = :namespace AND e.session_id = :owner_id AND {FRESH} AND e.key $in(:keys)""",
)


def value(owner_id: str, key: str, text: str, scope: Scope = SESSION) -> Any:
    """The value of a key, from the text that is stored.

    Raises:
        DatabaseError: It is damaged.
    """
    try:
        return exactjson.loads(text)
    except orjson.JSONDecodeError:
        pass  # Not raised from here: the error would hold this one, and this one holds the text.
    raise scope.damaged(owner_id, key)


def read(link: Link, session_id: str) -> dict[str, tuple[str, int]]:
    """The JSON text and the version of each key, held if the link asks for it."""
    SESSION.hold(link, session_id)
    return {key: (text, version) for key, text, version in link.all(_READ, owner_id=session_id)}


def check_versions(link: Link, session_id: str, keys: Sequence[str], expected: Mapping[str, int]) -> None:
    """Make sure that *keys* have the versions expected, 0 for those that are not to exist.

    Raises:
        ConflictError: One has another.
    """
    SESSION.hold(link, session_id)
    actual: dict[str, int] = dict(link.all(_VERSIONS_OF, owner_id=session_id, keys=list(keys), step=STEP))
    for key in keys:
        if actual.get(key, 0) != expected.get(key, 0):
            raise _changed(session_id, key, expected.get(key, 0), actual.get(key, 0))


def write(
    link: Link,
    session_id: str,
    texts: Mapping[str, str],
    deleted: Sequence[str],
    *,
    expected: Mapping[str, int] | None = None,
) -> None:
    """Set some keys to JSON texts, and remove others. The session's row is locked.

    Args:
        link: Of the transaction.
        session_id: The session.
        texts: The keys to set.
        deleted: The keys to remove.
        expected: The versions that `check_versions` has found.

    Raises:
        ConflictError: A key has been made since `check_versions`. The transaction has to be undone; this does not
            happen in one of the caller's, which holds the state.
    """
    keys = sorted(texts)
    versions: dict[str, int] = {}
    if link.dialect.name == "sqlite":
        for key in keys:
            row = link.one(SESSION_STATEMENTS.set[True], owner_id=session_id, key=key, value=texts[key], ttl=None)
            assert row is not None
            versions[key] = row[2]
    else:
        for start in range(0, len(keys), CHUNK):
            chunk = keys[start : start + CHUNK]
            params = numbered(({"key": key, "value": texts[key]} for key in chunk), ("key", "value"))
            statement = set_many(SESSION, len(chunk), True)
            for _, key, _, version, *_ in link.all(
                statement, owner_id=session_id, ttl=None, step=STEP, always=True, **params
            ):
                versions[key] = version
    for key, version in versions.items():
        if expected is not None and version != expected.get(key, 0) + 1:
            raise _changed(session_id, key, expected.get(key, 0), version - 1)
    if deleted:
        link.all(SESSION_STATEMENTS.delete[True], owner_id=session_id, keys=sorted(deleted), step=STEP, always=True)


def _changed(session_id: str, key: str, expected: int, actual: int) -> ConflictError:
    return ConflictError(
        f"state key {key!r} of session {session_id!r} has changed since it was read; read it again",
        session_id=session_id,
        key=key,
        expected=expected,
        actual=actual,
    )
