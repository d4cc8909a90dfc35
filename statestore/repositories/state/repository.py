"""Keys and values: the state of a session, of a user and of an agent."""

from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any, ClassVar, Literal

from statestore.checking import checks
from statestore.engine.calls import writes_in_one_statement, writes_once_in_one_statement
from statestore.engine.sql import Statement
from statestore.engine.sql_parts import ROWS_SQLITE, numbered
from statestore.errors import ConflictError, InvalidValueError
from statestore.repositories.state import scopes
from statestore.repositories.state.reading import StateReads
from statestore.repositories.state.scopes import Scope
from statestore.repositories.state.state_rows import CHUNK
from statestore.repositories.state.statements import APP_STATEMENTS, USER_STATEMENTS, Statements, set_many
from statestore.values.sessions import NewSession
from statestore.values.state import StateEntry

_ALL = 2**62
# How often an increment is tried beside others of the same key before it queues up with them.
_TRIES = 3


class StateRepository(StateReads):
    """Named values of a session. Writers of different keys neither overwrite each other nor wait for each other.

    A write extends the session's TTL if a tenth of it has passed, or a second; it moves the last activity once a
    second. Reads do as all reads.
    """

    @writes_in_one_statement
    def set(
        self,
        session_id: str,
        key: str,
        value: Any,
        *,
        ttl: timedelta | None = None,
        expected_version: int | None = None,
        only_if: Literal["missing", "present"] | None = None,
        create: bool | NewSession = False,
    ) -> StateEntry | None:
        """Write one key, and extend the session's TTL.

        Args:
            session_id: The session.
            key: 1 to 512 characters.
            value: Any exact JSON value, None included.
            ttl: How long after this write the key expires; by default not before the session.
            expected_version: Write only if the key has this version now; 0 for a key that must not exist.
            only_if: Write only if the key is `missing`, or only if it is `present`; otherwise do nothing. Not together
                with *expected_version*.
            create: Create the session if there is none, or if it has expired: True, or a `NewSession` that says how.

        Returns:
            The key as stored, with its new version; None if *only_if* was not the case.

        Raises:
            SessionNotFoundError: No such session, or it has expired, and *create* is false. Nothing was written.
            ConflictError: The key does not have the expected version. Nothing was written.
            InvalidValueError: The value is not exact JSON or is too large. Nothing was written.
        """
        return self._set(session_id, key, value, ttl, expected_version, only_if, create)

    @writes_in_one_statement
    def set_many(
        self,
        session_id: str,
        values: Mapping[str, Any],
        *,
        ttl: timedelta | None = None,
        only_if: Literal["missing"] | None = None,
        create: bool | NewSession = False,
    ) -> dict[str, StateEntry]:
        """Write several keys at once: all or none. See `set`.

        With `only_if="missing"` those that exist stay as they are, and the others are written.

        Returns:
            The keys that were written, as stored, in the order given.
        """
        return self._set_many(session_id, values, ttl, only_if, create)

    @writes_in_one_statement
    def delete(self, session_id: str, key: str) -> bool:
        """Remove a key.

        Returns:
            Whether there was one.

        Raises:
            SessionNotFoundError: No such session, or it has expired. Nothing was written.
        """
        self._owner(session_id)
        return self._remove(session_id, self._sql.delete, keys=[checks.key(key, "key")]) > 0

    @writes_in_one_statement
    def delete_many(self, session_id: str, keys: Iterable[str]) -> int:
        """Remove several keys.

        Returns:
            How many of them there were.

        Raises:
            SessionNotFoundError: No such session, or it has expired. Nothing was written.
        """
        self._owner(session_id)
        return self._remove(session_id, self._sql.delete, keys=self._once("keys", lambda: checks.keys(keys, "keys")))

    @writes_in_one_statement
    def clear(self, session_id: str) -> int:
        """Remove all keys.

        Returns:
            How many there were.

        Raises:
            SessionNotFoundError: No such session, or it has expired. Nothing was written.
        """
        return self._remove(self._owner(session_id), self._sql.clear)

    @writes_once_in_one_statement
    def increment(
        self,
        session_id: str,
        key: str,
        amount: int | float = 1,
        *,
        ttl: timedelta | None = None,
        create: bool | NewSession = False,
    ) -> int | float:
        """Add *amount* to a number, atomically; a missing key counts as 0.

        Args:
            session_id: The session.
            key: A key that holds a number, or none.
            amount: What to add; negative to subtract.
            ttl: As for `set`; by default a key keeps its expiry.
            create: As for `set`.

        Returns:
            The new value.

        Raises:
            SessionNotFoundError: No such session, or it has expired, and *create* is false. Nothing was written.
            InvalidValueError: The key's value is not a number, *amount* is not finite, or the sum does not fit, also in
                a lenient store. Nothing was written.
        """
        self._fits("key", self._owner(session_id), checks.key(key, "key"))
        ttl = checks.ttl(ttl)
        checks.number(amount, "amount")
        columns = self._columns(create)
        queued = self._link.in_transaction
        for _ in range(_ALL if queued else _TRIES):
            held = self._lock(session_id, key, columns) if queued else self._look(session_id, key, columns)
            total = _sum(0 if held is None else held.value, amount, key)
            text = self._json(total, "amount")
            params: dict[str, Any] = {"key": key, "value": text, "ttl": ttl, "keep": ttl is None, "user_id": None}
            self._call.sent = True
            if held is None:
                rows = self._write(session_id, self._sql.set_missing, columns, **params)
            else:
                rows = self._write(session_id, self._sql.set_version, columns, **params, expected=held.version)
            if rows:
                return total
        self._needs_transaction()
        raise AssertionError("in a transaction the key is locked")

    def _set(
        self,
        session_id: str,
        key: str,
        value: Any,
        ttl: timedelta | None,
        expected_version: int | None,
        only_if: Literal["missing", "present"] | None,
        create: bool | NewSession = False,
        user_id: str | None = None,
    ) -> StateEntry | None:
        checks.optional_count(expected_version, "expected_version")
        self._fits("key", self._owner(session_id), checks.key(key, "key"))
        checks.one_of(only_if, (None, "missing", "present"), "only_if")
        if only_if is not None and expected_version is not None:
            raise InvalidValueError("only_if", "cannot be combined with expected_version; 0 is that of a missing key")
        ttl = checks.ttl(ttl)
        text = self._once("value", lambda: self._json(value, "value"))
        columns = self._columns(create)
        if only_if == "missing" or expected_version is not None:
            self._call.repeatable = False  # A second try would find what the first one wrote.
        if expected_version:
            statements = self._sql.set_version
        elif only_if == "missing" or expected_version == 0:
            statements = self._sql.set_missing
        else:
            statements = self._sql.set if only_if is None else self._sql.set_present
        params: dict[str, Any] = {"key": key, "value": text, "ttl": ttl, "keep": False, "user_id": user_id}
        always = expected_version is None
        rows = self._write(session_id, statements, columns, always=always, expected=expected_version, **params)
        if rows:
            return self._entry(session_id, rows[0])
        if expected_version is not None:
            raise self._conflict(session_id, key, expected_version)
        return None

    def _set_many(
        self,
        session_id: str,
        values: Mapping[str, Any],
        ttl: timedelta | None,
        only_if: Literal["missing"] | None,
        create: bool | NewSession = False,
        user_id: str | None = None,
    ) -> dict[str, StateEntry]:
        self._owner(session_id)
        checks.one_of(only_if, (None, "missing"), "only_if")
        if not isinstance(values, Mapping):
            raise InvalidValueError("values", f"must be a mapping, not {type(values).__name__}")
        ttl = checks.ttl(ttl)
        texts = self._once(
            "values", lambda: {checks.key(k, "values"): self._json(v, "values") for k, v in values.items()}
        )
        self._fits("values", session_id, *texts)
        columns = self._columns(create)
        written: dict[str, StateEntry] = {}
        keys = sorted(texts)
        missing = only_if == "missing"
        if missing:
            self._call.repeatable = False  # A second try would find what the first one wrote.
        if not keys:
            self._write(session_id, self._sql.delete, columns, keys=[])  # There has to be a session all the same.
            return {}
        size = ROWS_SQLITE if self._link.dialect.name == "sqlite" else CHUNK
        if len(keys) > size:
            self._needs_transaction()
        for start in range(0, len(keys), size):
            chunk = keys[start : start + size]
            statement = set_many(self._scope, len(chunk), self._link.holds_reads, missing)
            params = numbered(({"key": key, "value": texts[key]} for key in chunk), ("key", "value"))
            for row in self._write(
                session_id, dict.fromkeys((False, True), statement), columns, ttl=ttl, user_id=user_id, **params
            ):
                entry = self._entry(session_id, row)
                written[entry.key] = entry
        return {key: written[key] for key in texts if key in written}

    def _look(self, session_id: str, key: str, columns: Mapping[str, Any] | None) -> StateEntry | None:
        self._call.sent = False  # What is lost while it reads was not written.
        rows = self._link.all(self._sql.entry, owner_id=session_id, key=key)
        if not rows:
            self._make(session_id, columns)
            return None
        (_, *row) = rows[0]
        return None if row[0] is None else self._entry(session_id, row)

    def _lock(self, session_id: str, key: str, columns: Mapping[str, Any] | None) -> StateEntry | None:
        if self._link.holds_reads:
            self._scope.hold(self._link, session_id)
            return self._look(session_id, key, columns)
        if self._link.dialect.name == "sqlite":
            row = self._link.one(self._sql.lock, owner_id=session_id, key=key)
            return None if row is None else self._entry(session_id, row)
        rows = self._write(session_id, {False: self._sql.lock}, columns, key=key)
        return self._entry(session_id, rows[0]) if rows else None

    def _remove(self, session_id: str, statements: Mapping[bool, Statement], **params: Any) -> int:
        return sum(bool(fresh) for _, fresh in self._write(session_id, statements, None, **params))

    def _conflict(self, session_id: str, key: str, version: int) -> ConflictError:
        found = self._find(session_id, key)
        actual = 0 if found is None else found.version
        return ConflictError(
            f"expected_version: state key {key!r} of {self._scope.named(session_id)} has version {actual}, not "
            f"{version}; read it again",
            **self._scope.fact(session_id),
            key=key,
            expected=version,
            actual=actual,
        )


def _sum(number: Any, amount: int | float, key: str) -> int | float:
    if isinstance(number, bool) or not isinstance(number, int | float):
        raise InvalidValueError("key", f"{key!r} has a value that is not a number; set a number first")
    return checks.added(number, amount, "amount")


class UserStateRepository(StateRepository, group="user_state"):
    """Named values of a user, shared by all sessions."""

    _scope: ClassVar[Scope] = scopes.USER
    _sql: ClassVar[Statements] = USER_STATEMENTS


class AppStateRepository(StateRepository, group="app_state"):
    """Named values of an agent, shared by all users and sessions."""

    _scope: ClassVar[Scope] = scopes.APP
    _sql: ClassVar[Statements] = APP_STATEMENTS

    @writes_in_one_statement
    def set(  # type: ignore[override]  # No session is there to be created.
        self,
        agent_name: str,
        key: str,
        value: Any,
        *,
        ttl: timedelta | None = None,
        expected_version: int | None = None,
        only_if: Literal["missing", "present"] | None = None,
        user_id: str | None = None,
    ) -> StateEntry | None:
        """As `state.set`, for *agent_name*: it takes no session, so there is no TTL to extend.

        Args:
            agent_name: The agent.
            key: As for `state.set`, like the next four.
            value: …
            ttl: …
            expected_version: …
            only_if: …
            user_id: The user whom the value is about: `sessions.delete_user` erases the key with all else of theirs.
                The key stays this user's until a write names another one.
        """
        user_id = checks.optional_key(user_id, "user_id")
        return self._set(agent_name, key, value, ttl, expected_version, only_if, user_id=user_id)

    @writes_in_one_statement
    def set_many(  # type: ignore[override]
        self,
        agent_name: str,
        values: Mapping[str, Any],
        *,
        ttl: timedelta | None = None,
        only_if: Literal["missing"] | None = None,
        user_id: str | None = None,
    ) -> dict[str, StateEntry]:
        """As `state.set_many`, for *agent_name*. For *user_id* see `set`."""
        user_id = checks.optional_key(user_id, "user_id")
        return self._set_many(agent_name, values, ttl, only_if, user_id=user_id)
