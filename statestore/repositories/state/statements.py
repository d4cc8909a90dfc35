"""The statements on keys and values, for each kind of owner."""

from functools import lru_cache

from statestore import schema
from statestore.engine.columns import Columns, fields_of
from statestore.engine.sql import Statement
from statestore.engine.sql_parts import value_rows
from statestore.repositories.state.scopes import APP, SESSION, USER, Scope
from statestore.values.state import StateEntry

ENTRY = Columns(schema.state_entries, *fields_of(StateEntry))

FRESH = "(e.expires_at IS NULL OR e.expires_at > $now)"
# The same for RETURNING on SQLite, which does not allow an alias there; and SQLite 3.40 evaluates `expires_at IS NULL`
# to false there, since the partial index on the column contains no NULL.
_FRESH_RETURNED = "coalesce(expires_at > $now, 1)"

_VALUE = "e.key, CAST(e.value AS text)"
_IN_RANGE = "e.key >= :from_key AND e.key < :until_key"
_BACKWARDS = f"{_IN_RANGE} AND e.key < :after"
_END = "$later(CAST(:ttl AS interval))"

# A key that has expired but was not swept yet starts again at version 1. Rows of earlier versions of the tables do not
# say when they were made: what they say instead is kept.
_EXPIRED = "e.expires_at <= excluded.updated_at"
_MISSING = f" WHERE {_EXPIRED}"
_REPLACE = f"""DO UPDATE SET value = excluded.value, updated_at = excluded.updated_at, expires_at = excluded.expires_at,
        version = CASE WHEN {_EXPIRED} THEN 1 ELSE e.version + 1 END,
        created_at = CASE WHEN {_EXPIRED} THEN excluded.created_at ELSE coalesce(e.created_at, e.updated_at) END"""
# It stays the user's for whom it was written until another one is named.
_REPLACE_USER = f""",
        user_id = CASE WHEN {_EXPIRED} THEN excluded.user_id ELSE coalesce(excluded.user_id, e.user_id) END"""


def _insertion(scope: Scope) -> tuple[str, str, str]:
    """How a row is written: its columns, their values without the namespace, and what happens to one that is there."""
    user, value = (", user_id", ", CAST(:user_id AS varchar)") if scope.for_user else ("", "")
    conflict = f"ON CONFLICT (namespace, {scope.columns}, key) {_REPLACE}{_REPLACE_USER if scope.for_user else ''}"
    return f"namespace, {scope.columns}{user}", f"{scope.values}{value}", conflict


def _entry(alias: str = "") -> str:
    dot = alias and f"{alias}."
    created_at = f"coalesce({dot}created_at, {dot}updated_at)"
    return ENTRY.select(alias, created_at=created_at, size_bytes=f"$bytes({dot}value)")


class Statements:
    """The statements of a scope.

    A read has a row for an owner that can have keys, with or without one of them: so one round trip tells a missing key
    from a missing session. Its first column says whether the owner's TTL has to be extended.

    A write is one statement on PostgreSQL, which has such a row too, and says first whether the owner has still to be
    told of it. There are two of each, by whether the owner's lock is shared or had alone. On SQLite they are the same
    one, which only returns what it has written.
    """

    def __init__(self, scope: Scope) -> None:
        self._scope = scope
        self._here = f"e.namespace = :namespace AND {scope.owned}"
        columns, self._values, self._conflict = _insertion(scope)
        self._into = f"INSERT INTO {scope.table} AS e ({columns}, key, value"

        self.entry = self._read("e.key = :key")
        self.get = self._read("e.key = :key", selected=_VALUE)
        self.get_many = self._read("e.key $in(:keys)", selected=_VALUE)
        self.get_many_and_range = self._read(f"(e.key $in(:keys) OR {_IN_RANGE})", selected=_VALUE)
        self.get_all = self._read("true", selected=_VALUE)
        self.entries = self._read(f"{_IN_RANGE} AND e.key > :after", limited=True)
        self.entries_descending = self._read(_BACKWARDS, limited=True, descending=True)
        self.keys = self._read(f"{_IN_RANGE} AND e.key > :after", selected="e.key", limited=True)
        self.keys_descending = self._read(_BACKWARDS, selected="e.key", limited=True, descending=True)
        self.count = self._count(_IN_RANGE)
        self.exists = self._count("e.key = :key")

        self.set = self._both(self._insert())
        self.set_missing = self._both(self._insert(_MISSING))
        self.set_present = self._both(self._update())
        self.set_version = self._both(self._update(" AND e.version = :expected"))
        self.delete = self._both(self._delete(" AND e.key $in(:keys)"))
        self.clear = self._both(self._delete())
        if scope.for_user:
            self.clear_user = self._both(self._delete(" AND e.user_id = :user_id"))
        self.lock = self._lock()

    def _read(self, which: str, *, selected: str = "", limited: bool = False, descending: bool = False) -> Statement:
        source, condition = self._scope.found
        order = f"e.key{' DESC' if descending else ''}{' LIMIT :limit' if limited else ''}"
        return Statement(f"""
    SELECT {self._scope.reading_due}, {selected or _entry("e")}
    FROM {source} LEFT JOIN {self._scope.table} AS e ON {self._here} AND {FRESH} AND {which}
    WHERE {condition} ORDER BY {order}""")

    def _count(self, which: str) -> Statement:
        source, condition = self._scope.found
        return Statement(f"""
    SELECT false, (SELECT count(*) FROM {self._scope.table} AS e WHERE {self._here} AND {FRESH} AND {which})
    FROM {source} WHERE {condition}""")

    def _both(self, work: tuple[str, str]) -> dict[bool, Statement]:
        """What *work* says for PostgreSQL, of rows of `owner`, and for SQLite; by whether the lock is had alone."""
        postgresql, sqlite = work
        return {
            alone: Statement(postgresql=self._scope.entered(postgresql, alone), sqlite=sqlite)
            for alone in (False, True)
        }

    def _insert(self, condition: str = "") -> tuple[str, str]:
        begin = f"{self._into}, created_at, updated_at, expires_at)"
        end = f"{self._conflict}{condition} RETURNING"
        row = f"{self._values}, :key, %s, $now, $now, {_END}"
        owner, namespace = self._scope.from_owner
        return (
            f"done AS ({begin} SELECT {namespace}, {row % 'CAST(:value AS json)'} FROM {owner} {end} {_entry('e')})",
            f"{begin} VALUES (:namespace, {row % ':value'}) {end} {_entry()}",
        )

    def _update(self, condition: str = "") -> tuple[str, str]:
        user = ", user_id = coalesce(CAST(:user_id AS varchar), e.user_id)" if self._scope.for_user else ""
        update = f"""UPDATE {self._scope.table} AS e SET value = %s, version = e.version + 1, updated_at = $now{user},
        created_at = coalesce(e.created_at, e.updated_at),
        expires_at = CASE WHEN CAST(:keep AS boolean) THEN e.expires_at ELSE %s END %s
        WHERE {self._here} AND e.key = :key AND {FRESH}{condition} RETURNING {_entry()}"""
        # Beside the row: in a distributed database no CASE of an UPDATE asks a clock.
        end = f"FROM owner, (SELECT {_END} AS at) AS new_end"
        return (
            f"done AS ({update % ('CAST(:value AS json)', 'new_end.at', end)})",
            update % (":value", _END, ""),
        )

    def _delete(self, condition: str = "") -> tuple[str, str]:
        table, here = self._scope.table, f"{self._here}{condition}"
        return (
            f"""doomed AS MATERIALIZED (
        SELECT e.key FROM {table} AS e, owner WHERE {here} ORDER BY e.key FOR UPDATE OF e),
    gone AS (
        DELETE FROM {table} AS e USING doomed WHERE {self._here} AND e.key = doomed.key RETURNING e.key, e.expires_at),
    done AS (SELECT e.key, {FRESH} AS fresh FROM gone AS e)""",
            f"DELETE FROM {table} AS e WHERE {here} RETURNING key, {_FRESH_RETURNED}",
        )

    def _lock(self) -> Statement:
        """A key, which nobody else changes before the transaction ends."""
        found = f"SELECT {_entry('e')} FROM {self._scope.table} AS e%s WHERE {self._here} AND e.key = :key AND {FRESH}"
        return Statement(
            postgresql=self._scope.entered(f"done AS MATERIALIZED ({found % ', owner'} FOR UPDATE OF e)", False),
            sqlite=found % "",
        )


@lru_cache(maxsize=128)
def set_many(scope: Scope, count: int, alone: bool, missing: bool = False) -> Statement:
    """Write *count* keys, in their order: those who write several wait for each other in the same order.

    With *missing*, only those that do not exist.
    """
    columns, values, conflict = _insertion(scope)
    begin = f"INSERT INTO {scope.table} AS e ({columns}, key, value, created_at, updated_at, expires_at)"
    end = f"{conflict}{_MISSING if missing else ''} RETURNING"
    owner, namespace = scope.from_owner
    times = f"$now, $now, {_END}"
    given = value_rows("(CAST(:key_# AS varchar), CAST(:value_# AS json))", count)
    rows = value_rows(f"(:namespace, {values}, :key_#, :value_#, {times})", count)
    return Statement(
        postgresql=scope.entered(
            f"""done AS ({begin}
        SELECT {namespace}, {values}, v.key, v.value, {times}
        FROM {owner}, (VALUES {given}) AS v (key, value) ORDER BY v.key COLLATE "C"
        {end} {_entry("e")})""",
            alone,
        ),
        sqlite=f"{begin} VALUES {rows} {end} {_entry()}",
    )


SESSION_STATEMENTS = Statements(SESSION)
USER_STATEMENTS = Statements(USER)
APP_STATEMENTS = Statements(APP)
