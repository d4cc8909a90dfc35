"""Appends of several callers, to any sessions, in one statement and one commit.

Only what is undisputed travels in a batch: entries with ids of our own, behind whatever comes last. An append that
finds no session, or that needs a decision, is left out of it and run by itself, and so gets its own error.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import Any

from statestore.checking import checks
from statestore.engine.calls import Batching, Call
from statestore.engine.sql import Link, Params, Row, Settings, Statement
from statestore.engine.sql_parts import arrays, unnest
from statestore.repositories.history import appending, entry_rows, follows
from statestore.repositories.history.entry_rows import PreparedEntry
from statestore.repositories.sessions import session_rows
from statestore.repositories.usage import price_rows
from statestore.values.history import Entry, NewEntry

# Beyond this an append is large enough to travel alone.
_LARGEST = 50
# In bytes of JSON, likewise: the others of its batch would wait for it to be written, sent and stored.
_LARGEST_BYTES = 64 * 1024
# The limit for a whole batch: what does not fit is run by itself.
_ROOM = 1024 * 1024
_PLAIN = frozenset({"session_id", "entries", "create"})


@dataclass(slots=True)
class BatchedAppend:
    """An append in a batch: its entries on the way in, what was stored on the way out."""

    session_id: str
    batch: Sequence[PreparedEntry]
    size: int
    result: list[Entry] | None = None


class AppendBatching(Batching[BatchedAppend]):
    """Appends of entries with ids of our own, behind whatever comes last: what nobody disputes."""

    writes = True
    room = _ROOM

    def key(self, call: Call, settings: Settings) -> str | None:
        """The session."""
        # What a session is to be like is checked even if it is there: by its own call.
        if (
            not call.kwargs.keys() <= _PLAIN
            or call.attempt > 1
            or not isinstance(call.kwargs.get("create", False), bool)
        ):
            return None
        session_id = call.args[0] if call.args else call.kwargs.get("session_id")
        entries = call.args[1] if len(call.args) > 1 else call.kwargs.get("entries")
        # What can be gone through only once, or does something when it is, is for its own caller alone.
        return session_id if isinstance(session_id, str) and isinstance(entries, list | tuple) else None

    def prepare(self, call: Call, settings: Settings) -> BatchedAppend | None:
        names = ("session_id", "entries")
        arguments = dict(zip(names, call.args, strict=False)) | call.kwargs
        if len(call.args) > len(names) or "entries" not in arguments:
            return None
        try:
            session_id = checks.key(arguments["session_id"], "session_id")
            if "batch" not in call.memo:
                if _is_large(arguments["entries"]):
                    return None
                call.memo["batch"] = entry_rows.prepare(arguments["entries"], max_bytes=settings.max_value_bytes)
        except Exception:  # A caller's mapping, for example, may raise anything.
            return None
        batch: list[PreparedEntry] = call.memo["batch"]
        if not 0 < len(batch) <= _LARGEST or any(entry.own_id for entry in batch):
            return None
        size = sum(entry.columns["content_bytes"] for entry in batch)
        return BatchedAppend(session_id, batch, size) if size <= _LARGEST_BYTES else None

    def run(self, link: Link, items: Sequence[BatchedAppend]) -> None:
        """Store the appends whose session lives. Those to one session are stored in the order given.

        PostgreSQL: one statement. SQLite: inside a transaction.
        """
        if link.dialect.name == "sqlite":
            for one in items:
                one.result = appending.insert(link, one.session_id, one.batch)
            return
        revisions: set[int] = set()
        completed = appending.complete_tools(link, [(one.session_id, one.batch) for one in items])
        for one, batch in zip(items, completed, strict=True):
            one.batch, revision = entry_rows.price(link, batch)
            revisions |= set() if revision is None else {revision}
        entries: list[Params] = []
        counts: dict[str, int] = {}
        turns: dict[str, int] = {}
        for one in items:
            position, turn = counts.get(one.session_id, 0), turns.get(one.session_id, 0)
            for offset, entry in enumerate(one.batch):
                place = {
                    "session_id": one.session_id,
                    "position": position + offset,
                    "turn": turn + entry.columns["turn"],
                }
                entries.append(entry.columns | place)
            counts[one.session_id] = position + len(one.batch)
            turns[one.session_id] = turn + one.batch[-1].columns["turn"]

        columns = entry_rows.shape([entry for one in items for entry in one.batch])
        wanted = [{"session_id": one, "count": counts[one], "turns": turns[one]} for one in counts]
        rows = link.all(
            _statement(columns, bool(revisions)),
            # Prices that changed between two of the appends are not a single revision: then all are run by themselves.
            prices_revision=min(revisions) if len(revisions) == 1 else -1,
            **arrays(wanted, _WANTED, "wanted_{}_array"),
            **arrays(entries, (*_PLACE, *_ALWAYS, *columns)),
        )
        by_session: dict[str, list[Row]] = {}
        for session_id, *row, _ in sorted(rows):
            by_session.setdefault(session_id, []).append(tuple(row))
        if rows and rows[0][-1]:
            session_rows.extend_many(link, list(by_session))
        taken = dict.fromkeys(by_session, 0)
        for one in items:
            if one.session_id not in by_session:
                continue
            start = taken[one.session_id]
            taken[one.session_id] = start + len(one.batch)
            stored = by_session[one.session_id][start : start + len(one.batch)]
            one.result = [
                entry_rows.stored(link, one.session_id, entry, *row)
                for entry, row in zip(one.batch, stored, strict=True)
            ]


APPENDS = AppendBatching()


def _is_large(entries: Sequence[Any]) -> bool:
    """Whether entries look large: this check costs next to nothing, unlike writing them as JSON."""
    left = _LARGEST_BYTES
    todo = list(entries[: _LARGEST + 1])
    for _ in range(10 * _LARGEST):
        if left < 0 or not todo:
            break
        value = todo.pop()
        if isinstance(value, NewEntry):
            value = value.content
        if isinstance(value, str):
            left -= len(value)
        elif isinstance(value, dict):
            left -= len(value)
            todo.extend(islice(value.values(), 20))
        elif isinstance(value, list):
            left -= len(value)
            todo.extend(value[:20])
    return left < 0


# The columns of the two tables that come as arrays: the sessions, and the entries with their places in them.
_WANTED = {"session_id": "text", "count": "bigint", "turns": "bigint"}
_PLACE = {"session_id": "text", "position": "bigint", "turn": "bigint"}
_ALWAYS = {"entry_id": "text", "role": "text", "content": "text", "content_bytes": "bigint"}


@lru_cache(maxsize=128)
def _statement(columns: tuple[str, ...], priced: bool) -> Statement:
    """One statement for any number of sessions and entries: each column is one array, so it is prepared once.

    The rows of the sessions are locked in the order of their ids first: groups of other processes do the same, and
    would queue instead of deadlocking. One that somebody holds is left out, and its append goes by itself: while this
    waited, it would hold all others. All are locked before any is changed, hence the array: whoever inserts a session
    that exists, such as a fork with its source locked, waits for one that is being changed, but not for one that is
    only locked.
    """
    kinds = dict(_ALWAYS)
    kinds |= {column: entry_rows.OPTIONAL_COLUMNS[column] for column in columns}
    kinds = {column: "text" if kind in ("varchar", "json") else kind for column, kind in kinds.items()}
    entries = unnest("v", _PLACE | kinds)
    names = [column for column in kinds if column != "created_at"]
    values = [f"CAST(v.{name} AS json)" if name in ("content", "metadata") else f"v.{name}" for name in names]
    created_at = "coalesce(v.created_at, $now)" if "created_at" in columns else "$now"
    unchanged = price_rows.UNCHANGED if priced else ""
    return Statement(
        postgresql=f"""
        WITH wanted AS (
            SELECT * FROM {unnest("w", _WANTED, "wanted_{}_array")}),
        locked AS MATERIALIZED (
            SELECT s.session_id FROM $sessions AS s
            WHERE s.namespace = :namespace AND s.session_id = ANY (CAST(:wanted_session_id_array AS text[]))
                AND $live{unchanged} ORDER BY s.session_id $lock SKIP LOCKED),
        updated AS (
            UPDATE $sessions AS s
            SET next_seq = s.next_seq + w.count, last_turn = s.last_turn + w.turns, {session_rows.ACTIVE}
            FROM wanted AS w
            WHERE s.namespace = :namespace AND s.session_id = w.session_id AND $live
                AND w.session_id = ANY (array(SELECT l.session_id FROM locked AS l))
            RETURNING s.session_id, s.next_seq - w.count AS first_seq, s.last_turn - w.turns AS base_turn,
                s.namespace, s.belongs_to, s.ttl, s.expires_at),
        woken AS MATERIALIZED (SELECT {follows.notify("s")} FROM updated AS s),
        added AS (
            INSERT INTO $history_entries AS h (namespace, session_id, seq, turn, created_at, {", ".join(names)})
            SELECT $home, u.session_id, u.first_seq + v.position, u.base_turn + v.turn, {created_at},
                {", ".join(values)}
            FROM updated AS u$at_home(sessions, session_id = u.session_id) JOIN {entries}
                ON v.session_id = u.session_id
            RETURNING h.session_id, h.seq, h.turn, h.created_at)
        SELECT added.*, EXISTS (SELECT 1 FROM updated AS s WHERE {session_rows.WHOLE_DUE})
        FROM (SELECT count(*) FROM woken) AS told, added"""
    )
