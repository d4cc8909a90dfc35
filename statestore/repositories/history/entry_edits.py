"""Changing a row of a history in place, for the one session that is to see the change.

A row that others see too, or that is another's, is replaced by a copy of the session's own first: then the others keep
theirs. On PostgreSQL a row that nobody else sees is changed by a single statement, as in `unshared`.

What an entry used is counted once. A row that is not in the usage ledger counts as it is; one that is there, or is
a copy, is taken out of it again by its own figures before these change, and counts as it is from then on. The other
rows that say the same of the entry, those that others still see and earlier copies, are marked then: if one of them
changes, too, nothing is taken out a second time.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from typing import Any

from statestore import schema
from statestore.engine.sql import Link, Params, Row, Statement
from statestore.engine.sql_parts import each
from statestore.repositories.history import entry_rows
from statestore.repositories.history.entry_rows import PreparedEntry
from statestore.repositories.sessions import segments, session_rows, unshared
from statestore.repositories.usage import ledger
from statestore.values.history import Entry
from statestore.values.sessions import Session

_OWN = "h.namespace = :namespace AND h.session_id = :session_id"
_AT = {"seq": "h.seq = :seq", "entry_id": "h.entry_id = :entry_id"}

UNCOUNTED = " AND h.usage_folded = 0"
NO_METADATA = " AND h.metadata IS NULL"
SAME_CONTENT = " AND CAST(h.content AS text) = :expected_content"
SAME_ID = " AND h.entry_id = :entry_id"
# PostgreSQL's own number of the transaction that wrote the row.
SAME_ROW = " AND CAST(h.xmin AS text) = :row_version"
# A user's message begins a turn: to make it another's would change the turns behind it.
SAME_TURN = " AND (CASE WHEN h.role = 'user' THEN 1 ELSE 0 END) = :begins_turn"

USED = (*schema.TOKEN_COLUMNS, "cost_usd")
# Of these the ledger keeps sums, or tells them apart.
_COUNTED = (
    *USED,
    *("duration_ms", "error_type", "agent_name", "provider_name", "request_model", "response_model"),
    *("tool_name", "tool_call_id", "role", "created_at"),
)

_FIND = {
    by: Statement(f"""
    SELECT NULL, {entry_rows.COLUMNS}, h.usage_folded, h.session_id FROM $history_entries AS h WHERE {_OWN} AND {at}
    UNION ALL
    SELECT NULL, {entry_rows.COLUMNS}, h.usage_folded, h.session_id FROM $session_segments AS g
    JOIN $history_entries AS h ON h.namespace = g.namespace AND h.session_id = g.owner_session_id
        AND h.seq BETWEEN g.from_seq AND g.to_seq
    WHERE g.namespace = :namespace AND g.session_id = :session_id AND {at}""")
    for by, at in _AT.items()
}

_LOOK = {
    by: Statement(
        postgresql=f"""
    SELECT CAST(h.xmin AS text), {entry_rows.COLUMNS} FROM $history_entries AS h WHERE {_OWN} AND {at}"""
    )
    for by, at in _AT.items()
}

# Whether any of a range is another's, or is seen by others.
_SHARED = Statement("""
    SELECT 1 FROM $session_segments AS g WHERE g.namespace = :namespace
        AND g.owner_session_id = :session_id AND g.from_seq <= :to_seq AND g.to_seq >= :from_seq
    UNION ALL
    SELECT 1 FROM $session_segments AS g WHERE g.namespace = :namespace
        AND g.session_id = :session_id AND g.from_seq <= :to_seq AND g.to_seq >= :from_seq
    LIMIT 1""")

_COPIED = tuple(
    str(column.name) for column in schema.history_entries.columns if column.name not in ("namespace", "session_id")
)
_SPECIAL = {"content": "CAST(h.content AS text)", "metadata": "CAST(h.metadata AS text)"} | {
    "usage_folded": "$greatest(h.usage_folded, 1)"
}
_COPY = ", ".join(_SPECIAL.get(name, f"h.{name}") for name in _COPIED)
_ROWS = Statement(f"""
    SELECT {_COPY} FROM $history_entries AS h WHERE {_OWN} AND h.seq BETWEEN :from_seq AND :to_seq
    UNION ALL
    SELECT {_COPY} FROM $session_segments AS g
    JOIN $history_entries AS h ON h.namespace = g.namespace AND h.session_id = g.owner_session_id
        AND h.seq BETWEEN g.from_seq AND g.to_seq AND h.seq BETWEEN :from_seq AND :to_seq
    WHERE g.namespace = :namespace AND g.session_id = :session_id""")
_INSERT = Statement(f"""
    INSERT INTO $history_entries (namespace, session_id, {", ".join(_COPIED)})
    VALUES (:namespace, :session_id, {each(":{}", _COPIED)})""")

# The figures of such a row are no longer counted: another row of the same entry has taken them away.
TAKEN_OUT = 2
_TAKE_OUT = Statement(f"""
    UPDATE $history_entries SET usage_folded = {TAKEN_OUT}
    WHERE namespace = :namespace AND session_id = :owner AND seq = :seq""")

# The rows that other sessions of the family have of an entry. The family comes first: an id may be any caller's "1".
_FAMILY = """
    WITH family AS (
        SELECT o.root_session_id AS root_id FROM $sessions AS o
        WHERE o.namespace = :namespace AND o.session_id = :session_id),
    others AS (
        SELECT f.root_id AS session_id FROM family AS f WHERE f.root_id <> :session_id
        UNION ALL
        SELECT s.session_id FROM family AS f CROSS JOIN $sessions AS s
        WHERE s.namespace = :namespace AND s.root_session_id = f.root_id AND s.root_session_id <> s.session_id
            AND s.session_id <> :session_id)
"""
_COPIES = f"""{_FAMILY}
    SELECT NULL, {entry_rows.COLUMNS}, h.usage_folded, h.session_id FROM others AS o CROSS JOIN $history_entries AS h
    WHERE h.namespace = :namespace AND h.session_id = o.session_id AND h.entry_id = :entry_id
        AND h.created_at = $time(:created_at) AND h.usage_folded < {TAKEN_OUT}"""
# Who prices entries later waits for no family.
_OTHER_ROWS = Statement(postgresql=f"{_COPIES} FOR NO KEY UPDATE OF h", sqlite=_COPIES)

_SHIFT_TURNS = Statement("""
    UPDATE $history_entries SET turn = turn + :turns
    WHERE namespace = :namespace AND session_id = :session_id AND seq >= :seq""")
_SHIFT_LAST_TURN = Statement("""
    UPDATE $sessions SET last_turn = last_turn + :turns WHERE namespace = :namespace AND session_id = :session_id""")


@dataclass(frozen=True, slots=True)
class Found:
    """An entry, whose row it is, and whether what it used is in the ledger: as in its column `usage_folded`."""

    entry: Entry
    folded: int
    owner: str


def find(link: Link, session_id: str, by: str, key: Any) -> Found | None:
    """The entry with this `seq` or `entry_id` that the session sees. Its row is locked."""
    row = link.one(_FIND[by], session_id=session_id, **{by: key})
    if row is None:
        return None
    return _found(link, session_id, row)


def _found(link: Link, session_id: str, row: Row) -> Found:
    *columns, folded, owner = row
    (entry,) = entry_rows.from_rows(link, session_id, [tuple(columns)])
    return Found(entry, folded, owner)


def look(link: Link, session_id: str, by: str, key: Any) -> tuple[Entry, str] | None:
    """A row of the session's own as it is now, and its version for `SAME_ROW`; None if it has none. PostgreSQL."""
    row = link.one(_LOOK[by], session_id=session_id, **{by: key})
    if row is None:
        return None
    version, *_ = row
    return entry_rows.from_rows(link, session_id, [row])[0], version


def change_at_once(
    link: Link, session_id: str, by: str, columns: Params, conditions: Iterable[str], **params: Any
) -> Entry | None:
    """Change a row in one statement, if only this session sees it and the conditions hold; None if not. PostgreSQL."""
    statement = _at_once(tuple(columns), by, tuple(conditions))
    rows = link.all(statement, session_id=session_id, **{f"new_{name}": columns[name] for name in columns}, **params)
    return entry_rows.from_rows(link, session_id, rows)[0] if rows else None


def change(link: Link, session: Session, found: Found, columns: Params, *, turns: int = 0) -> Entry:
    """Change a row of what the session sees, in a transaction that holds the locks for a release.

    Args:
        link: The connection.
        session: The session, which is locked.
        found: What is there.
        columns: What becomes of it.
        turns: How many turns more begin at it: 1, 0 or -1.
    """
    session_id, seq = session.session_id, found.entry.seq
    place: Params = {"session_id": session_id, "from_seq": seq, "to_seq": session.next_seq - 1 if turns else seq}
    shared = link.one(_SHARED, **place) is not None
    counted = shared or found.folded > 0 or found.owner != session_id
    differs = counts_differently(found, columns)
    others = _others(link, session_id, found) if differs and found.folded != TAKEN_OUT else []
    inherited = session.forked_at_seq is not None and seq <= session.forked_at_seq
    if found.folded == 1 and inherited and others and _is_silent(found, columns):
        differs = False  # A fork's copy: for those who still say what the entry used, it stays counted.
    takes_out = counted and differs and found.folded != TAKEN_OUT
    cost_usd = _take_out(link, found, others, shared=shared) if differs and found.folded != TAKEN_OUT else None
    if shared:
        _copy(link, place, count=seq if takes_out else None)
    if takes_out:
        if cost_usd != found.entry.cost_usd:
            _update(link, session_id, seq, {"cost_usd": cost_usd})
        ledger.unfold(link, session_id, seq)
    if turns:
        link.run(_SHIFT_TURNS, session_id=session_id, seq=seq, turns=turns)
        link.run(_SHIFT_LAST_TURN, session_id=session_id, turns=turns)
    changed = _update(link, session_id, seq, columns | ({"usage_folded": 0} if counted and differs else {}))
    session_rows.mark_active(link, session_id)
    return changed


def _take_out(link: Link, found: Found, others: Iterable[Found], *, shared: bool) -> Decimal | None:
    """See to it that what an entry used is in the ledger, and marked in the rows of *others*: it is to be taken away.

    A row of the session's own that nobody shares, and that is not in the ledger, stays as it is: it is what counts.

    Returns:
        What it cost. A price that was applied later may be in one of its rows alone.
    """
    cost_usd = found.entry.cost_usd
    marked = {found.owner: found.entry.seq} if shared else {}
    counting = {} if found.folded else dict(marked)
    for other in others:
        if other.folded == 0 and found.folded == 1:
            if counting:
                continue  # That is counted a second time, as it was said a second time.
            counting[other.owner] = other.entry.seq
        elif other.folded == 0 and other.owner != found.owner:
            continue  # Counted for itself, as this one is.
        marked[other.owner] = other.entry.seq
        cost_usd = other.entry.cost_usd if cost_usd is None else cost_usd
    for owner, seq in counting.items():
        ledger.fold(link, owner, seq, seq)
    link.many(_TAKE_OUT, [{"owner": owner, "seq": seq} for owner, seq in marked.items()])
    return cost_usd


def _others(link: Link, session_id: str, found: Found) -> list[Found]:
    """The rows that other sessions have of the same entry that say the same of what it used, unless it is taken out."""
    entry = found.entry
    params = {"entry_id": entry.entry_id, "created_at": entry.created_at}
    rows = [_found(link, session_id, row) for row in link.all(_OTHER_ROWS, session_id=session_id, **params)]
    mine = figures(entry)
    return [row for row in rows if _used_the_same(mine, figures(row.entry))]


def _used_the_same(mine: Params, others: Params) -> bool:
    priced_later = mine["cost_usd"] is None or others["cost_usd"] is None
    return all(_same(mine[name], others[name]) for name in USED if name != "cost_usd" or not priced_later)


def _copy(link: Link, place: Params, *, count: int | None) -> None:
    """Make the rows of a range the session's own, which nobody else sees.

    What the copies used is counted already: for the session itself, whose rows are folded as they are let go of, or for
    the one that they belong to. That at the position *count* was taken out of the ledger just now for its copy.
    """
    rows = [dict(zip(_COPIED, row, strict=True)) for row in link.all(_ROWS, **place)]
    segments.release(link, **place)
    for row in rows:
        if row["seq"] == count:
            row["usage_folded"] = 1
    link.many(_INSERT, rows, session_id=place["session_id"])


def counts_differently(found: Found, columns: Mapping[str, Any]) -> bool:
    """Whether the reports have to say something else of a row that is counted already, or it loses its copies.

    They are known by the entry's id: with another one it counts for itself, and not for them any more. What was taken
    out counts again only if it names other tokens or another cost.
    """
    old = figures(found.entry)
    new = old | {name: columns[name] for name in _COUNTED if name in columns}
    keeps_id = columns.get("entry_id", found.entry.entry_id) == found.entry.entry_id
    if keeps_id and all(_same(old[name], new[name]) for name in (USED if found.folded == TAKEN_OUT else _COUNTED)):
        return False
    # Of a row of another's the other says what it used; a copy that does not say takes nothing of that away.
    return found.owner == found.entry.session_id or not _is_silent(found, columns)


def _is_silent(found: Found, columns: Mapping[str, Any]) -> bool:
    """Whether the entry said what it used, and no longer does."""
    old = figures(found.entry)
    return _reports_usage(old) and not _reports_usage({**old, **columns})


def counted_columns(entry: PreparedEntry) -> Params:
    """What an entry that is to be stored says of what is counted. Its time stays unless it gives one."""
    names = (name for name in _COUNTED if name != "created_at" or name in entry.columns)
    return {name: entry.columns.get(name) for name in names}


def figures(entry: Entry) -> Params:
    """An entry's columns, as far as they are counted."""
    given = {name: getattr(entry, name) for name in _COUNTED if hasattr(entry, name)}
    given |= {name: getattr(entry.usage, name) for name in schema.TOKEN_COLUMNS}
    return given | {"duration_ms": entry_rows.milliseconds(entry.duration, "duration")}


def _same(old: Any, new: Any) -> bool:
    # SQLite keeps costs as floats, and durations are floats everywhere.
    return bool(old == new or (old is not None and new is not None and _number(old) == _number(new)))


def _number(value: Any) -> Any:
    return value if isinstance(value, str) or hasattr(value, "tzinfo") else round(float(value), 6)


def _reports_usage(columns: Mapping[str, Any]) -> bool:
    return any(columns[name] is not None for name in USED)


def _update(link: Link, session_id: str, seq: int, columns: Params) -> Entry:
    given = {f"new_{name}": value for name, value in columns.items()}
    rows = link.all(_in_place(tuple(columns)), session_id=session_id, seq=seq, **given)
    return entry_rows.from_rows(link, session_id, rows)[0]


def _assignments(columns: tuple[str, ...], *, casts: bool) -> str:
    kinds = entry_rows.KINDS
    template = "CAST(:new_{0} AS {1})" if casts else ":new_{0}"
    return ", ".join(f"{name} = {template.format(name, kinds[name])}" for name in columns)


@lru_cache(maxsize=128)
def _at_once(columns: tuple[str, ...], by: str, conditions: tuple[str, ...]) -> Statement:
    row = f"{_OWN} AND {_AT[by]}{''.join(conditions)}"
    return Statement(
        postgresql=f"""
    WITH held AS MATERIALIZED (
        SELECT CAST(s.xmin AS text) AS version FROM $sessions AS s
        WHERE s.namespace = :namespace AND s.session_id = :session_id AND $live $lock),
    own AS MATERIALIZED (
        SELECT s.session_id AS id FROM $sessions AS s JOIN held ON held.version = CAST(s.xmin AS text)
        WHERE s.namespace = :namespace AND s.session_id = :session_id AND NOT {unshared.HAS_FAMILY}
            AND EXISTS (SELECT 1 FROM $history_entries AS h WHERE {row})),
    active AS (
        UPDATE $sessions AS s SET {session_rows.ACTIVE} FROM own
        WHERE s.namespace = :namespace AND s.session_id = own.id RETURNING 1)
    UPDATE $history_entries AS h SET {_assignments(columns, casts=True)} FROM own
    WHERE h.session_id = own.id AND {row} RETURNING NULL, {entry_rows.COLUMNS}"""
    )


@lru_cache(maxsize=128)
def _in_place(columns: tuple[str, ...]) -> Statement:
    update = """
    UPDATE $history_entries SET {0}
    WHERE namespace = :namespace AND session_id = :session_id AND seq = :seq RETURNING NULL, {1}"""
    returned = entry_rows.ENTRY.select()
    return Statement(
        postgresql=update.format(_assignments(columns, casts=True), returned),
        sqlite=update.format(_assignments(columns, casts=False), returned),
    )
