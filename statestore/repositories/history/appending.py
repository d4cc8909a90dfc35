"""Adding entries at the end of a session: in one statement if nothing needs a decision."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

from statestore.engine.sql import Link, Row, Statement
from statestore.repositories.history import entry_rows, notify, pricing, tool_names
from statestore.repositories.history.entry_rows import PreparedEntry
from statestore.repositories.sessions import session_life, session_rows
from statestore.repositories.sessions.hints import PartHints
from statestore.values.history import Entry
from statestore.values.sessions import Lease, Session

# Entries of one statement. A statement takes 65,535 parameters on PostgreSQL, an entry at most 22.
CHUNK = 500

_UPDATE = f"""
    UPDATE $sessions AS s
    SET next_seq = s.next_seq + :count, last_turn = s.last_turn + :turns, {session_rows.ACTIVE}
    WHERE s.namespace = :namespace AND s.session_id = :session_id AND $live"""
_RETURNING = " RETURNING next_seq - :count AS first_seq, last_turn - :turns AS base_turn"
_RETURNING_POSTGRESQL = f"{_RETURNING}, s.namespace, s.session_id, s.belongs_to"
# An append would cost 1.05 if it looked for the whole of any session. It does if the session is known to be a part, and
# of others it only finds out that they are.
_WHOLE = {True: session_rows.WHOLE_DUE, False: "s.belongs_to IS NOT NULL"}
_AND_ENDS = {True: ", s.ttl, s.expires_at", False: ""}
_THEN = f""",
        woken AS MATERIALIZED (SELECT {notify.wake("s")} FROM session AS s)
        SELECT added.seq, added.turn, added.created_at, %s AS whole_due FROM session AS s, woken, added"""
_AND_WHOLE_SQLITE = f", {session_rows.WHOLE_DUE_SQLITE}"

# An append is tried as if there was nothing to decide, and rerun under the lock if there is.
_IF_AT = " AND s.next_seq - 1 = :after_seq"
# PostgreSQL's own number of the transaction that wrote the row: unlike the time of the last activity it never repeats.
_IF_SAME_ROW = " AND CAST(s.xmin AS text) = :row_version"
_IF_NEW = " AND s.forked_at_seq IS NULL AND NOT EXISTS "
_IF_NEW_SQLITE = f"""{_IF_NEW}(
        SELECT 1 FROM $history_entries AS h WHERE h.namespace = :namespace AND h.session_id = :session_id
        AND h.entry_id $in(:entry_ids))"""
# Each id by the unique index on ids: while a table is not analyzed, any index that begins with the namespace looks as
# good, and reads the whole session, or all of them. Hence the namespace is compared outside.
_IF_NEW_POSTGRESQL = f"""{_IF_NEW}(
        SELECT 1 FROM unnest(CAST(:entry_ids AS text[])) AS w (entry_id), LATERAL (
            SELECT h.namespace FROM $history_entries AS h
            WHERE h.entry_id = w.entry_id AND h.session_id = :session_id$pin(h) OFFSET 0) AS h
        WHERE h.namespace = :namespace)"""

_SQLITE = {
    (at, new, leased): Statement(
        sqlite=_UPDATE
        + (_IF_AT if at else "")
        + (_IF_NEW_SQLITE if new else "")
        + (session_rows.HELD if leased else "")
        + _RETURNING
        + _AND_WHOLE_SQLITE
    )
    for at in (False, True)
    for new in (False, True)
    for leased in (False, True)
}


@lru_cache(maxsize=1024)
def _postgresql(
    count: int, columns: tuple[str, ...], *, at: bool, new: bool, same: bool, leased: bool, priced: bool, part: bool
) -> Statement:
    conditions = (_IF_AT, at), (_IF_NEW_POSTGRESQL, new), (_IF_SAME_ROW, same), (session_rows.HELD, leased)
    wanted = "".join(sql for sql, wanted in (*conditions, (pricing.UNCHANGED, priced)) if wanted)
    update = _UPDATE + wanted + _RETURNING_POSTGRESQL + _AND_ENDS[part]
    return entry_rows.insert_after_update(count, columns, update, _THEN % _WHOLE[part])


def insert(
    link: Link,
    session_id: str,
    batch: Sequence[PreparedEntry],
    *,
    after_seq: int | None = None,
    only_new: bool = False,
    lease_token: int | None = None,
    row_version: str | None = None,
) -> list[Entry] | None:
    """Append entries that are known to be missing; None if the session is missing, or a condition on it fails.

    Args:
        link: On SQLite inside a transaction.
        session_id: The session.
        batch: One to `CHUNK` entries.
        after_seq: Only if this is the last position.
        only_new: Only if the session has none of the ids, and is no fork. On PostgreSQL inside a transaction this needs
            *after_seq*: the ids are looked for before the statement waits for the session's row, and what others have
            added meanwhile shows in the position alone.
        lease_token: Only while the lease with this token is valid.
        row_version: Only if the session's row was not written since it had this `xmin`. PostgreSQL.
    """
    [batch] = tool_names.complete(link, [(session_id, batch)])
    batch, prices_revision = pricing.price(link, batch)
    turns = batch[-1].columns["turn"]
    columns = entry_rows.shape(batch)
    params: dict[str, Any] = {
        "session_id": session_id,
        "count": len(batch),
        "turns": turns,
        "after_seq": after_seq,
        "lease_token": lease_token,
        "row_version": row_version,
        "prices_revision": prices_revision,
    }
    rows: Sequence[Row]
    if only_new:
        params["entry_ids"] = [entry.entry_id for entry in batch]
    if link.dialect.name == "sqlite":
        head = link.one(_SQLITE[after_seq is not None, only_new, lease_token is not None], **params)
        if head is None:
            return None
        *first, whole_due = head
        rows = _insert_each(link, session_id, batch, columns, *first)
    else:
        parts = link.settings.of(PartHints)
        statement = _postgresql(
            len(batch),
            columns,
            at=after_seq is not None,
            new=only_new,
            same=row_version is not None,
            leased=lease_token is not None,
            priced=prices_revision is not None,
            part=session_id in parts,
        )
        found = sorted(link.all(statement, **params, **entry_rows.params(batch, columns)))
        if not found:
            return None
        whole_due = found[0][-1]
        if whole_due:
            parts.add(session_id)
        rows = [row[:-1] for row in found]
    session_rows.extend_whole(link, session_id, whole_due)
    return [entry_rows.stored(link, session_id, entry, *row) for entry, row in zip(batch, rows, strict=True)]


def insert_all(link: Link, session_id: str, batch: Sequence[PreparedEntry]) -> list[Entry]:
    """Append any number of entries to a session whose row is locked, or whose row this locks."""
    added: list[Entry] = []
    for start in range(0, len(batch), CHUNK):
        stored = insert(link, session_id, _counted_from_here(batch[start : start + CHUNK]))
        assert stored is not None, "the session's row is held, and it lives"
        added += stored
    return added


def lock(
    link: Link, session_id: str, *, create: Mapping[str, Any] | None = None, lease: Lease | None = None
) -> Session:
    """Lock the session's row, mark it active, and return it.

    *create* are the columns with which to make one that is missing or expired.

    Raises:
        SessionNotFoundError: No such session, or it has expired, and *create* is None.
        StaleLeaseError: *lease* is no longer valid.
    """
    while True:
        locked = session_rows.lock_any(link, session_id)
        if locked is not None and not locked.expired:
            if lease is not None:
                session_rows.check_lease(link, lease)
            session_rows.mark_active(link, session_id)
            return locked.session
        if create is None:
            raise session_rows.not_found(link, session_id)
        made = session_life.create(link, session_id, create)
        if made is not None:
            if lease is not None:
                session_rows.check_lease(link, lease)
            return made


def _counted_from_here(batch: Sequence[PreparedEntry]) -> list[PreparedEntry]:
    """The entries with their turns counted from the first of them: they may be part of a larger batch."""
    counted: list[PreparedEntry] = []
    turn = 0
    for entry in batch:
        turn += entry.columns["role"] == "user"
        counted.append(
            entry if entry.columns["turn"] == turn else replace(entry, columns={**entry.columns, "turn": turn})
        )
    return counted


def _insert_each(
    link: Link, session_id: str, batch: Sequence[PreparedEntry], columns: tuple[str, ...], first_seq: int, turn: int
) -> list[Row]:
    now = link.now()
    rows = [
        (first_seq + index, turn + entry.columns["turn"], entry.columns.get("created_at", now))
        for index, entry in enumerate(batch)
    ]
    link.many(
        entry_rows.insert_one(columns),
        [
            dict.fromkeys(columns) | entry.columns | {"seq": seq, "turn": turn, "created_at": created_at}
            for entry, (seq, turn, created_at) in zip(batch, rows, strict=True)
        ],
        session_id=session_id,
    )
    return rows
