"""The conversation of a session: append, read, and let go."""

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from statestore import checks, exactjson
from statestore.errors import ConflictError, EntryNotFoundError, InvalidValueError
from statestore.repositories import entry_rows, segments, session_life, session_rows
from statestore.repositories.base import Repository, reads, writes, writes_in_one_statement, writes_once
from statestore.repositories.entry_rows import PreparedEntry
from statestore.repositories.session_rows import LockedSession
from statestore.sql import Row, Statement
from statestore.values import Entry, NewEntry, Session

# Entries of one statement. A statement takes 65,535 parameters on PostgreSQL, an entry at most 23.
_CHUNK = 500
# Beyond every position, and twice it still fits 64 bits.
_FAR = 2**61

_APPEND_UPDATE = f"""
    UPDATE {{sessions}} AS s
    SET next_seq = s.next_seq + :count, last_turn = s.last_turn + :turns, {session_rows.ACTIVE}
    WHERE s.namespace = :namespace AND s.session_id = :session_id AND {{live}}"""
_APPEND_RETURNING = " RETURNING next_seq - :count AS first_seq, last_turn - :turns AS base_turn"

# Outside a transaction an append succeeds only where there is nothing to decide; else it is run again under the lock.
_IF_AT = " AND s.next_seq = :after_seq + 1"
_IF_NEW = """ AND s.forked_at_seq IS NULL AND NOT EXISTS (
        SELECT 1 FROM {history_entries} AS h WHERE h.namespace = :namespace AND h.session_id = :session_id
        AND h.entry_id = ANY (:entry_ids))"""

_APPEND_SQLITE = Statement(sqlite=_APPEND_UPDATE + _APPEND_RETURNING)

# The history of a session is dense, so that a window on it is a range, whichever way it is asked for.
_FROM = "{greatest}(:after + 1, s.first_seq, {least}(s.next_seq, :before) - :last)"
_TO = "{least}(s.next_seq, :before, {greatest}(:after + 1, s.first_seq) + :limit) - 1"
_HEAD = f"s.forked_at_seq IS NOT NULL, {session_rows.EXTENSION_DUE}"

# One round trip, for all sessions that are no forks: the rows of a session are all of its history. On PostgreSQL the
# rows come from a subquery that is closed to the planner by OFFSET 0, so that the bounds always end up in the index
# scan; in a plain join it may take them for a filter, and read the whole session. A subquery keeps its order here.
_READ = Statement(
    postgresql=f"""
    SELECT {_HEAD}, h.* FROM {{sessions}} AS s LEFT JOIN LATERAL (
        SELECT {entry_rows.COLUMNS} FROM {{history_entries}} AS h
        WHERE h.namespace = :namespace AND h.session_id = :session_id AND h.seq BETWEEN {_FROM} AND {_TO}
        ORDER BY h.seq OFFSET 0) AS h ON true
    WHERE s.namespace = :namespace AND s.session_id = :session_id AND {{live}}""",
    sqlite=f"""
    SELECT {_HEAD}, {entry_rows.COLUMNS} FROM {{sessions}} AS s
    LEFT JOIN {{history_entries}} AS h ON h.namespace = s.namespace AND h.session_id = s.session_id
        AND h.seq BETWEEN {_FROM} AND {_TO}
    WHERE s.namespace = :namespace AND s.session_id = :session_id AND {{live}}
    ORDER BY h.seq""",
)

# For a fork. The bounds of the window are inside the join with its segments: each segment reads only its share.
_READ_FORK = Statement(
    postgresql=f"""
    SELECT h.* FROM {{sessions}} AS s CROSS JOIN LATERAL (
        SELECT s.session_id AS owner, {_FROM} AS from_seq, {_TO} AS to_seq
        UNION ALL
        SELECT g.owner_session_id, greatest(g.from_seq, {_FROM}), least(g.to_seq, {_TO}) FROM {{session_segments}} AS g
        WHERE g.namespace = :namespace AND g.session_id = :session_id AND g.from_seq <= {_TO} AND g.to_seq >= {_FROM}
    ) AS piece CROSS JOIN LATERAL (
        SELECT {entry_rows.COLUMNS} FROM {{history_entries}} AS h WHERE h.namespace = :namespace
        AND h.session_id = piece.owner AND h.seq BETWEEN piece.from_seq AND piece.to_seq OFFSET 0) AS h
    WHERE s.namespace = :namespace AND s.session_id = :session_id""",
    sqlite=f"""
    SELECT {entry_rows.COLUMNS} FROM {{sessions}} AS s
    JOIN {{history_entries}} AS h ON h.namespace = s.namespace AND h.session_id = s.session_id
        AND h.seq BETWEEN {_FROM} AND {_TO}
    WHERE s.namespace = :namespace AND s.session_id = :session_id
    UNION ALL
    SELECT {entry_rows.COLUMNS} FROM {{sessions}} AS s
    JOIN {{session_segments}} AS g ON g.namespace = s.namespace AND g.session_id = s.session_id
    CROSS JOIN {{history_entries}} AS h ON h.namespace = g.namespace AND h.session_id = g.owner_session_id
        AND h.seq BETWEEN max(g.from_seq, {_FROM}) AND min(g.to_seq, {_TO})
    WHERE s.namespace = :namespace AND s.session_id = :session_id""",
)

_COUNT = Statement("""
    SELECT s.next_seq - s.first_seq FROM {sessions} AS s
    WHERE s.namespace = :namespace AND s.session_id = :session_id AND {live}""")

_IDS_POSTGRESQL = "h.entry_id = ANY (:entry_ids)"
_IDS_SQLITE = "h.entry_id IN (SELECT value FROM json_each(:entry_ids))"
_BY_ID = f"""
    SELECT {entry_rows.COLUMNS} FROM {{history_entries}} AS h
    WHERE h.namespace = :namespace AND h.session_id = :session_id AND %s
    UNION ALL
    SELECT {entry_rows.COLUMNS} FROM {{session_segments}} AS g
    JOIN {{history_entries}} AS h ON h.namespace = g.namespace AND h.session_id = g.owner_session_id
        AND h.seq BETWEEN g.from_seq AND g.to_seq
    WHERE g.namespace = :namespace AND g.session_id = :session_id AND %s"""
_FIND_BY_ID = Statement(
    postgresql=_BY_ID % (_IDS_POSTGRESQL, _IDS_POSTGRESQL), sqlite=_BY_ID % (_IDS_SQLITE, _IDS_SQLITE)
)

_SET_RANGE = Statement(f"""
    UPDATE {{sessions}} AS s
    SET first_seq = :first_seq, next_seq = :next_seq, last_turn = :last_turn, {session_rows.ACTIVE}
    WHERE s.namespace = :namespace AND s.session_id = :session_id""")

_DELETE_SUMMARIES = Statement("""
    DELETE FROM {summaries} WHERE namespace = :namespace AND session_id = :session_id AND end_seq > :last_seq""")


class HistoryRepository(Repository):
    """The ordered entries of a session. Positions (`seq`) start at 1 and have no gaps."""

    @writes_in_one_statement
    def append(
        self,
        session_id: str,
        entries: Sequence[NewEntry | Mapping[str, Any]],
        *,
        after_seq: int | None = None,
        create: bool = False,
    ) -> list[Entry]:
        """Append *entries* to the end of a session's history.

        All are stored or none. Their positions are consecutive and follow the order given; appends to one session
        queue behind each other and never interleave. Repeating an append is safe if the entries carry an `entry_id`
        or *after_seq* is given: what is stored already is returned and not stored again.

        Args:
            session_id: The session to append to.
            entries: What to append, oldest first: `NewEntry` or plain message mappings, which are kept verbatim.
                Empty is allowed and only checks that the session exists.
            after_seq: The position that the first entry is to follow; 0 for the start. Entries that stand there
                already are skipped.
            create: Make the session if there is none, or if it has expired; nothing of an expired one remains.

        Returns:
            The stored entries, with `seq`, `turn` and `created_at` filled in. Entries that *after_seq* finds stored
            but trimmed since are left out.

        Raises:
            SessionNotFoundError: No such session, or it has expired, and *create* is false. Nothing was written.
            ConflictError: *after_seq* lies behind the end; or other content stands at a position or under an
                `entry_id` that is stored already. Nothing was written.
            InvalidValueError: A payload is not exact JSON or is too large. Nothing was written.
        """
        checks.key(session_id, "session_id")
        checks.optional_count(after_seq, "after_seq")
        max_bytes = self._link.settings.max_value_bytes
        batch = self._once("batch", lambda: entry_rows.prepare(entries, max_bytes=max_bytes))

        own_ids = any(entry.own_id for entry in batch) or self._call.attempt > 1
        undisputed = after_seq is None and not own_ids
        if 0 < len(batch) <= _CHUNK and (undisputed or not self._link.in_transaction):
            stored = self._insert(session_id, batch, after_seq=after_seq, only_new=own_ids)
            if stored is not None:
                return stored
        self._needs_transaction()

        session = self._lock_or_create(session_id, create)
        present = self._already_stored(session, batch, after_seq)
        missing = [entry for index, entry in enumerate(batch) if index not in present]
        added: list[Entry] = []
        for start in range(0, len(missing), _CHUNK):
            added += self._insert(session_id, missing[start : start + _CHUNK]) or []
        fresh = iter(added)
        found = (present[index] if index in present else next(fresh) for index in range(len(batch)))
        return [entry for entry in found if entry is not None]

    @reads
    def read(
        self,
        session_id: str,
        *,
        last: int | None = None,
        after: int | None = None,
        before: int | None = None,
        limit: int | None = None,
    ) -> list[Entry]:
        """The entries of a session, oldest first; all of them if nothing else is asked for.

        One round trip, or two for a fork at any depth. Extends the session's TTL.

        Args:
            session_id: The session to read.
            last: Only the newest so many.
            after: Only entries behind this position.
            before: Only entries before this position. `before=` with `last=` pages backwards, `after=` with `limit=`
                forwards.
            limit: Only the oldest so many. Not together with *last*.

        Raises:
            SessionNotFoundError: No such session, or it has expired.
            InvalidValueError: A negative number, or *last* together with *limit*.
        """
        checks.key(session_id, "session_id")
        for name, value in {"last": last, "after": after, "before": before, "limit": limit}.items():
            checks.optional_count(value, name)
        if last is not None and limit is not None:
            raise InvalidValueError(
                "limit", "cannot be combined with last; one counts from the start, one from the end"
            )
        return self._read(session_id, last=last, after=after, before=before, limit=limit)

    @reads
    def get(self, session_id: str, seq: int) -> Entry:
        """The entry at one position. Extends the session's TTL.

        Raises:
            SessionNotFoundError: No such session, or it has expired.
            EntryNotFoundError: The session has no entry there, or no longer.
        """
        checks.key(session_id, "session_id")
        checks.count(seq, "seq")
        entries = self._read(session_id, after=max(seq - 1, 0), before=seq + 1) if seq < _FAR else []
        if not entries:
            raise EntryNotFoundError(session_id, seq)
        return entries[0]

    @reads
    def count(self, session_id: str) -> int:
        """How many entries the session has. Does not extend its TTL.

        Raises:
            SessionNotFoundError: No such session, or it has expired.
        """
        checks.key(session_id, "session_id")
        row = self._link.one(_COUNT, session_id=session_id)
        if row is None:
            raise session_rows.not_found(self._link, session_id)
        entries: int = row[0]
        return entries

    @writes_once
    def pop_last(self, session_id: str, n: int = 1) -> list[Entry]:
        """Take the newest *n* entries off the session, and return them, oldest first.

        Their positions are used again by the next append. Forks keep what they see. Summaries that reach into what
        was popped go too.

        Args:
            session_id: The session.
            n: How many; all, where it has fewer.

        Raises:
            SessionNotFoundError: No such session, or it has expired. Nothing was written.
        """
        checks.key(session_id, "session_id")
        checks.count(n, "n")
        session = self._lock_for_release(session_id).session
        popped = self._read(session_id, last=n)
        if popped:
            oldest = popped[0]
            turn = oldest.turn - (oldest.role == "user")
            self._shrink(session, first_seq=session.first_seq, next_seq=oldest.seq, last_turn=turn)
        return popped

    @writes
    def trim(self, session_id: str, *, keep_last: int) -> int:
        """Let go of all entries but the newest *keep_last*. Positions stay as they are; forks keep what they see.

        Returns:
            How many entries went.

        Raises:
            SessionNotFoundError: No such session, or it has expired. Nothing was written.
        """
        checks.key(session_id, "session_id")
        checks.count(keep_last, "keep_last")
        locked = self._lock_for_release(session_id)
        session = locked.session
        first_seq = max(session.first_seq, session.next_seq - keep_last)
        if first_seq > session.first_seq:
            self._shrink(session, first_seq=first_seq, next_seq=session.next_seq, last_turn=locked.last_turn)
        return first_seq - session.first_seq

    @writes
    def clear(self, session_id: str) -> int:
        """Empty the history, summaries included; the next entry is number 1 again. Forks keep what they see.

        The session itself and its state stay.

        Returns:
            How many entries went.

        Raises:
            SessionNotFoundError: No such session, or it has expired. Nothing was written.
        """
        checks.key(session_id, "session_id")
        session = self._lock_for_release(session_id).session
        self._shrink(session, first_seq=1, next_seq=1, last_turn=0)
        return session.entry_count

    def _insert(
        self, session_id: str, batch: Sequence[PreparedEntry], *, after_seq: int | None = None, only_new: bool = False
    ) -> list[Entry] | None:
        """Append what is known to be missing; None where the session, or a condition on it, does not hold."""
        turns = batch[-1].columns["turn"]
        columns = entry_rows.shape(batch)
        params: dict[str, Any] = {"session_id": session_id, "count": len(batch), "turns": turns}
        rows: Sequence[Row]
        if self._link.dialect.name == "sqlite":
            if after_seq is not None or only_new:
                return None
            head = self._link.one(_APPEND_SQLITE, **params)
            if head is None:
                return None
            first_seq, base_turn = head
            now = self._link.now()
            rows = [
                (first_seq + index, base_turn + entry.columns["turn"], entry.columns.get("created_at", now))
                for index, entry in enumerate(batch)
            ]
            self._link.many(
                entry_rows.insert_one(columns),
                [
                    dict.fromkeys(columns) | entry.columns | {"seq": seq, "turn": turn, "created_at": created_at}
                    for entry, (seq, turn, created_at) in zip(batch, rows, strict=True)
                ],
                session_id=session_id,
            )
        else:
            guard = (_IF_AT if after_seq is not None else "") + (_IF_NEW if only_new else "")
            update = _APPEND_UPDATE + guard + _APPEND_RETURNING
            params |= {"after_seq": after_seq, "entry_ids": [entry.entry_id for entry in batch]}
            params |= entry_rows.params(batch, columns)
            rows = self._link.all(entry_rows.insert_after_update(len(batch), columns, update), **params)
            if not rows:
                return None
            rows = sorted(rows)
        return [entry_rows.stored(self._link, session_id, entry, *row) for entry, row in zip(batch, rows, strict=True)]

    def _read(
        self,
        session_id: str,
        *,
        last: int | None = None,
        after: int | None = None,
        before: int | None = None,
        limit: int | None = None,
    ) -> list[Entry]:
        window = {
            "last": _FAR if last is None else min(last, _FAR),
            "after": min(after or 0, _FAR),
            "before": _FAR if before is None else min(before, _FAR),
            "limit": _FAR if limit is None else min(limit, _FAR),
        }
        rows = self._link.all(_READ, session_id=session_id, **window)
        if not rows:
            raise session_rows.not_found(self._link, session_id)
        is_fork, extension_due = rows[0][:2]
        entries = [row[2:] for row in rows if row[3] is not None]
        if is_fork:
            entries = sorted(self._link.all(_READ_FORK, session_id=session_id, **window), key=lambda row: row[1])
        if extension_due:
            session_rows.extend(self._link, session_id)
        return [entry_rows.from_row(self._link, session_id, row) for row in entries]

    def _lock_or_create(self, session_id: str, create: bool) -> Session:
        while True:
            locked = session_rows.lock_any(self._link, session_id)
            if locked is not None and not locked.expired:
                session_rows.mark_active(self._link, session_id)
                return locked.session
            if not create:
                raise session_rows.not_found(self._link, session_id)
            session_life.create(self._link, session_id, {})

    def _already_stored(
        self, session: Session, batch: Sequence[PreparedEntry], after_seq: int | None
    ) -> dict[int, Entry | None]:
        """Which of the batch the session has, by index in the batch; None for one that was trimmed since."""
        present: dict[int, Entry | None] = {}
        if batch and (self._call.attempt > 1 or any(entry.own_id for entry in batch)):
            ids = [entry.entry_id for entry in batch]
            rows = self._link.all(
                _FIND_BY_ID,
                session_id=session.session_id,
                entry_ids=orjson.dumps(ids).decode() if self._link.dialect.name == "sqlite" else ids,
            )
            by_id = {row[3]: entry_rows.from_row(self._link, session.session_id, row) for row in rows}
            present = {index: by_id[entry_id] for index, entry_id in enumerate(ids) if entry_id in by_id}
        if after_seq is not None:
            end = session.next_seq - 1
            if after_seq > end:
                raise ConflictError(
                    f"after_seq: session {session.session_id!r} ends at {end}, so that nothing can follow {after_seq}; "
                    "append what lies between first",
                    session_id=session.session_id,
                    expected=after_seq,
                    actual=end,
                )
            overlap = min(end - after_seq, len(batch))
            for index in range(overlap):
                present.setdefault(index, None)
            for entry in self._read(session.session_id, after=after_seq, limit=overlap):
                present[entry.seq - after_seq - 1] = entry
        for index, found in present.items():
            if found is not None and not _same_content(found, batch[index]):
                raise ConflictError(
                    f"entries[{index}]: session {session.session_id!r} holds another content at position {found.seq}",
                    session_id=session.session_id,
                    actual=found.seq,
                )
        return present

    def _lock_for_release(self, session_id: str) -> LockedSession:
        segments.lock_for_release(self._link, session_id)
        return session_rows.lock(self._link, session_id)

    def _shrink(self, session: Session, *, first_seq: int, next_seq: int, last_turn: int) -> None:
        """Release what lies outside the range *first_seq* to *next_seq* - 1, and give the session this range."""
        session_id = session.session_id
        segments.release(self._link, session_id, session.first_seq, min(first_seq, session.next_seq) - 1)
        segments.release(self._link, session_id, max(next_seq, session.first_seq), session.next_seq - 1)
        self._link.run(_SET_RANGE, session_id=session_id, first_seq=first_seq, next_seq=next_seq, last_turn=last_turn)
        self._link.run(_DELETE_SUMMARIES, session_id=session_id, last_seq=next_seq - 1)


def _same_content(stored: Entry, given: PreparedEntry) -> bool:
    same: bool = exactjson.dumps(stored.content, "content") == given.columns["content"]
    return same
