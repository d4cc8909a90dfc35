"""The row of a session, as several repositories need it: to lock it, to extend it, to make it.

Forks and parts take other statements than most sessions do. Those are right for every session, but slower, so a store
remembers which sessions need them.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any, TypeVar

import orjson

from statestore import schema
from statestore.checking import exactjson
from statestore.engine.columns import Columns, fields_of, kinds
from statestore.engine.driver_errors import classify
from statestore.engine.sql import Link, Row, Statement
from statestore.engine.sql_parts import each
from statestore.errors import ConflictError, ReadOnlyError, SessionNotFoundError, StaleLeaseError
from statestore.repositories.sessions import holding
from statestore.repositories.sessions.session_columns import default_ttl
from statestore.values.fast_dataclass import builder
from statestore.values.sessions import Lease, Session

R = TypeVar("R")


class Hints:
    """Ids that were seen lately: bounded, safe between threads, and right to forget at any time."""

    __slots__ = ("_ids", "_most")

    def __init__(self, most: int = 10_000) -> None:
        self._most = most
        self._ids: set[str] = set()

    def add(self, session_id: str) -> None:
        if len(self._ids) >= self._most:
            self._ids = set()
        self._ids.add(session_id)

    def __contains__(self, session_id: object) -> bool:
        return isinstance(session_id, str) and session_id in self._ids


class ForkHints(Hints):
    """Forks: their histories are read from several sessions."""

    __slots__ = ()


class PartHints(Hints):
    """Parts of other sessions: an append to one looks whether the TTL of the whole has to be extended."""

    __slots__ = ()


_ROW = Columns(schema.sessions, *fields_of(Session, "namespace", "resumed"))
COLUMNS = _ROW.select()

# Every write to a session says this of its row, `s`.
ACTIVE = "last_activity_at = $now, active_hour = $hour, expires_at = $later(s.ttl)"

# Every write that carries a lease says this of the row too: whether the lease still holds is decided in the statement
# that writes.
HELD = " AND s.lease_token = :lease_token AND s.lease_until > $now"

# Whoever deletes may say which session is meant. An expired one belongs to nobody any more.
AS_EXPECTED = """(NOT $live OR (coalesce(s.revision = :expected_revision, true)
            AND coalesce(s.user_id = :expected_user_id, CAST(:expected_user_id AS varchar) IS NULL)))"""

# Of a row: whether a tenth of its TTL has passed since the TTL was last extended. To extend it on each read would turn
# every read into a write; a tenth is close enough.
TENTH_PASSED = "{0}.expires_at < $later({0}.ttl * 9 / 10)"

# The same of a session, or of what it belongs to: what is read of a part extends the TTL of that one.
# It is selected with each row of a history: the CASE keeps SQLite from computing times for sessions without a TTL.
# Where nothing can be written, on a standby for example, nothing is due: PostgreSQL says so itself, since a statement
# that fails would end the caller's transaction.
EXTENSION_DUE = f"""(CASE WHEN s.ttl IS NOT NULL THEN {TENTH_PASSED.format("s")} AND $writable
        WHEN s.belongs_to IS NULL THEN false
        ELSE coalesce((SELECT {TENTH_PASSED.format("w")} FROM $sessions AS w
            WHERE w.namespace = :namespace AND w.session_id = s.belongs_to), false) AND $writable END)"""

# What a write says of a part, for `extend_whole`. The row of what it belongs to is not written in the same statement:
# whoever removes that one locks it first. SQLite only says whether there is one, since a subquery in RETURNING cannot
# name the part's row.
WHOLE_DUE = f"(s.belongs_to IS NOT NULL AND {EXTENSION_DUE})"
WHOLE_DUE_SQLITE = "belongs_to"

_FIND = Statement(f"""
    SELECT {COLUMNS}, {EXTENSION_DUE} FROM $sessions AS s
    WHERE s.namespace = :namespace AND s.session_id = :session_id AND $live""")
_FIND_HELD = Statement(_FIND.postgresql + " $lock")

_FIND_MANY = Statement(f"""
    SELECT {COLUMNS}, {EXTENSION_DUE} FROM $sessions AS s
    WHERE s.namespace = :namespace AND s.session_id $in(:session_ids) AND $live ORDER BY s.session_id""")
_FIND_MANY_HELD = Statement(_FIND_MANY.postgresql + " $lock")

_LOOK = f"""
    SELECT {COLUMNS}, last_turn, NOT $live FROM $sessions AS s
    WHERE s.namespace = :namespace AND s.session_id = :session_id"""
_LOCK = Statement(_LOOK + " $lock")

_NOW = Statement("SELECT $now")

# What the server says with which a store is connected, if it is another one that has the namespace.
WRITABLE = Statement("SELECT $writable")

_LEASE = Statement("""
    SELECT s.lease_owner, s.lease_token, s.lease_until, s.lease_until > $now FROM $sessions AS s
    WHERE s.namespace = :namespace AND s.session_id = :session_id AND $live""")

_EXTEND = Statement(f"""
    UPDATE $sessions AS s SET expires_at = $later(s.ttl)
    WHERE s.namespace = :namespace AND s.ttl IS NOT NULL AND $live AND s.session_id = coalesce((
        SELECT x.belongs_to FROM $sessions AS x WHERE x.namespace = :namespace AND x.session_id = :session_id),
        :session_id)
    RETURNING {COLUMNS}""")

# Those that are due, or what they belong to. In the order of their ids, past those that somebody has locked: a list of
# sessions waits for nobody.
_DUE_OF_MANY = f"""
    SELECT s.session_id FROM $sessions AS s
    WHERE s.namespace = :namespace AND s.ttl IS NOT NULL AND $live AND {EXTENSION_DUE} AND s.session_id IN (
        SELECT coalesce(x.belongs_to, x.session_id) FROM $sessions AS x
        WHERE x.namespace = :namespace AND x.session_id $in(:session_ids))"""
_EXTEND_MANY = Statement(
    postgresql=f"""
    WITH due AS MATERIALIZED ({_DUE_OF_MANY} ORDER BY s.session_id $lock SKIP LOCKED)
    UPDATE $sessions AS s SET expires_at = $later(s.ttl) FROM due
    WHERE s.namespace = :namespace AND s.session_id = due.session_id RETURNING {_ROW.select("s")}""",
    sqlite=f"""
    UPDATE $sessions SET expires_at = $later(ttl)
    WHERE namespace = :namespace AND session_id IN ({_DUE_OF_MANY}) RETURNING {COLUMNS}""",
)

_MARK_ACTIVE = f"""
    UPDATE $sessions AS s SET {ACTIVE}
    WHERE s.namespace = :namespace AND s.session_id = :session_id AND $live RETURNING """
_ACTIVE = Statement(
    postgresql=f"WITH s AS ({_MARK_ACTIVE} s.*) SELECT {WHOLE_DUE} FROM s", sqlite=_MARK_ACTIVE + WHOLE_DUE_SQLITE
)

_GIVEN = ("namespace", "session_id", "user_id", "agent_name", "title", "status", "instructions", "metadata",
          "project_root", "cwd", "parent_session_id", "root_session_id", "forked_at_seq", "first_seq", "next_seq",
          "last_turn", "ttl")  # fmt: skip
_INTO = f"""
    INSERT INTO $sessions (
        {", ".join(_GIVEN)}, expires_at, created_at, last_activity_at, active_hour, belongs_to)"""
# A time that is yet to come would make a session younger than its forks.
_TIMES = """$later(CAST(:ttl AS interval)), coalesce($least($time(:created_at), $now), $now), $now, $hour"""
_MADE = f"ON CONFLICT (namespace, session_id) DO NOTHING RETURNING {COLUMNS}"

_INSERT = Statement(f"{_INTO} VALUES ({each(':{}', _GIVEN)}, {_TIMES}, NULL) {_MADE}")

# A part of a part is one of the same whole. That one's row is locked, so that it cannot go meanwhile, and written, so
# that whoever has read that it has no parts finds the row to be another (see `unshared`).
_WHOLE = """
    s.namespace = :namespace AND s.belongs_to IS NULL AND $live AND s.session_id = (
        SELECT coalesce(x.belongs_to, x.session_id) FROM $sessions AS x
        WHERE x.namespace = :namespace AND x.session_id = :belongs_to
            AND (x.expires_at IS NULL OR x.expires_at > $now))
    AND NOT EXISTS (SELECT 1 FROM $sessions AS n WHERE n.namespace = :namespace AND n.session_id = :session_id)"""
_KINDS = kinds(schema.sessions)
_INSERT_PART = Statement(
    postgresql=f"""
    WITH whole AS (UPDATE $sessions AS s SET {ACTIVE} WHERE {_WHOLE} RETURNING s.session_id)
    {_INTO} SELECT {", ".join(f"CAST(:{name} AS {_KINDS[name]})" for name in _GIVEN)}, {_TIMES}, whole.session_id
    FROM whole {_MADE}""",
    sqlite=f"""
    {_INTO} SELECT {each(":{}", _GIVEN)}, {_TIMES}, s.session_id FROM $sessions AS s WHERE {_WHOLE} {_MADE}""",
)

_NEW: dict[str, Any] = {
    "created_at": None,
    "belongs_to": None,
    "user_id": None,
    "agent_name": None,
    "title": None,
    "status": "ready",
    "instructions": None,
    "metadata": "{}",
    "project_root": None,
    "cwd": None,
    "parent_session_id": None,
    "forked_at_seq": None,
    "first_seq": 1,
    "next_seq": 1,
    "last_turn": 0,
}


@lru_cache(maxsize=256)
def update_statement(columns: tuple[str, ...], checked: bool) -> Statement:
    """Change attributes, and return the session; with *checked* only one of `:expected_revision`."""
    changes = [f"{column} = :{column}" for column in columns]
    active = ACTIVE
    if "ttl" in columns:
        active = active.replace("$later(s.ttl)", "$later(CAST(:ttl AS interval))")
    condition = " AND s.revision = :expected_revision" if checked else ""
    if "ttl" in columns:
        condition += " AND (s.belongs_to IS NULL OR CAST(:ttl AS interval) IS NULL)"
    return Statement(f"""
        UPDATE $sessions AS s SET {", ".join([*changes, "revision = s.revision + 1", active])}
        WHERE s.namespace = :namespace AND s.session_id = :session_id AND $live{condition}
        RETURNING {COLUMNS}""")


_session = builder(Session)


class LockedSession:
    """A session whose row this transaction holds, with the columns that callers never see."""

    __slots__ = ("expired", "last_turn", "session")

    def __init__(self, session: Session, last_turn: int, expired: bool) -> None:
        self.session = session
        self.last_turn = last_turn
        self.expired = expired


def from_row(link: Link, row: Row, *, resumed: bool = False, namespace: str | None = None) -> Session:
    """A session from a row that begins with `COLUMNS`; by default of the store's namespace."""
    try:
        # In the order of the fields of Session.
        return _session(namespace or link.settings.namespace, *_ROW.values(link.dialect, row), resumed)
    except orjson.JSONDecodeError:
        pass  # Not raised from here: the error would hold this one, and this one holds the metadata.
    session_id, *_ = row
    raise exactjson.damaged("sessions", f"the metadata of session {session_id!r}", session_id=session_id)


def other_revision(session_id: str, actual: int, expected: int | None) -> ConflictError:
    return ConflictError(
        f"expected_revision: session {session_id!r} has revision {actual}, not {expected}; read it again",
        session_id=session_id,
        expected=expected,
        actual=actual,
    )


def not_found(link: Link, session_id: str) -> SessionNotFoundError:
    return SessionNotFoundError(session_id, link.settings.namespace)


def find(link: Link, session_id: str, *, resumed: bool = False) -> Session | None:
    """The living session, extended if that is due, and held if the link asks for it.

    Args:
        link: The connection.
        session_id: The session.
        resumed: The value of `Session.resumed`. Whoever gives it creates a session that is missing, and so holds it.
    """
    row = link.one(_FIND_HELD if link.holds_reads else _FIND, session_id=session_id)
    if row is None and link.holds_reads and not resumed:
        holding.hold_absence(link, session_id)
        row = link.one(_FIND_HELD, session_id=session_id)
    if row is None:
        return None
    (extension_due,) = _ROW.behind(row)
    if extension_due:
        extended = extend(link, session_id)
        row = row if extended is None else extended
    return from_row(link, row, resumed=resumed)


def find_many(link: Link, session_ids: Sequence[str]) -> dict[str, Session]:
    """Those of the sessions that live, as by `find`, in the order of their ids as given."""
    rows = link.all(_FIND_MANY_HELD if link.holds_reads else _FIND_MANY, session_ids=list(session_ids))
    found = {row[0]: row for row in rows}
    due = [session_id for session_id, row in found.items() if _ROW.behind(row)[0]]
    found |= {row[0]: row for row in (extend_many(link, due) if due else ()) if row[0] in found}
    return {session_id: from_row(link, found[session_id]) for session_id in session_ids if session_id in found}


def lock_any(link: Link, session_id: str) -> LockedSession | None:
    """The session's row, also one that has expired and was not swept yet.

    Until the transaction ends nobody else can change it.
    """
    row = link.one(_LOCK, session_id=session_id)
    if row is None:
        return None
    last_turn, expired = _ROW.behind(row)
    return LockedSession(from_row(link, row), last_turn, bool(expired))


def lock(link: Link, session_id: str) -> LockedSession:
    """The living session's row, locked as by `lock_any`."""
    locked = lock_any(link, session_id)
    if locked is None or locked.expired:
        raise not_found(link, session_id)
    return locked


def now(link: Link) -> datetime:
    """The time by which the database's clock, or the one in its place, goes."""
    (found,) = link.only(_NOW)
    moment: datetime = link.dialect.time(found)
    return moment


def extend(link: Link, session_id: str) -> Row | None:
    """Extend the TTL of a session, if it has one and that can be written, and return the session's row.

    Of a part, extend that of the session it belongs to, whose row is not returned.
    """
    row = _if_writable(link, lambda: link.one(_EXTEND, session_id=session_id))
    return row if row is not None and row[0] == session_id else None


def extend_many(link: Link, session_ids: Sequence[str]) -> Sequence[Row]:
    """As `extend`, of all of the sessions for which that is due, in one statement; the rows that were written."""
    return _if_writable(link, lambda: link.all(_EXTEND_MANY, session_ids=sorted(session_ids))) or ()


def extend_whole(link: Link, session_id: str, whole_due: Any) -> None:
    """Extend the TTL of the session that a part belongs to, after a write to the part that returned `WHOLE_DUE`.

    It passes a row that somebody has locked: whoever writes it extends it, and whoever removes it may wait for the
    part.
    """
    if whole_due:
        extend_many(link, [session_id])


def _if_writable(link: Link, write: Callable[[], R]) -> R | None:
    if link.read_only or (link.dialect.distributed and not link.all(WRITABLE)[0][0]):
        return None
    try:
        return write()
    except Exception as exc:
        # SQLite does not tell beforehand, and goes on after a statement that failed.
        failure = classify(exc) if link.dialect.name == "sqlite" else None
        if failure is None or not isinstance(failure.error, ReadOnlyError):
            raise
        return None


def mark_active(link: Link, session_id: str) -> None:
    """Say that the session was written to, which locks its row.

    Raises:
        SessionNotFoundError: No such session, or it has expired.
    """
    row = link.one(_ACTIVE, session_id=session_id)
    if row is None:
        raise not_found(link, session_id)
    extend_whole(link, session_id, *row)


def find_lease(link: Link, session_id: str) -> Row | None:
    """Owner, token and end of a living session's latest lease, and whether it still holds."""
    return link.one(_LEASE, session_id=session_id)


def check_lease(link: Link, lease: Lease) -> None:
    """Find out why a write that carries *lease* changed no row; pass if not because of the lease.

    Raises:
        SessionNotFoundError: No such session, or it has expired.
        StaleLeaseError: Another has the lease, or had it, or it has run out.
    """
    row = find_lease(link, lease.session_id)
    if row is None:
        raise not_found(link, lease.session_id)
    _, token, until, holds = row
    if token == lease.token and holds:
        return
    if token != lease.token:
        why = "a newer one has been granted"
    else:
        why = "it was released or revoked" if until is None else "it has run out"
    raise StaleLeaseError(
        f"the lease with token {lease.token} on session {lease.session_id!r} is no longer valid: {why}; "
        "acquire a new one, and read again what it protects",
        session_id=lease.session_id,
        expected=lease.token,
        actual=token,
    )


def insert(link: Link, session_id: str, columns: Mapping[str, Any]) -> Session | None:
    """Make the session's row; None if there is one, living or not, or nothing living that it is to belong to."""
    ttl = None if columns.get("belongs_to") else default_ttl(link)
    given = {**_NEW, "root_session_id": session_id, "ttl": ttl} | dict(columns)
    if given["belongs_to"] is None:
        row = link.one(_INSERT, session_id=session_id, **given)
        return None if row is None else from_row(link, row)
    row = link.one(_INSERT_PART, session_id=session_id, **given)
    if row is None:
        return None
    made = from_row(link, row)
    link.settings.of(PartHints).add(session_id)
    if link.dialect.name == "sqlite" and made.belongs_to is not None:
        mark_active(link, made.belongs_to)
    return made
