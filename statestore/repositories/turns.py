"""One turn of an agent: what it begins with, and what it leaves behind, in one transaction."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from statestore import checks
from statestore.errors import ConflictError
from statestore.repositories import appending, entry_reads, entry_rows, lease_checks, session_rows, windows
from statestore.repositories.base import Repository, reads, writes_in_one_statement
from statestore.repositories.entry_rows import PreparedEntry
from statestore.repositories.windows import Limits
from statestore.session_values import Lease, Window
from statestore.sql import Statement
from statestore.values import Entry, NewEntry, Session

_FRESH = "(e.expires_at IS NULL OR e.expires_at > {now})"

_STATE = Statement(f"""
    SELECT e.key, CAST(e.value AS text), e.version FROM {{state_entries}} AS e
    WHERE e.namespace = :namespace AND e.session_id = :session_id AND {_FRESH} ORDER BY e.key""")

_VERSIONS = f"""
    SELECT e.key, e.version FROM {{state_entries}} AS e
    WHERE e.namespace = :namespace AND e.session_id = :session_id AND {_FRESH} AND e.key %s"""
_VERSIONS_OF = Statement(
    postgresql=_VERSIONS % "= ANY (:keys)", sqlite=_VERSIONS % "IN (SELECT value FROM json_each(:keys))"
)

# A key that has expired but was not swept yet starts again at version 1.
_SET = Statement("""
    INSERT INTO {state_entries} AS e (namespace, session_id, key, value, updated_at)
    VALUES (:namespace, :session_id, :key, :value, {now})
    ON CONFLICT (namespace, session_id, key) DO UPDATE SET value = excluded.value, updated_at = excluded.updated_at,
        expires_at = NULL, version = CASE WHEN e.expires_at <= excluded.updated_at THEN 1 ELSE e.version + 1 END""")

_DELETE = Statement("""
    DELETE FROM {state_entries} WHERE namespace = :namespace AND session_id = :session_id AND key = :key""")


@dataclass(frozen=True, slots=True, kw_only=True)
class Begun:
    """What a turn starts from. *state* holds the JSON text and the version of each key."""

    session: Session | None = None
    window: Window = field(default_factory=Window)
    state: Mapping[str, tuple[str, int]] = field(default_factory=dict)


class TurnWork(Repository):
    """The steps of `store.turn`, and what saving a conversation shares with it; no operations of their own."""

    @reads
    def begin(self, session_id: str, limits: Limits, *, create: bool) -> Begun:
        """The session with its window and its state; empty where it is still to be made."""
        checks.key(session_id, "session_id")
        session = session_rows.find(self._link, session_id)
        if session is None:
            if create:
                return Begun(window=Window(tokens=None if limits.max_tokens is None else 0))
            raise session_rows.not_found(self._link, session_id)
        window = windows.read(self._link, session_id, limits.check(), before=session.next_seq)
        rows = self._link.all(_STATE, session_id=session_id)
        return Begun(session=session, window=window, state={row[0]: (row[1], row[2]) for row in rows})

    @writes_in_one_statement
    def commit(
        self,
        session_id: str,
        entries: Sequence[NewEntry | Mapping[str, Any]],
        *,
        after_seq: int,
        state: Mapping[str, Any],
        deleted: Sequence[str],
        versions: Mapping[str, int],
        create: bool,
        lease: Lease | None,
    ) -> list[Entry]:
        """Write all of a turn or nothing.

        Raises:
            ConflictError: Entries were appended since the turn began, or a state key that it changed was changed.
        """
        token = lease_checks.token(lease, session_id)
        max_bytes = self._link.settings.max_value_bytes
        batch = self._once("batch", lambda: entry_rows.prepare(entries, max_bytes=max_bytes))
        texts = self._once("state", lambda: {key: self._json(value, f"state[{key!r}]") for key, value in state.items()})
        changed = [*texts, *deleted]
        undisputed = 0 < len(batch) <= appending.CHUNK and not any(entry.own_id for entry in batch)
        if changed or not undisputed:
            self._needs_transaction()
        stored = None
        if undisputed and self._call.attempt == 1:
            stored = appending.insert(self._link, session_id, batch, after_seq=after_seq, lease_token=token)
        if stored is None:
            self._needs_transaction()
            session = appending.lock(self._link, session_id, create=create, lease=lease)
            stored = self._committed(session_id, batch)
            if stored is not None:
                return stored
            self._check_ids(session_id, batch)
            end = session.next_seq - 1
            if batch and end != after_seq:
                raise ConflictError(
                    f"session {session_id!r} went on while the turn was under way: it ends at {end}, not at "
                    f"{after_seq}; read it again, and append or redo what the error's `unsaved` holds",
                    session_id=session_id,
                    expected=after_seq,
                    actual=end,
                )
            stored = appending.insert_all(self._link, session_id, batch)
        if changed:
            self._check_versions(session_id, changed, versions)
            self._link.many(_SET, [{"key": k, "value": v} for k, v in texts.items()], session_id=session_id)
            self._link.many(_DELETE, [{"key": key} for key in deleted], session_id=session_id)
        return stored

    def _committed(self, session_id: str, batch: Sequence[PreparedEntry]) -> list[Entry] | None:
        """What an earlier try has stored, whose answer was lost."""
        if self._call.attempt == 1 or not batch:
            return None
        ids = [entry.entry_id for entry in batch]
        found = entry_reads.find_by_id(self._link, session_id, ids)
        return [found[entry_id] for entry_id in ids] if len(found) == len(ids) else None

    def _check_ids(self, session_id: str, batch: Sequence[PreparedEntry]) -> None:
        own = [entry.entry_id for entry in batch if entry.own_id]
        for entry in (entry_reads.find_by_id(self._link, session_id, own) if own else {}).values():
            raise ConflictError(
                f"session {session_id!r} holds an entry with entry_id {entry.entry_id!r} already, at position "
                f"{entry.seq}",
                session_id=session_id,
                actual=entry.seq,
            )

    def _check_versions(self, session_id: str, keys: Sequence[str], expected: Mapping[str, int]) -> None:
        given = orjson.dumps(keys).decode() if self._link.dialect.name == "sqlite" else list(keys)
        actual = {row[0]: row[1] for row in self._link.all(_VERSIONS_OF, session_id=session_id, keys=given)}
        for key in keys:
            if actual.get(key, 0) != expected.get(key, 0):
                raise ConflictError(
                    f"state key {key!r} of session {session_id!r} was changed by another since it was read; "
                    "read it again",
                    session_id=session_id,
                    key=key,
                    expected=expected.get(key, 0),
                    actual=actual.get(key, 0),
                )
