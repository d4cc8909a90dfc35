"""The key-value state of a session."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from functools import lru_cache
from typing import Any

import orjson

from statestore import schema
from statestore.checking import checks
from statestore.engine.calls import reads, writes_in_one_statement, writes_once
from statestore.engine.columns import Columns, fields_of
from statestore.engine.sql import Row, Statement
from statestore.engine.sql_parts import numbered, value_rows
from statestore.errors import ConflictError, InvalidValueError, StateKeyNotFoundError
from statestore.repositories.base import Repository
from statestore.repositories.sessions import holding, session_rows
from statestore.repositories.state import state_rows
from statestore.values.fast_dataclass import builder
from statestore.values.markers import MISSING
from statestore.values.state import StateEntry

_ENTRY = Columns(schema.state_entries, *fields_of(StateEntry))
_entry = builder(StateEntry)
# Keys per statement: each takes two parameters, of at most 65,535.
_CHUNK = 1000

_FRESH = "(e.expires_at IS NULL OR e.expires_at > $now)"
# The same for RETURNING on SQLite, which does not allow an alias there; and SQLite 3.40 evaluates `expires_at IS NULL`
# to false there, since the partial index on the column contains no NULL.
_FRESH_RETURNED = "coalesce(expires_at > $now, 1)"

# The session is returned with or without a value, so one round trip tells a missing key from a missing session.
_GET = Statement(f"""
    SELECT {session_rows.EXTENSION_DUE}, {_ENTRY.select("e")}
    FROM $sessions AS s
    LEFT JOIN $state_entries AS e ON e.namespace = s.namespace AND e.session_id = s.session_id AND e.key = :key
        AND {_FRESH}
    WHERE s.namespace = :namespace AND s.session_id = :session_id AND $live""")

_GET_ALL = Statement(f"""
    SELECT {session_rows.EXTENSION_DUE}, {_ENTRY.select("e")}
    FROM $sessions AS s
    LEFT JOIN $state_entries AS e ON e.namespace = s.namespace AND e.session_id = s.session_id AND {_FRESH}
    WHERE s.namespace = :namespace AND s.session_id = :session_id AND $live ORDER BY e.key""")

_SESSION = f"""
    UPDATE $sessions AS s SET {session_rows.ACTIVE}
    WHERE s.namespace = :namespace AND s.session_id = :session_id AND $live RETURNING s.session_id"""

# A key that has expired but was not swept yet starts again at version 1.
_REPLACE = """
    ON CONFLICT (namespace, session_id, key) DO UPDATE SET value = excluded.value, updated_at = excluded.updated_at,
        expires_at = excluded.expires_at, version = CASE
            WHEN e.expires_at <= excluded.updated_at THEN 1 ELSE e.version + 1 END"""

_UPSERT = Statement(f"""
    INSERT INTO $state_entries AS e (namespace, session_id, key, value, updated_at, expires_at)
    VALUES (:namespace, :session_id, :key, :value, $now, $later(CAST(:ttl AS interval))) {_REPLACE}
    RETURNING {_ENTRY.select()}""")

_SET_VALUE = Statement("""
    UPDATE $state_entries SET value = :value, version = version + 1, updated_at = $now
    WHERE namespace = :namespace AND session_id = :session_id AND key = :key""")

_DELETE = Statement(
    postgresql=f"""
    WITH session AS ({_SESSION}), deleted AS (
        DELETE FROM $state_entries AS e USING session
        WHERE e.namespace = :namespace AND e.session_id = session.session_id AND e.key = :key
        RETURNING {_FRESH} AS fresh)
    SELECT coalesce((SELECT fresh FROM deleted), false) FROM session""",
    sqlite=f"""
    DELETE FROM $state_entries AS e
    WHERE e.namespace = :namespace AND e.session_id = :session_id AND e.key = :key RETURNING {_FRESH_RETURNED}""",
)

_CLEAR = Statement(
    postgresql=f"""
    WITH session AS ({_SESSION}), deleted AS (
        DELETE FROM $state_entries AS e USING session
        WHERE e.namespace = :namespace AND e.session_id = session.session_id
        RETURNING {_FRESH} AS fresh)
    SELECT (SELECT count(*) FROM deleted WHERE fresh) FROM session""",
    sqlite=f"""
    DELETE FROM $state_entries AS e
    WHERE e.namespace = :namespace AND e.session_id = :session_id RETURNING {_FRESH_RETURNED}""",
)


@lru_cache(maxsize=128)
def _set_many(count: int) -> Statement:
    """Mark the session as active and write *count* keys, in one statement of PostgreSQL."""
    values = value_rows("(CAST(:key_# AS varchar), CAST(:value_# AS json))", count)
    return Statement(
        postgresql=f"""
        WITH session AS ({_SESSION})
        INSERT INTO $state_entries AS e (namespace, session_id, key, value, updated_at, expires_at)
        SELECT :namespace, session.session_id, v.key, v.value, $now, $later(CAST(:ttl AS interval))
        FROM session, (VALUES {values}) AS v (key, value)
        {_REPLACE}
        RETURNING {_ENTRY.select()}"""
    )


class StateRepository(Repository):
    """Named values of a session. Writers of different keys never overwrite each other."""

    @writes_in_one_statement
    def set(
        self,
        session_id: str,
        key: str,
        value: Any,
        *,
        ttl: timedelta | None = None,
        expected_version: int | None = None,
    ) -> StateEntry:
        """Write one key, and extend the session's TTL.

        Args:
            session_id: The session.
            key: 1 to 512 characters.
            value: Any exact JSON value, None included.
            ttl: How long after this write the key expires; by default not before the session.
            expected_version: Write only if the key has this version now; 0 for a key that must not exist.

        Returns:
            The key as stored, with its new version.

        Raises:
            SessionNotFoundError: No such session, or it has expired. Nothing was written.
            ConflictError: The key does not have the expected version. Nothing was written.
            InvalidValueError: The value is not exact JSON or is too large. Nothing was written.
        """
        checks.optional_count(expected_version, "expected_version")
        checks.key(session_id, "session_id")
        checks.key(key, "key")
        text = self._once("value", lambda: self._json(value, "value"))
        if expected_version is not None:
            self._call.repeatable = False  # A second try would find the version that the first one wrote.
            self._needs_transaction()
            session_rows.mark_active(self._link, session_id)
            self._expect(session_id, key, expected_version)
        return self._write(session_id, {key: text}, checks.ttl(ttl))[0]

    @writes_in_one_statement
    def set_many(
        self, session_id: str, values: Mapping[str, Any], *, ttl: timedelta | None = None
    ) -> dict[str, StateEntry]:
        """Write several keys at once: all or none. See `set`.

        Returns:
            The keys as stored, in the order given.
        """
        checks.key(session_id, "session_id")
        if not isinstance(values, Mapping):
            raise InvalidValueError("values", f"must be a mapping, not {type(values).__name__}")
        ttl = checks.ttl(ttl)
        texts = self._once(
            "values", lambda: {checks.key(k, "values"): self._json(v, "values") for k, v in values.items()}
        )
        written = {entry.key: entry for entry in self._write(session_id, texts, ttl)}
        return {key: written[key] for key in texts}

    @reads
    def get(self, session_id: str, key: str, default: Any = MISSING) -> Any:
        """The value of a key. Extends the session's TTL.

        Args:
            session_id: The session.
            key: The key.
            default: What to return if there is no such key; by default that is an error.

        Raises:
            SessionNotFoundError: No such session, or it has expired.
            StateKeyNotFoundError: No such key, or it has expired, and no *default* was given.
        """
        found = self._find(session_id, key)
        if found is not None:
            return found.value
        if default is MISSING:
            raise StateKeyNotFoundError(session_id, key)
        return default

    @reads
    def entry(self, session_id: str, key: str) -> StateEntry:
        """A key with its version and times, for `set(…, expected_version=entry.version)`. Extends the session's TTL.

        Raises:
            SessionNotFoundError: No such session, or it has expired.
            StateKeyNotFoundError: No such key, or it has expired.
        """
        found = self._find(session_id, key)
        if found is None:
            raise StateKeyNotFoundError(session_id, key)
        return found

    @reads
    def get_all(self, session_id: str) -> dict[str, Any]:
        """All keys and values, in the order of the keys. Extends the session's TTL.

        Raises:
            SessionNotFoundError: No such session, or it has expired.
        """
        checks.key(session_id, "session_id")
        rows = holding.read(self._link, _GET_ALL, session_id=session_id)
        self._opened(session_id, rows)
        return {key: state_rows.value(session_id, key, text) for _, key, text, *_ in rows if key is not None}

    @writes_in_one_statement
    def delete(self, session_id: str, key: str) -> bool:
        """Remove a key.

        Returns:
            Whether there was one.

        Raises:
            SessionNotFoundError: No such session, or it has expired. Nothing was written.
        """
        checks.key(session_id, "session_id")
        checks.key(key, "key")
        return any(fresh for (fresh,) in self._remove(_DELETE, session_id, key=key))

    @writes_in_one_statement
    def clear(self, session_id: str) -> int:
        """Remove all keys.

        Returns:
            How many there were.

        Raises:
            SessionNotFoundError: No such session, or it has expired. Nothing was written.
        """
        checks.key(session_id, "session_id")
        return sum(number for (number,) in self._remove(_CLEAR, session_id))

    @writes_once
    def increment(
        self, session_id: str, key: str, amount: int | float = 1, *, ttl: timedelta | None = None
    ) -> int | float:
        """Add *amount* to a number, atomically; a missing key counts as 0.

        Args:
            session_id: The session.
            key: A key that holds a number, or none.
            amount: What to add; negative to subtract.
            ttl: As for `set`; by default a key keeps its expiry.

        Returns:
            The new value.

        Raises:
            SessionNotFoundError: No such session, or it has expired. Nothing was written.
            InvalidValueError: The key's value is not a number, or the sum does not fit. Nothing was written.
        """
        checks.key(session_id, "session_id")
        checks.key(key, "key")
        ttl = checks.ttl(ttl)
        if isinstance(amount, bool) or not isinstance(amount, int | float):
            raise InvalidValueError("amount", f"must be a number, not {type(amount).__name__}")
        session_rows.mark_active(self._link, session_id)  # The row's lock makes the read and the write one step.
        held = self._find(session_id, key)
        number = 0 if held is None else held.value
        if isinstance(number, bool) or not isinstance(number, int | float):
            raise InvalidValueError("key", f"{key!r} has a value that is not a number; set a number first")
        try:
            total = number + amount
        except OverflowError:
            raise InvalidValueError("amount", "is too large to be added") from None
        text = self._json(total, "amount")
        if ttl is None and held is not None:
            self._link.run(_SET_VALUE, session_id=session_id, key=key, value=text)
        else:
            self._link.all(_UPSERT, session_id=session_id, key=key, value=text, ttl=ttl)
        return total

    def _write(self, session_id: str, texts: Mapping[str, str], ttl: timedelta | None) -> list[StateEntry]:
        rows: list[Row] = []
        if self._link.dialect.name == "postgresql" and texts:
            if len(texts) > _CHUNK:
                self._needs_transaction()
            keys = list(texts)
            for start in range(0, len(keys), _CHUNK):
                rows += self._write_together(session_id, {key: texts[key] for key in keys[start : start + _CHUNK]}, ttl)
        else:
            self._needs_transaction()
            session_rows.mark_active(self._link, session_id)
            rows = [
                row
                for key, text in texts.items()
                for row in self._link.all(_UPSERT, session_id=session_id, key=key, value=text, ttl=ttl)
            ]
        return [self._entry(session_id, row) for row in rows]

    def _write_together(self, session_id: str, texts: Mapping[str, str], ttl: timedelta | None) -> Sequence[Row]:
        params = numbered(({"key": key, "value": text} for key, text in texts.items()), ("key", "value"))
        rows = self._link.all(_set_many(len(texts)), session_id=session_id, ttl=ttl, **params)
        if not rows:
            raise session_rows.not_found(self._link, session_id)
        return rows

    def _remove(self, statement: Statement, session_id: str, **params: Any) -> list[Row]:
        if self._link.dialect.name == "sqlite":
            session_rows.mark_active(self._link, session_id)
            return list(self._link.all(statement, session_id=session_id, **params))
        rows = self._link.all(statement, session_id=session_id, **params)
        if not rows:
            raise session_rows.not_found(self._link, session_id)
        return list(rows)

    def _find(self, session_id: str, key: str) -> StateEntry | None:
        checks.key(session_id, "session_id")
        checks.key(key, "key")
        rows = holding.read(self._link, _GET, session_id=session_id, key=key)
        _, *entry = self._opened(session_id, rows)
        return None if entry[0] is None else self._entry(session_id, entry)

    def _opened(self, session_id: str, rows: Sequence[Row]) -> Row:
        """The first row. Extends the session's TTL if that row says that it is due."""
        if not rows:
            raise session_rows.not_found(self._link, session_id)
        extension_due, *_ = first = rows[0]
        if extension_due:
            session_rows.extend(self._link, session_id)
        return first

    def _expect(self, session_id: str, key: str, version: int) -> None:
        found = self._find(session_id, key)
        actual = 0 if found is None else found.version
        if actual != version:
            raise ConflictError(
                f"expected_version: state key {key!r} of session {session_id!r} has version {actual}, not {version}; "
                "read it again",
                session_id=session_id,
                key=key,
                expected=version,
                actual=actual,
            )

    def _entry(self, session_id: str, row: Sequence[Any]) -> StateEntry:
        try:
            # In the order of the fields of StateEntry.
            return _entry(*_ENTRY.values(self._link.dialect, row))
        except orjson.JSONDecodeError:
            pass  # Not raised from here: the error would hold this one, and this one holds the value.
        key, *_ = row
        raise state_rows.damaged(session_id, key)
