"""One turn of an agent: what it begins with, and what it leaves behind, in one transaction."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from statestore import checks
from statestore.errors import ConflictError
from statestore.repositories import appending, entry_reads, entry_rows, lease_checks, session_rows, state_rows, windows
from statestore.repositories.base import Repository, reads, writes_in_one_statement
from statestore.repositories.entry_rows import PreparedEntry
from statestore.repositories.windows import Limits
from statestore.session_values import Lease, Window
from statestore.values import Entry, NewEntry, Session


@dataclass(frozen=True, slots=True, kw_only=True)
class Begun:
    """What a turn starts from. *state* holds the JSON text and the version of each key."""

    session: Session | None = None
    window: Window = field(default_factory=Window)
    state: Mapping[str, tuple[str, int]] = field(default_factory=dict)


class TurnWork(Repository):
    """The steps of `store.turn`; no operations of their own."""

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
        return Begun(session=session, window=window, state=state_rows.read(self._link, session_id))

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
            state_rows.check_versions(self._link, session_id, changed, versions)
            state_rows.write(self._link, session_id, texts, deleted)
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
