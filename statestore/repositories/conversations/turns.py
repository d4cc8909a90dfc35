"""One turn of an agent: what it begins with, and what it writes, in one transaction."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from statestore.checking import checks
from statestore.engine.calls import reads, reported_as, writes_in_one_statement
from statestore.engine.sql import Statement
from statestore.errors import ConflictError, SessionNotFoundError
from statestore.repositories.base import Repository
from statestore.repositories.history import appending, entry_lookups, entry_reads, entry_rows, windows
from statestore.repositories.history.entry_rows import PreparedEntry
from statestore.repositories.history.windows import Limits
from statestore.repositories.sessions import holding, lease_checks, session_columns, session_rows
from statestore.repositories.state import state_rows
from statestore.values.history import Entry, NewEntry, Window
from statestore.values.sessions import Lease, NewSession, Session

_BEGIN = f"""
    SELECT {session_rows.COLUMNS}, {session_rows.EXTENSION_DUE}, %s, s.lease_token, s.lease_until > $now
    FROM $sessions AS s WHERE s.namespace = :namespace AND s.session_id = :session_id AND $live"""
_FIND = Statement(postgresql=_BEGIN % "CAST(s.xmin AS text)", sqlite=_BEGIN % "NULL")


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """Where a turn begins, so that its commit notices concurrent changes.

    Attributes:
        end: The last position.
        entry_id: The entry there; None if there is none.
        created_at: When the session was created; None if the commit is to create it.
        row_version: The version of the session's row, which every write to the session changes. PostgreSQL only.
    """

    end: int = 0
    entry_id: str | None = None
    created_at: datetime | None = None
    row_version: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Begun:
    """What a turn starts with. *state* has the JSON text and the version of each key, *limit* is that of values."""

    limit: int
    start: Start = field(default_factory=Start)
    session: Session | None = None
    window: Window = field(default_factory=Window)
    state: Mapping[str, tuple[str, int]] = field(default_factory=dict)


class TurnWork(Repository, group="turn"):
    """The steps of `store.turn`; no operations of their own."""

    @reads
    def begin(self, session_id: str, limits: Limits, *, create: bool | NewSession, lease: Lease | None) -> Begun:
        """The session with its window and its state; empty if it is yet to be created.

        Raises:
            SessionNotFoundError: No such session, or it has expired, and *create* is false.
            StaleLeaseError: *lease* is no longer valid.
        """
        checks.key(session_id, "session_id")
        token = lease_checks.token(lease, session_id)
        columns = session_columns.of_new(self._link, create)
        rows = holding.read(self._link, _FIND, session_id=session_id)
        row = rows[0] if rows else None
        if row is None:
            if columns is not None:
                return Begun(
                    limit=self._link.settings.max_value_bytes,
                    window=Window(tokens=None if limits.max_tokens is None else 0),
                )
            raise session_rows.not_found(self._link, session_id)
        *_, extension_due, row_version, latest_token, holds = row
        if lease is not None and not (token == latest_token and holds):
            session_rows.check_lease(self._link, lease)
        session: Session | None = session_rows.from_row(self._link, row)
        if extension_due:
            session, row_version = session_rows.find(self._link, session_id), None
        if self._link.in_transaction:  # It may write the row again under the same version.
            row_version = None
        if session is None:
            raise session_rows.not_found(self._link, session_id)
        window = windows.read(self._link, session_id, limits.check(), before=session.next_seq)
        return Begun(
            limit=self._link.settings.max_value_bytes,
            start=self._start(session, window, row_version),
            session=session,
            window=window,
            state=state_rows.read(self._link, session_id),
        )

    def _start(self, session: Session, window: Window, row_version: str | None) -> Start:
        end = session.next_seq - 1
        last = window[-1:]
        if session.entry_count and not (last and last[0].seq == end):
            last = entry_reads.read(self._link, session.session_id, last=1, before=session.next_seq)
        return Start(
            end=last[0].seq if last else end,
            entry_id=last[0].entry_id if last else None,
            created_at=session.created_at,
            row_version=row_version,
        )

    @reads
    def check_lease(self, lease: Lease) -> None:
        """The check at the end of a turn that has nothing to write.

        Raises:
            SessionNotFoundError: No such session, or it has expired.
            StaleLeaseError: *lease* is no longer valid.
        """
        session_rows.check_lease(self._link, lease)

    @reported_as(model_calls=entry_rows.model_calls)
    @writes_in_one_statement
    def commit(
        self,
        session_id: str,
        entries: Sequence[NewEntry | Mapping[str, Any]],
        *,
        start: Start,
        state: Mapping[str, Any],
        deleted: Sequence[str],
        versions: Mapping[str, int],
        create: bool | NewSession,
        lease: Lease | None,
    ) -> list[Entry]:
        """Write all of a turn or nothing.

        Raises:
            ConflictError: Since the turn began, the session has got other entries, was deleted, or was created again;
                or somebody else has changed a state key that the turn changed. Or an entry is stored under the id of
                one of the turn's, and differs from it.
        """
        token = lease_checks.token(lease, session_id)
        max_bytes = self._link.settings.max_value_bytes
        batch = self._once("batch", lambda: entry_rows.prepare(entries, max_bytes=max_bytes))
        texts = self._once("state", lambda: {key: self._json(value, f"state[{key!r}]") for key, value in state.items()})
        self._fits("entry_id", session_id, *entry_rows.own_ids(batch))
        self._fits("state", session_id, *texts)
        changed = [*texts, *deleted]
        undisputed = 0 < len(batch) <= appending.CHUNK and not any(entry.own_id for entry in batch)
        if changed or not undisputed:
            self._needs_transaction()
        stored = None
        if undisputed and self._call.attempt == 1:
            stored = self._insert_at_once(session_id, batch, start, token)
        if stored is None:
            self._needs_transaction()
            session = self._lock(session_id, start, create=create, lease=lease)
            present = self._present(session_id, batch)
            if self._is_committed(batch, present):
                return [present[entry.entry_id] for entry in batch]
            if batch:
                _check_same(session_id, batch, present)
                self._check_end(session, start)
            missing = [entry for entry in batch if entry.entry_id not in present]
            present |= {entry.entry_id: entry for entry in appending.insert_all(self._link, session_id, missing)}
            stored = [present[entry.entry_id] for entry in batch]
        if changed:
            state_rows.check_versions(self._link, session_id, changed, versions)
            state_rows.write(self._link, session_id, texts, deleted, expected=versions)
        return stored

    def _insert_at_once(
        self, session_id: str, batch: Sequence[PreparedEntry], start: Start, token: int | None
    ) -> list[Entry] | None:
        """Append without reading the session first, if that is safe; None if it has to be read.

        On PostgreSQL the row must be unchanged: a condition on other tables would be evaluated before the statement
        waits for others that hold the row. On SQLite there are no other writers.
        """
        if self._link.dialect.name == "postgresql":
            if start.row_version is None:
                return None
        else:
            found = entry_lookups.tail(self._link, session_id, start.end)
            if found is None or (found.created_at, found.entry_id) != (start.created_at, start.entry_id):
                return None
        return appending.insert(
            self._link,
            session_id,
            batch,
            after_seq=start.end,
            lease_token=token,
            row_version=start.row_version,
        )

    def _lock(self, session_id: str, start: Start, *, create: bool | NewSession, lease: Lease | None) -> Session:
        """The session, locked; it must be the one that the turn began with."""
        makes = session_columns.of_new(self._link, create) if start.created_at is None else None
        try:
            session = appending.lock(self._link, session_id, create=makes, lease=lease)
        except SessionNotFoundError:
            if not create:
                raise
            raise _disturbed(session_id, "it was deleted") from None
        if start.created_at not in (None, session.created_at):
            raise _disturbed(session_id, "it was deleted, and another was made under its id")
        return session

    def _check_end(self, session: Session, start: Start) -> None:
        end = session.next_seq - 1
        if end != start.end:
            raise _disturbed(
                session.session_id, f"it ends at {end}, not at {start.end}", expected=start.end, actual=end
            )
        found = entry_lookups.tail(self._link, session.session_id, end) if start.entry_id is not None else None
        # An entry that was trimmed meanwhile is gone.
        if found is not None and found.entry_id not in (None, start.entry_id):
            raise _disturbed(session.session_id, f"position {end} has another entry")

    def _present(self, session_id: str, batch: Sequence[PreparedEntry]) -> dict[str, Entry]:
        """Those of the entries that are stored already, by their ids: by an earlier turn, or by an earlier try."""
        ids = [entry.entry_id for entry in batch if entry.own_id or self._call.attempt > 1]
        return entry_lookups.find_many(self._link, session_id, ids) if ids else {}

    def _is_committed(self, batch: Sequence[PreparedEntry], present: Mapping[str, Entry]) -> bool:
        """Whether an earlier try, whose answer was lost, has stored what was not there before it."""
        before = self._once("before", lambda: {entry.entry_id for entry in batch if entry.own_id} & present.keys())
        added = {entry.entry_id for entry in batch} - before
        return self._call.attempt > 1 and bool(added) and added <= present.keys()


def _check_same(session_id: str, batch: Sequence[PreparedEntry], present: Mapping[str, Entry]) -> None:
    for index, entry in enumerate(batch):
        stored = present.get(entry.entry_id)
        if stored is not None and (field := appending.difference(stored, entry)) is not None:
            raise appending.another(session_id, index, stored, True, field)


def _disturbed(session_id: str, how: str, **fields: int) -> ConflictError:
    return ConflictError(
        f"session {session_id!r} was changed by others while the turn was under way: {how}; read it again, and append "
        "or redo what is in the error's `unsaved`",
        session_id=session_id,
        **fields,
    )
