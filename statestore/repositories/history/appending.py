"""Adding entries at the end of a session: in one statement if nothing needs a decision.

A tool's result carries the id of the call that it answers, and seldom the name of the tool. It gets that name from the
call, so that its error and its duration count for the tool. The call may come before it in the same append, or have
been stored by an earlier one: then the newest entries of the session are searched, with one more statement for all that
is appended together. For a fork these are its own entries, not those that it shares.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from functools import lru_cache
from typing import Any

from statestore.checking import exactjson, messages
from statestore.engine.sql import Link, Params, Row, Statement
from statestore.errors import ConflictError
from statestore.repositories.history import entry_rows, follows
from statestore.repositories.history.entry_rows import PreparedEntry
from statestore.repositories.sessions import session_life, session_rows
from statestore.repositories.sessions.session_rows import PartHints
from statestore.repositories.usage import price_rows
from statestore.schema import TOKEN_COLUMNS
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
# To look for what a session belongs to would make each append cost 1.05 times as much. It is done if the session is
# known to be a part; of others an append only finds out whether they are one.
_WHOLE = {True: session_rows.WHOLE_DUE, False: "s.belongs_to IS NOT NULL"}
_AND_ENDS = {True: ", s.ttl, s.expires_at", False: ""}
_THEN = f""",
        woken AS MATERIALIZED (SELECT {follows.notify("s")} FROM session AS s)
        SELECT added.seq, added.turn, added.created_at, %s AS whole_due FROM session AS s, woken, added"""
_AND_WHOLE_SQLITE = f", {session_rows.WHOLE_DUE_SQLITE}"

# An append is tried as if there was nothing to decide, and rerun under the lock if there is: `append` in
# `repository.py` then looks for what is stored already.
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
    wanted = "".join(sql for sql, wanted in (*conditions, (price_rows.UNCHANGED, priced)) if wanted)
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
        only_new: Only if the session has none of the ids, and is not a fork. On PostgreSQL inside a transaction this
            needs *after_seq*: the ids are looked for before the statement waits for the session's row, and what others
            have added meanwhile shows in the position alone.
        lease_token: Only while the lease with this token is valid.
        row_version: Only if the session's row was not written since it had this `xmin`. PostgreSQL.
    """
    [batch] = complete_tools(link, [(session_id, batch)])
    batch, prices_revision = entry_rows.price(link, batch)
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


# A call is answered right away, so it is among the newest entries. By the primary key, so the search costs little
# however long the session is.
_SEARCHED = 100

# The column has the first id of an entry. The others are in its content, which is fetched only for them.
_CALLS = """
    SELECT h.session_id, h.tool_call_id, h.tool_name, CASE WHEN {another} THEN CAST(h.content AS text) END
    FROM $sessions AS s JOIN $history_entries AS h
        ON h.namespace = s.namespace AND h.session_id = s.session_id AND h.seq >= s.next_seq - :searched
    WHERE s.namespace = :namespace AND s.session_id {sessions} AND $live
        AND h.tool_call_id IS NOT NULL AND h.tool_name IS NOT NULL AND (h.role IS NULL OR h.role <> 'tool')
        AND (h.tool_call_id $in(:call_ids) OR {another})
    ORDER BY h.seq"""
_ANOTHER = {
    "postgresql": """EXISTS (SELECT 1 FROM unnest(CAST(:call_ids AS text[])) AS w (id)
        WHERE w.id <> h.tool_call_id AND strpos(CAST(h.content AS text), w.id) > 0)""",
    "sqlite": """EXISTS (SELECT 1 FROM json_each(:call_ids) AS w
        WHERE w.value <> h.tool_call_id AND instr(h.content, w.value) > 0)""",
}


def _find(sessions: str) -> Statement:
    texts = {name: _CALLS.format(another=another, sessions=sessions) for name, another in _ANOTHER.items()}
    return Statement(postgresql=texts["postgresql"], sqlite=texts["sqlite"])


# Most appends are to one session. PostgreSQL plans a list of sessions anew at each call, which takes a third longer.
_FIND_IN_ONE = _find("= :session_id")
_FIND_IN_SEVERAL = _find("$in(:session_ids)")

_Calls = dict[tuple[str, str], str]
"""The names of the tools, by the session and the call's id."""


def complete_tools(link: Link, appends: Iterable[tuple[str, Sequence[PreparedEntry]]]) -> list[Sequence[PreparedEntry]]:
    """Give the results among the entries of some sessions the names of the tools; in the order given."""
    listed = list(appends)
    missing = {(session_id, call_id) for session_id, batch in listed for call_id in _missing(batch)}
    if not missing:
        return [batch for _, batch in listed]
    calls: _Calls = {}
    for session_id, batch in listed:
        calls |= {(session_id, call_id): name for call_id, name in _made(batch)}
    if unknown := missing - calls.keys():
        calls = _stored(link, unknown) | calls
    return [[_named(entry, session_id, calls) for entry in batch] for session_id, batch in listed]


def awaits_tool(entry: PreparedEntry) -> bool:
    """Whether an entry is a result that does not name its tool."""
    columns = entry.columns
    return columns["role"] == "tool" and "tool_call_id" in columns and "tool_name" not in columns


def with_tool(entry: PreparedEntry, name: str | None) -> PreparedEntry:
    """The entry as that of a tool, if *name* is known."""
    return entry if name is None else replace(entry, columns={**entry.columns, "tool_name": name})


def _missing(batch: Sequence[PreparedEntry]) -> list[str]:
    return [entry.columns["tool_call_id"] for entry in batch if awaits_tool(entry)]


def _made(batch: Sequence[PreparedEntry]) -> Iterable[tuple[str, str]]:
    for entry in batch:
        call_id, name = entry.columns.get("tool_call_id"), entry.columns.get("tool_name")
        if name is None or call_id is None or entry.columns["role"] == "tool":
            continue
        yield from _calls_in(entry.content)
        yield call_id, name


def _calls_in(content: object) -> Iterable[tuple[str, str]]:
    for call in messages.tools(content)[0] if isinstance(content, dict) else ():
        if call.call_id is not None and call.name is not None:
            yield call.call_id, call.name


def _stored(link: Link, wanted: set[tuple[str, str]]) -> _Calls:
    params: Params = {"call_ids": sorted({call_id for _, call_id in wanted}), "searched": _SEARCHED}
    sessions = sorted({session_id for session_id, _ in wanted})
    if len(sessions) == 1:
        rows = link.all(_FIND_IN_ONE, session_id=sessions[0], **params)
    else:
        rows = link.all(_FIND_IN_SEVERAL, session_ids=sessions, **params)
    found: _Calls = {}
    for session_id, call_id, name, content in rows:
        if content is not None:
            made = _calls_in(exactjson.loads(content))
            found |= {(session_id, another): tool for another, tool in made}
        found[session_id, call_id] = name
    return found


def _named(entry: PreparedEntry, session_id: str, calls: _Calls) -> PreparedEntry:
    return with_tool(entry, calls.get((session_id, entry.columns["tool_call_id"]))) if awaits_tool(entry) else entry


def has_same_content(stored: Entry, given: PreparedEntry) -> bool:
    same: bool = exactjson.text(stored.content) == given.columns["content"]
    return same


def difference(stored: Entry, given: PreparedEntry) -> str | None:
    """The first field in which both differ; None if there is none.

    What the store fills in by itself is not a difference: a cost, a time or a turn that was not given, or what is read
    from the content, which may be more than an older version read from it. A plain message is its content alone.
    """
    if not has_same_content(stored, given):
        return "content"
    if given.given is None:
        return None
    columns = given.given
    for name in entry_rows.NAMES:
        if name == "tool_name" and name not in columns and stored.role == "tool" and stored.tool_call_id is not None:
            continue  # Taken from the call that it answers, if that was found.
        if (name in columns or given.columns.get(name) is None) and columns.get(name) != getattr(stored, name):
            return name
    for name in TOKEN_COLUMNS:
        if (name in columns or given.columns.get(name) is None) and columns.get(name) != getattr(stored.usage, name):
            return f"usage.{name}"
    if exactjson.canonical(given.metadata) != exactjson.canonical(stored.metadata):
        return "metadata"
    # SQLite keeps costs as floats.
    cost = columns.get("cost_usd")
    if cost is not None and (stored.cost_usd is None or float(cost) != float(stored.cost_usd)):
        return "cost_usd"
    milliseconds = columns.get("duration_ms")
    if (None if milliseconds is None else timedelta(milliseconds=milliseconds)) != stored.duration:
        return "duration"
    if "created_at" in columns and columns["created_at"] != stored.created_at:
        return "created_at"
    return None


def another(session_id: str, index: int, stored: Entry, same_id: bool, field: str) -> ConflictError:
    """The error of an append whose entry differs in *field* from the one that is stored in its place."""
    under = f" under entry_id {stored.entry_id!r}," if same_id else ""
    return ConflictError(
        f"entries[{index}]: session {session_id!r} already has an entry with another {field}{under} at position "
        f"{stored.seq}; give the entry as it was stored, or append it under another entry_id",
        session_id=session_id,
        entry_id=stored.entry_id,
        field=field,
        actual=stored.seq,
    )
