"""Numbers that are counted up in the cache.

To count is to set: the entry gets another version, another time of creation and no accesses. But it keeps its tags, its
attributes and, if no other is given, its end.

On PostgreSQL one statement does it for whole numbers. It reads the row as it is once it has its lock, and the tags as
they were when it began. So if it had to wait and another write came before, it does nothing, unless the version says
that the entry has no tags: many who count at once do not start over. What it cannot do is done in a transaction.
"""

import math
from functools import lru_cache
from typing import Any, Literal, TypeAlias

from statestore.checking import checks
from statestore.engine.calls import writes_once_in_one_statement
from statestore.engine.sql import Statement
from statestore.errors import InvalidValueError
from statestore.repositories.cache.base import LIVE
from statestore.repositories.cache.holding import HELD
from statestore.repositories.cache.lifetimes import ENDS_POSTGRESQL, ENDS_SQLITE, FROM_END, Lifetime, stamps
from statestore.repositories.cache.limits import UNTAGGED, new_version
from statestore.repositories.cache.writes import Attributes, CacheWrites
from statestore.values.cache import CacheTtl

Number: TypeAlias = int | float

# How often a key is found missing and then there, before it is held.
_TRIES = 3
_NO_NUMBER = "has a value that is not a number; set a number first"

_WRITTEN = """created_at = $now, last_accessed_at = $now, access_seq = :stamp, access_count = 0"""


@lru_cache(maxsize=2)
def _count(*, ends: bool) -> Statement:
    """Add to a whole number: one that fits 64 bits, and stays so."""
    return Statement(
        postgresql=f"""
    WITH before AS MATERIALIZED (
        SELECT e.version FROM $cache_entries AS e WHERE e.namespace = :namespace AND e.key = :key),
    held AS MATERIALIZED (
        SELECT e.version, e.value, e.codec, e.size_bytes, e.agent_name, {LIVE} AS live
        FROM $cache_entries AS e WHERE e.namespace = :namespace AND e.key = :key {HELD}),
    sum AS MATERIALIZED (
        SELECT held.version, CAST(convert_from(held.value, 'UTF8') AS numeric) + CAST(:by AS numeric) AS total
        FROM held
        WHERE held.live AND (held.version >= {UNTAGGED} OR held.version = (SELECT before.version FROM before))
            AND CASE WHEN held.codec = 'json' AND held.size_bytes <= 20
                THEN convert_from(held.value, 'UTF8') ~ '^-?[0-9]+$' ELSE false END),
    whole AS MATERIALIZED (SELECT sum.*, convert_to(CAST(sum.total AS text), 'UTF8') AS value FROM sum),
    up AS (
        UPDATE $cache_entries AS e SET value = whole.value, size_bytes = length(whole.value), {_WRITTEN},
            version = CASE WHEN e.version >= {UNTAGGED} THEN {UNTAGGED} ELSE 0 END + CAST(:version AS bigint)
            {f", {ENDS_POSTGRESQL}" if ends else ""}
        FROM whole{f", {FROM_END}" if ends else ""}
        WHERE e.namespace = :namespace AND e.key = :key AND whole.total BETWEEN -{2**63} AND {2**64 - 1}
        RETURNING whole.total, whole.version, e.version AS new_version),
    tagged AS (
        UPDATE $cache_tags AS t SET version = up.new_version FROM up
        WHERE t.namespace = :namespace AND t.key = :key AND t.version = up.version AND up.version < {UNTAGGED})
    SELECT held.live, held.agent_name, up.total FROM held LEFT JOIN up ON true"""
    )


_READ = Statement(f"""
    SELECT e.value, e.codec, e.size_bytes, e.version, e.agent_name, {LIVE}
    FROM $cache_entries AS e WHERE e.namespace = :namespace AND e.key = :key""")


@lru_cache(maxsize=2)
def _set_number(*, ends: bool) -> Statement:
    """Another number for an entry that is held."""
    written = f"value = :value, codec = :codec, size_bytes = :size, version = :version, {_WRITTEN}"
    where = "WHERE namespace = :namespace AND key = :key"
    with_end = f", {ENDS_POSTGRESQL} FROM {FROM_END}" if ends else ""
    return Statement(
        postgresql=f"UPDATE $cache_entries AS e SET {written}{with_end} {where}",
        sqlite=f"UPDATE $cache_entries SET {written} {f', {ENDS_SQLITE}' if ends else ''} {where}",
    )


_RETAG = Statement("""
    UPDATE $cache_tags SET version = :version WHERE namespace = :namespace AND key = :key AND version = :old_version""")


class CacheCounters(CacheWrites):
    """Counting."""

    @writes_once_in_one_statement
    def increment(
        self,
        key: str,
        by: int | float = 1,
        *,
        initial: int | float = 0,
        ttl: CacheTtl | None = None,
        only_if: Literal["present"] | None = None,
    ) -> int | float | None:
        """Add to a number, atomically, and return the sum. A missing key counts as *initial*.

        The entry keeps its tags and attributes; otherwise this is a set: it is counted as one, and counts as a use.

        Args:
            key: A key that holds a number, or none.
            by: What to add; negative to subtract.
            initial: What a missing key holds before *by* is added.
            ttl: When the entry ends, as for `set`. By default one that is there keeps its end, and a new one gets the
                cache's default. With a duration the end moves with each call; give a fixed window its end as a time.
            only_if: `present` to leave a missing key missing.

        Returns:
            The new value: whole if all of them are. With *only_if*, None if there is no such key, or it has expired.

        Raises:
            InvalidValueError: The value is not a number, or the sum is too large for a float. Nothing was written.
            CommitUnknownError: The connection was lost, and the sum may or may not have been stored.
        """
        checks.key(key, "key")
        by, initial = _number(by, "by"), _number(initial, "initial")
        checks.one_of(only_if, (None, "present"), "only_if")
        first = self._once("first", lambda: self._encode(checks.added(initial, by, "by"), "by"))
        attributes = self._attributes(
            ttl=ttl, tags=(), agent_name=None, request=None, content_hash=None, metadata=None, stale_ttl=None
        )
        life = None if ttl is None else attributes.life
        whole = self._postgresql and isinstance(by, int) and self._state.options.max_bytes is None
        for _ in range(_TRIES if whole else 0):
            live, agent_name, total = self._add_whole(key, by, life) or (False, None, None)
            if total is not None:
                self._notes.pending.count(self._now(), agent_name, "sets")
                return int(total)
            if live or (
                only_if and self._link.holds_reads
            ):  # What is missing is to stay so until the transaction ends.
                break
            if only_if:
                return None
            if self._write({key: first}, attributes, only_if="missing"):
                return checks.added(initial, by, "by")
        self._needs_transaction()
        return self._count_held(key, by, None if only_if else initial, attributes, life)

    def _add_whole(self, key: str, by: Number, life: Lifetime | None) -> Any:
        params = {} if life is None else self._times(life)
        number = self._once("number", lambda: new_version(tagged=True))
        statement = _count(ends=life is not None)
        return self._link.one(statement, key=key, by=by, version=number, stamp=stamps.take(), **params)

    def _count_held(
        self, key: str, by: Number, initial: Number | None, attributes: Attributes, life: Lifetime | None
    ) -> Number | None:
        """The same for any number, in a transaction. Without *initial*, a missing key stays so."""
        self._hold([key])
        row = self._link.one(_READ, key=key)
        if row is None or not row[-1]:
            if initial is None:
                return None
            total = checks.added(initial, by, "by")
            self._write({key: self._encode(total, "by")}, attributes, only_if="missing")
            return total
        data, codec_name, old_size, old_version, agent_name, _ = row
        held = self._decode(data, codec_name)
        if isinstance(held, bool) or not isinstance(held, int | float):
            raise InvalidValueError("key", f"{key!r} {_NO_NUMBER}")
        total = checks.added(held, by, "by")
        encoded = self._encode(total, "by")
        self._grow(key, len(encoded.data), old_size)
        version = new_version(tagged=old_version < UNTAGGED)
        params = {} if life is None else self._times(life)
        self._link.run(
            _set_number(ends=life is not None),
            key=key,
            value=encoded.data,
            codec=encoded.codec,
            size=len(encoded.data),
            version=version,
            stamp=stamps.take(),
            **params,
        )
        if old_version < UNTAGGED:
            self._link.run(_RETAG, key=key, version=version, old_version=old_version)
        self._notes.pending.count(self._now(), agent_name, "sets")
        return total

    def _grow(self, key: str, size: int, old_size: int) -> None:
        """Make room for a number that has become longer."""
        if self._state.options.max_bytes is None:
            return
        if size <= old_size:
            self._notes.remove(0, old_size - size)
            return
        room = self._state.book(0, size - old_size, self._notes)
        if not room.enough:
            self._make_room([key], 1, size, room, (1, old_size))


def _number(value: Any, argument: str) -> Number:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidValueError(argument, f"must be a number, not {type(value).__name__}")
    if not (-(2**63) <= value < 2**64 if isinstance(value, int) else math.isfinite(value)):
        raise InvalidValueError(argument, "must fit 64 bits, or be a finite float")
    return value
