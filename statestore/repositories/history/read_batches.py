"""Reads of several callers, of any sessions, in one statement of PostgreSQL.

Only what is small and simple travels in a batch: a few entries of a session that is not a fork. What turns out to be
more is left out of it and read by itself, and so gets its own error.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import Any

from statestore.checking import checks
from statestore.engine.calls import Batching, Call
from statestore.engine.sql import Link, Row, Settings, Statement
from statestore.errors import StateStoreError
from statestore.repositories.history import entry_reads, entry_rows
from statestore.repositories.sessions.session_rows import ForkHints

# Beyond this a read is large enough to travel alone: the others of its batch would wait for it.
_LARGEST = 100
_WINDOW = ("last", "after", "before", "limit")
_ALLOWED = frozenset(_WINDOW)

_FROM, _TO = entry_reads.bounds("w.last", "w.after", "w.before", "w.most")


def _statement(columns: str) -> Statement:
    return Statement(
        postgresql=f"""
    SELECT w.number, h.*
    FROM unnest((SELECT CAST(:sessions_array AS text[])), (SELECT CAST(:last_array AS bigint[])),
        (SELECT CAST(:after_array AS bigint[])), (SELECT CAST(:before_array AS bigint[])),
        (SELECT CAST(:limit_array AS bigint[])))
        WITH ORDINALITY AS w (session_id, last, after, before, most, number)
    JOIN $sessions AS s ON s.namespace = :namespace AND s.session_id = w.session_id AND $live
        AND coalesce({entry_reads.ALSO}, 0) = 0
    LEFT JOIN LATERAL (
        SELECT {columns} FROM $history_entries AS h
        WHERE h.namespace = :namespace AND h.session_id = w.session_id AND h.seq BETWEEN {_FROM} AND {_TO}
        ORDER BY h.seq OFFSET 0) AS h ON true"""
    )


@dataclass(slots=True)
class BatchedRead:
    """A read in a batch: what is asked for, and what was found."""

    session_id: str
    window: dict[str, int]
    size: int = 0
    result: list[Any] | None = None


class ReadBatching(Batching[BatchedRead]):
    """Reads of a few entries, of sessions that are not known to be forks."""

    writes = False
    room = 0

    def __init__(
        self, statement: Statement, seq: int, from_rows: Callable[[Link, str, Sequence[Row]], list[Any]]
    ) -> None:
        """*seq* is where a row has what is null if it holds no entry."""
        self._statement = statement
        self._seq = seq
        self._from_rows = from_rows

    def key(self, call: Call, settings: Settings) -> Call | None:
        """Itself: reads keep no order."""
        if call.attempt > 1 or not call.kwargs.keys() <= _ALLOWED or len(call.args) != 1:
            return None
        most = call.kwargs.get("last", call.kwargs.get("limit"))
        small = type(most) is int and most <= _LARGEST
        return call if small and call.args[0] not in settings.of(ForkHints) else None

    def prepare(self, call: Call, settings: Settings) -> BatchedRead | None:
        window = {name: call.kwargs.get(name) for name in _WINDOW}
        if window["last"] is not None and window["limit"] is not None:
            return None
        try:
            session_id = checks.key(call.args[0], "session_id")
            for name, value in window.items():
                checks.optional_count(value, name)
        except StateStoreError:
            return None
        return BatchedRead(session_id, entry_reads.window_of(**window))

    def run(self, link: Link, items: Sequence[BatchedRead]) -> None:
        """Read for all calls whose session lives, is not a fork and needs no extension; each gets its own entries."""
        rows = link.all(
            self._statement,
            sessions_array=[one.session_id for one in items],
            **{f"{name}_array": [one.window[name] for one in items] for name in _WINDOW},
        )
        # PostgreSQL sends them one read after the other, in order, but promises neither.
        for number, found in groupby(sorted(rows, key=itemgetter(0, self._seq)), key=itemgetter(0)):
            one = items[number - 1]
            of_one = list(found)
            # A session without an entry there is a row all the same.
            one.result = [] if of_one[0][self._seq] is None else self._from_rows(link, one.session_id, of_one)


_ENTRIES = _statement(entry_rows.COLUMNS)
_CONTENTS = _statement("CAST(h.content AS text), h.seq")
READS = ReadBatching(_ENTRIES, entry_rows.SEQ, entry_rows.from_rows)
MESSAGES = ReadBatching(_CONTENTS, 2, entry_reads.contents)
