"""Reading keys and values."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import orjson

from statestore.checking import checks
from statestore.engine.calls import reads
from statestore.engine.sql import Statement
from statestore.engine.sql_parts import prefix_range
from statestore.errors import StateKeyNotFoundError
from statestore.repositories.state import scopes, state_rows
from statestore.repositories.state.owned import OwnedRepository
from statestore.repositories.state.statements import ENTRY, FRESH, SESSION_STATEMENTS, Statements
from statestore.values.fast_dataclass import builder
from statestore.values.markers import MISSING
from statestore.values.state import StateEntry, StateScopes

_entry = builder(StateEntry)
_ALL = 2**62

_GET_ALL_MANY = Statement(f"""
    SELECT s.session_id, e.key, CAST(e.value AS text) FROM $sessions AS s
    LEFT JOIN $state_entries AS e ON e.namespace = s.namespace AND e.session_id = s.session_id
        AND {FRESH}
    WHERE s.namespace = :namespace AND s.session_id $in(:session_ids) AND $live ORDER BY s.session_id, e.key""")

# Whose values there are, and the values: those of a user or an agent once, however many of the sessions share them.
_SCOPES_MANY = Statement(f"""
    WITH wanted AS (
        SELECT s.session_id, s.user_id, s.agent_name FROM $sessions AS s
        WHERE s.namespace = :namespace AND s.session_id $in(:session_ids) AND $live)
    SELECT 'session', w.session_id, w.user_id, w.agent_name, e.key, CAST(e.value AS text) FROM wanted AS w
    LEFT JOIN $state_entries AS e ON e.namespace = :namespace AND e.session_id = w.session_id
        AND {FRESH}
    UNION ALL
    SELECT e.scope, e.owner_id, NULL, NULL, e.key, CAST(e.value AS text) FROM $shared_state AS e
    WHERE e.namespace = :namespace AND {FRESH}
        AND (e.scope = 'user' AND e.owner_id IN (SELECT w.user_id FROM wanted AS w)
            OR e.scope = 'app' AND e.owner_id IN (SELECT w.agent_name FROM wanted AS w))
    ORDER BY 5""")


class StateReads(OwnedRepository):
    """What there is, of the session that is given, or of another owner."""

    _sql: ClassVar[Statements] = SESSION_STATEMENTS

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
        self._owner(session_id)
        found = self._values(self._sql.get, session_id, key=checks.key(key, "key"))
        if not found and default is MISSING:
            raise self._no_key(session_id, key)
        return found.get(key, default)

    @reads
    def entry(self, session_id: str, key: str) -> StateEntry:
        """A key with its version and times, for `set(…, expected_version=entry.version)`. Extends the session's TTL.

        Raises:
            SessionNotFoundError: No such session, or it has expired.
            StateKeyNotFoundError: No such key, or it has expired.
        """
        found = self._find(session_id, key)
        if found is None:
            raise self._no_key(session_id, key)
        return found

    @reads
    def get_all(self, session_id: str) -> dict[str, Any]:
        """All keys and values, in the order of the keys. Extends the session's TTL.

        Raises:
            SessionNotFoundError: No such session, or it has expired.
        """
        self._owner(session_id)
        return self._values(self._sql.get_all, session_id)

    @reads
    def get_many(self, session_id: str, keys: Iterable[str], *, prefix: str | None = None) -> dict[str, Any]:
        """The values of those of *keys* that exist, in the order given. Extends the session's TTL.

        Args:
            session_id: The session.
            keys: The keys.
            prefix: Also all keys that begin with it, which follow in their order.

        Raises:
            SessionNotFoundError: No such session, or it has expired.
        """
        self._owner(session_id)
        wanted = self._once("keys", lambda: checks.keys(keys, "keys"))
        if prefix is None:
            found = self._values(self._sql.get_many, session_id, keys=wanted)
        else:
            from_key, until_key = _range(prefix)
            place = {"from_key": from_key, "until_key": until_key}
            found = self._values(self._sql.get_many_and_range, session_id, keys=wanted, **place)
        return {key: found[key] for key in wanted if key in found} | found

    @reads
    def keys(
        self,
        session_id: str,
        *,
        prefix: str | None = None,
        after: str | None = None,
        limit: int | None = None,
        descending: bool = False,
    ) -> list[str]:
        """The keys, in their order. Extends the session's TTL.

        Args:
            session_id: The session.
            prefix: Only keys that begin with it, character by character.
            after: Only keys behind this one, which need not exist: the last key of one page begins the next.
            limit: At most so many.
            descending: In the opposite order.

        Raises:
            SessionNotFoundError: No such session, or it has expired.
        """
        place = _page(prefix, after, limit, descending)
        statement = self._sql.keys_descending if descending else self._sql.keys
        rows = self._rows(statement, self._owner(session_id), **place)
        return [key for (key,) in rows][:limit]

    @reads
    def entries(
        self,
        session_id: str,
        *,
        prefix: str | None = None,
        after: str | None = None,
        limit: int | None = None,
        descending: bool = False,
    ) -> list[StateEntry]:
        """As `keys`, with values, versions, times and sizes."""
        place = _page(prefix, after, limit, descending)
        statement = self._sql.entries_descending if descending else self._sql.entries
        return self._read(statement, self._owner(session_id), **place)[:limit]

    @reads
    def count(self, session_id: str, *, prefix: str | None = None) -> int:
        """How many keys there are, or how many that begin with *prefix*. Does not extend the session's TTL.

        Raises:
            SessionNotFoundError: No such session, or it has expired.
        """
        self._owner(session_id)
        from_key, until_key = _range(prefix)
        ((found,),) = self._first(self._sql.count, session_id, from_key=from_key, until_key=until_key)
        return int(found)

    @reads
    def exists(self, session_id: str, key: str) -> bool:
        """Whether there is a key. Does not extend the session's TTL.

        Raises:
            SessionNotFoundError: No such session, or it has expired.
        """
        self._owner(session_id)
        ((found,),) = self._first(self._sql.exists, session_id, key=checks.key(key, "key"))
        return bool(found)

    @reads
    def get_all_many(self, session_ids: Iterable[str]) -> dict[str, dict[str, Any]]:
        """The whole state of several sessions, in one statement, in the order given; missing sessions are left out.

        As lists of sessions do, it extends no TTL, and a transaction does not hold what it has read by it.
        """
        wanted = self._once("session_ids", lambda: checks.keys(session_ids, "session_ids"))
        found: dict[str, dict[str, Any]] = {}
        for session_id, key, text in self._link.all(_GET_ALL_MANY, session_ids=wanted) if wanted else ():
            state = found.setdefault(session_id, {})
            if key is not None:
                state[key] = state_rows.value(session_id, key, text)
        return {session_id: found[session_id] for session_id in wanted if session_id in found}

    @reads
    def scopes_many(self, session_ids: Iterable[str]) -> dict[str, StateScopes]:
        """All that several sessions see: their own state, their users' and their agents'. Else as `get_all_many`."""
        wanted = self._once("session_ids", lambda: checks.keys(session_ids, "session_ids"))
        values: defaultdict[tuple[str, str | None], dict[str, Any]] = defaultdict(dict)
        owners: dict[str, tuple[str | None, str | None]] = {}
        for scope, owner_id, user_id, agent_name, key, text in (
            self._link.all(_SCOPES_MANY, session_ids=wanted) if wanted else ()
        ):
            if scope == "session":
                owners[owner_id] = user_id, agent_name
            if key is not None:
                values[scope, owner_id][key] = state_rows.value(owner_id, key, text, scopes.BY_NAME[scope])
        return {
            session_id: StateScopes(values["session", session_id], values["user", user_id], values["app", agent_name])
            for session_id in wanted
            if session_id in owners
            for user_id, agent_name in [owners[session_id]]
        }

    def _find(self, session_id: str, key: str) -> StateEntry | None:
        self._owner(session_id)
        checks.key(key, "key")
        found = self._read(self._sql.entry, session_id, key=key)
        return found[0] if found else None

    def _values(self, statement: Statement, session_id: str, **params: Any) -> dict[str, Any]:
        rows = self._rows(statement, session_id, **params)
        return {key: state_rows.value(session_id, key, text, self._scope) for key, text in rows}

    def _read(self, statement: Statement, session_id: str, **params: Any) -> list[StateEntry]:
        return [self._entry(session_id, row) for row in self._rows(statement, session_id, **params)]

    def _no_key(self, session_id: str, key: str) -> StateKeyNotFoundError:
        return StateKeyNotFoundError(self._scope.named(session_id), key, **self._scope.fact(session_id))

    def _entry(self, session_id: str, row: Sequence[Any]) -> StateEntry:
        try:
            # In the order of the fields of StateEntry.
            return _entry(*ENTRY.values(self._link.dialect, row))
        except orjson.JSONDecodeError:
            pass  # Not raised from here: the error would hold this one, and this one holds the value.
        key, *_ = row
        raise self._scope.damaged(session_id, key)


def _range(prefix: str | None) -> tuple[str, str]:
    return prefix_range("" if prefix in (None, "") else checks.key(prefix, "prefix"))


def _page(prefix: str | None, after: str | None, limit: int | None, descending: bool) -> dict[str, Any]:
    from_key, until_key = _range(prefix)
    checks.optional_count(limit, "limit")
    checks.flag(descending, "descending")
    return {
        "from_key": from_key,
        "until_key": until_key,
        "after": checks.optional_key(after, "after") or (until_key if descending else ""),
        # Not less than one, by which a missing session is told from a missing key.
        "limit": _ALL if limit is None else max(limit, 1),
    }
