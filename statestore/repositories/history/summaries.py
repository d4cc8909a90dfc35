"""Summaries: texts that replace entries in a prompt, so that these need not be sent again."""

from collections.abc import Sequence
from typing import Any

from statestore import schema
from statestore.checking import checks
from statestore.engine.calls import reads, writes_in_one_statement
from statestore.engine.columns import Columns, fields_of
from statestore.engine.sql import Link, Statement
from statestore.errors import InvalidValueError
from statestore.repositories.base import Repository
from statestore.repositories.sessions import holding, session_rows
from statestore.values.fast_dataclass import builder
from statestore.values.history import Summary

_SUMMARY = Columns(schema.summaries, *fields_of(Summary, "session_id"))
_NONE = [None] * _SUMMARY.size
_summary = builder(Summary)

_UPSERT = f"""
    INSERT INTO $summaries AS m (namespace, session_id, start_seq, end_seq, content, token_count, created_at)
    %s
    ON CONFLICT (namespace, session_id, start_seq) DO UPDATE SET end_seq = excluded.end_seq,
        content = excluded.content, token_count = excluded.token_count, created_at = excluded.created_at
    RETURNING {_SUMMARY.select()}"""

# Written only if the session has come as far as the summary reaches.
_TOUCH = f"""
    UPDATE $sessions AS s SET {session_rows.ACTIVE}
    WHERE s.namespace = :namespace AND s.session_id = :session_id AND $live AND s.next_seq > :end_seq"""

_ADD = Statement(
    postgresql=f"WITH session AS ({_TOUCH} RETURNING s.session_id)"
    + _UPSERT
    % """SELECT :namespace, session.session_id, CAST(:start_seq AS bigint), CAST(:end_seq AS bigint),
        CAST(:content AS text), CAST(:token_count AS bigint), $now FROM session""",
    sqlite=_UPSERT % "VALUES (:namespace, :session_id, :start_seq, :end_seq, :content, :token_count, $now)",
)
_TOUCH_SQLITE = Statement(sqlite=_TOUCH)

_WRITE = Statement("""
    INSERT INTO $summaries AS m (namespace, session_id, start_seq, end_seq, content, token_count, created_at)
    VALUES (:namespace, :session_id, :start_seq, :end_seq, :content, :token_count, :created_at)
    ON CONFLICT (namespace, session_id, start_seq) DO UPDATE SET end_seq = excluded.end_seq,
        content = excluded.content, token_count = excluded.token_count, created_at = excluded.created_at""")

_DELETE = Statement("""
    DELETE FROM $summaries WHERE namespace = :namespace AND session_id = :session_id AND start_seq = :start_seq""")

_END = Statement("""
    SELECT s.next_seq - 1 FROM $sessions AS s
    WHERE s.namespace = :namespace AND s.session_id = :session_id AND $live""")

# The session comes with its summaries, or without one: one round trip.
_READ = Statement(f"""
    SELECT {session_rows.EXTENSION_DUE}, {_SUMMARY.select("m")}
    FROM $sessions AS s
    LEFT JOIN $summaries AS m ON m.namespace = s.namespace AND m.session_id = s.session_id
    WHERE s.namespace = :namespace AND s.session_id = :session_id AND $live ORDER BY m.start_seq""")


class SummariesRepository(Repository):
    """The summaries of a session."""

    @writes_in_one_statement
    def add_summary(
        self, session_id: str, content: str, *, start_seq: int, end_seq: int, token_count: int | None = None
    ) -> Summary:
        """Store a summary of the entries *start_seq* to *end_seq*.

        A summary that begins at the same position is replaced. The entries stay until they are trimmed; the summary
        remains even then.

        Args:
            session_id: The session.
            content: The text.
            start_seq: The first position that it covers.
            end_seq: The last one.
            token_count: The number of tokens in the text, if known.

        Raises:
            SessionNotFoundError: No such session, or it has expired. Nothing was written.
            InvalidValueError: The range is empty, or reaches beyond the end of the session. Nothing was written.
        """
        checks.key(session_id, "session_id")
        _check(self._link, content, start_seq, end_seq, token_count)
        params = {"session_id": session_id, "start_seq": start_seq, "end_seq": end_seq}
        sqlite = self._link.dialect.name == "sqlite"
        touched = not sqlite or self._link.run(_TOUCH_SQLITE, session_id=session_id, end_seq=end_seq)
        row = self._link.one(_ADD, content=content, token_count=token_count, **params) if touched else None
        if row is not None:
            return from_row(self._link, session_id, row)
        found = self._link.one(_END, session_id=session_id)
        if found is None:
            raise session_rows.not_found(self._link, session_id)
        (end,) = found
        raise InvalidValueError("end_seq", f"is {end_seq}, but session {session_id!r} ends at {end}")

    @reads
    def summaries(self, session_id: str) -> list[Summary]:
        """The session's summaries, by the position at which they begin. Extends its TTL.

        Raises:
            SessionNotFoundError: No such session, or it has expired.
        """
        return read(self._link, checks.key(session_id, "session_id"))


def read(link: Link, session_id: str) -> list[Summary]:
    """All summaries of a living session; extends its TTL if that is due."""
    rows = holding.read(link, _READ, session_id=session_id)
    if not rows:
        raise session_rows.not_found(link, session_id)
    extension_due, *_ = rows[0]
    if extension_due:
        session_rows.extend(link, session_id)
    # A session without a summary still has a row.
    return [from_row(link, session_id, row) for _, *row in rows if row != _NONE]


def from_row(link: Link, session_id: str, row: Sequence[Any]) -> Summary:
    # In the order of the fields of Summary.
    return _summary(session_id, *_SUMMARY.values(link.dialect, row))


def check(link: Link, summary: Summary, name: str, end: int) -> Summary:
    """The summary, checked, for a session that ends at *end*."""
    _check(link, summary.content, summary.start_seq, summary.end_seq, summary.token_count, f"{name}.")
    if summary.end_seq > end:
        raise InvalidValueError(f"{name}.end_seq", f"is {summary.end_seq}, but the history ends at {end}")
    if checks.optional_time(summary.created_at, f"{name}.created_at") is None:
        raise InvalidValueError(f"{name}.created_at", "must be a datetime")
    return summary


def write(link: Link, session_id: str, changed: Sequence[Summary], gone: Sequence[int]) -> None:
    """Store some summaries, and remove those that begin at *gone*."""
    rows = [
        {
            "start_seq": summary.start_seq,
            "end_seq": summary.end_seq,
            "content": summary.content,
            "token_count": summary.token_count,
            "created_at": summary.created_at,
        }
        for summary in changed
    ]
    link.many(_DELETE, [{"start_seq": start_seq} for start_seq in gone], session_id=session_id)
    link.many(_WRITE, rows, session_id=session_id)


def _check(link: Link, content: str, start_seq: int, end_seq: int, token_count: int | None, name: str = "") -> None:
    checks.text(content, f"{name}content", max_bytes=link.settings.max_value_bytes)
    checks.count(start_seq, f"{name}start_seq", least=1)
    checks.count(end_seq, f"{name}end_seq", least=start_seq)
    checks.optional_count(token_count, f"{name}token_count")
