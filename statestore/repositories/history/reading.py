"""Reading the history of a session, or of many."""

from collections.abc import Iterable
from datetime import datetime
from functools import lru_cache
from typing import Any

from statestore.checking import checks
from statestore.engine.calls import in_batches, reads
from statestore.engine.sql import Link, Statement
from statestore.errors import EntryNotFoundError, InvalidValueError
from statestore.repositories.base import Repository
from statestore.repositories.history import entry_lookups, entry_reads, entry_rows
from statestore.repositories.history.read_batches import MESSAGES, READS
from statestore.repositories.sessions import holding, session_rows
from statestore.values.history import Entry, EntryPlace

_CONDITIONS = {
    "since": "x.created_at >= $time(:since)",
    "until": "x.created_at < $time(:until)",
    "role": "x.role = :role",
    "turn": "x.turn = :turn",
}
_FILTERED_RANGE = "x.namespace = :namespace AND x.seq > CAST(:after AS bigint) AND x.seq < CAST(:before AS bigint)"


@lru_cache(maxsize=64)
def _filtered(filters: tuple[str, ...], newest: bool, forks: bool) -> Statement:
    """For sessions that are not forks, whose rows are read in order until there are enough; with *forks* for any."""
    matches = "".join(f" AND {_CONDITIONS[name]}" for name in filters)
    own = f"SELECT x.* FROM $history_entries AS x WHERE {_FILTERED_RANGE} AND x.session_id = :session_id{matches}"
    shared = f"""SELECT x.* FROM $session_segments AS g JOIN $history_entries AS x ON x.session_id = g.owner_session_id
            AND x.seq BETWEEN g.from_seq AND g.to_seq AND {_FILTERED_RANGE}{matches}
        WHERE g.namespace = :namespace AND g.session_id = :session_id"""

    source = f"{own} UNION ALL {shared}" if forks else own
    return Statement(f"""
        SELECT {entry_reads.ALSO}, m.* FROM $sessions AS s LEFT JOIN (
            SELECT {entry_rows.COLUMNS} FROM ({source}) AS h
            ORDER BY h.seq{" DESC" if newest else ""} LIMIT :most) AS m ON true
        WHERE s.namespace = :namespace AND s.session_id = :session_id AND $live""")


def read_filtered(
    link: Link,
    session_id: str,
    *,
    last: int | None,
    after: int | None,
    before: int | None,
    limit: int | None,
    since: datetime | None,
    until: datetime | None,
    role: str | None,
    turn: int | None,
) -> list[Entry]:
    """As `history.read`, with at least one of the last four."""
    given: dict[str, Any] = {"since": since, "until": until, "role": role, "turn": turn}
    filters = tuple(name for name, value in given.items() if value is not None)
    newest = last is not None
    window = entry_reads.window_of(last, after, before, limit)
    rows, _ = entry_reads.rows_of(
        link,
        session_id,
        _filtered(filters, newest, False),
        _filtered(filters, newest, True),
        after=window["after"],
        before=window["before"],
        most=window["last" if newest else "limit"],
        **{name: given[name] for name in filters},
    )
    # A session without a match is a row all the same.
    entries = entry_rows.from_rows(link, session_id, [row for row in rows if row[entry_rows.SEQ] is not None])
    entries.sort(key=lambda entry: entry.seq)
    return entries


_COUNT = Statement("""
    SELECT s.next_seq - s.first_seq FROM $sessions AS s
    WHERE s.namespace = :namespace AND s.session_id = :session_id AND $live""")


class ReadingRepository(Repository):
    """The entries of a session as they are."""

    @in_batches(READS)
    @reads
    def read(
        self,
        session_id: str,
        *,
        last: int | None = None,
        after: int | None = None,
        before: int | None = None,
        limit: int | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        role: str | None = None,
        turn: int | None = None,
    ) -> list[Entry]:
        """The entries of a session, oldest first; by default all of them.

        One round trip; two if the store sees a fork for the first time, at any depth. Extends the session's TTL. With
        *since*, *until*, *role* or *turn* the database goes through the entries of the range, from the end at which it
        begins to count, until enough of them match.

        Args:
            session_id: The session to read.
            last: Return only this many, the newest of those that match.
            after: Only entries after this position.
            before: Only entries before this position. `before=` with `last=` pages backwards, `after=` with `limit=`
                forwards.
            limit: Return only this many, the oldest of those that match. Not together with *last*.
            since: Only entries with a `created_at` from this time on: an aware datetime.
            until: Only entries with a `created_at` before this time.
            role: Only entries of this role.
            turn: Only entries of this turn; 0 for those before the first.

        Raises:
            SessionNotFoundError: No such session, or it has expired.
            InvalidValueError: A negative number, a time without a time zone, or *last* together with *limit*.
        """
        _check_range(session_id, last, after, before, limit)
        since, until = checks.optional_time(since, "since"), checks.optional_time(until, "until")
        checks.optional_key(role, "role")
        checks.optional_count(turn, "turn")
        if (since, until, role, turn) == (None, None, None, None):
            return entry_reads.read(self._link, session_id, last=last, after=after, before=before, limit=limit)
        return read_filtered(
            self._link,
            session_id,
            last=last,
            after=after,
            before=before,
            limit=limit,
            since=since,
            until=until,
            role=role,
            turn=turn,
        )

    @in_batches(MESSAGES)
    @reads
    def messages(
        self,
        session_id: str,
        *,
        last: int | None = None,
        after: int | None = None,
        before: int | None = None,
        limit: int | None = None,
    ) -> list[Any]:
        """The contents of the entries alone, oldest first: what a prompt needs, at about half the price of `read`.

        One round trip; two if the store sees a fork for the first time, or, on SQLite, a session with contents that are
        large or that few programs can read. Extends the session's TTL.

        Args:
            session_id: The session to read.
            last: As for `read`, like the next three.
            after: …
            before: …
            limit: …

        Raises:
            SessionNotFoundError: No such session, or it has expired.
            InvalidValueError: A negative number, or *last* together with *limit*.
        """
        _check_range(session_id, last, after, before, limit)
        return entry_reads.read_contents(self._link, session_id, entry_reads.window_of(last, after, before, limit))

    @reads
    def get(self, session_id: str, seq: int) -> Entry:
        """The entry at one position. Extends the session's TTL.

        Raises:
            SessionNotFoundError: No such session, or it has expired.
            EntryNotFoundError: The session has no entry there, or no longer has one.
        """
        checks.key(session_id, "session_id")
        checks.count(seq, "seq")
        entries = (
            entry_reads.read(self._link, session_id, after=max(seq - 1, 0), before=seq + 1)
            if seq < entry_reads.FAR
            else []
        )
        if not entries:
            raise EntryNotFoundError(session_id, seq)
        return entries[0]

    @reads
    def find(self, session_id: str, entry_id: str) -> Entry | None:
        """The entry with this id in the session, at any position; None if there is none. Extends the session's TTL.

        Raises:
            SessionNotFoundError: No such session, or it has expired.
        """
        checks.key(session_id, "session_id")
        checks.key(entry_id, "entry_id")
        return entry_lookups.find(self._link, session_id, entry_id)

    @reads
    def last_many(self, session_ids: Iterable[str], n: int) -> dict[str, list[Entry]]:
        """The newest *n* entries of each of many sessions, oldest first, in one statement however many there are.

        Extends the TTLs of the sessions, which takes a second statement if one of them is due. In a caller's
        transaction on PostgreSQL each session is read, and held, by itself.

        Args:
            session_ids: The sessions.
            n: How many entries of each; 0 only tells which sessions there are.

        Returns:
            The entries by session id, in the order given. Sessions that do not exist, or have expired, are left out.

        Raises:
            InvalidValueError: An id can never be stored, or *session_ids* is a single string.
        """
        ids = self._once("session_ids", lambda: checks.keys(session_ids, "session_ids"))
        checks.count(n, "n")
        return entry_lookups.last_of_many(self._link, ids, n) if ids else {}

    @reads
    def count(self, session_id: str) -> int:
        """How many entries the session has. Does not extend its TTL.

        Raises:
            SessionNotFoundError: No such session, or it has expired.
        """
        checks.key(session_id, "session_id")
        rows = holding.read(self._link, _COUNT, session_id=session_id)
        if not rows:
            raise session_rows.not_found(self._link, session_id)
        ((entries,),) = rows
        found: int = entries
        return found


def _check_range(session_id: str, last: int | None, after: int | None, before: int | None, limit: int | None) -> None:
    checks.key(session_id, "session_id")
    if last is not None:  # Not `optional_count`: most calls give one of them.
        checks.count(last, "last")
    if after is not None:
        checks.count(after, "after")
    if before is not None:
        checks.count(before, "before")
    if limit is not None:
        checks.count(limit, "limit")
    if last is not None and limit is not None:
        raise InvalidValueError("limit", "cannot be combined with last; limit counts from the start, last from the end")


_LOCATE_SQL = """
    SELECT h.entry_id, h.session_id, h.seq FROM $history_entries AS h
    JOIN $sessions AS s ON s.namespace = h.namespace AND s.session_id = h.session_id
    WHERE h.entry_id $in(:entry_ids) AND h.namespace = :namespace
        AND (:any_agent OR s.agent_name $in(:agent_names)) AND (:expired_too OR $live)
    ORDER BY h.created_at, h.session_id"""
# The unique index on entries begins with their ids. SQLite, which has no statistics, would take any index that begins
# with the namespace, and read all of it; + keeps it from that.
_LOCATE = Statement(
    postgresql=_LOCATE_SQL, sqlite=_LOCATE_SQL.replace("h.namespace = :namespace", "+h.namespace = :namespace")
)


class LocatingRepository(Repository):
    """Looks entries up across the sessions of a namespace."""

    @reads
    def locate(self, entry_id: str) -> EntryPlace | None:
        """The session and the position of the entry with this id; None if no session has it.

        An `entry_id` is unique only within a session. If several have it, this is the one whose entry is the oldest;
        `locate_many` names all of them, and says what counts as having it.

        Raises:
            InvalidValueError: The id can never be stored.
        """
        found = self._places([checks.key(entry_id, "entry_id")])
        return found[0][1] if found else None

    @reads
    def locate_many(
        self, entry_ids: Iterable[str], *, agent_names: Iterable[str] | None = None, include_expired: bool = False
    ) -> dict[str, list[EntryPlace]]:
        """The sessions that entries with these ids were appended to, with their positions, in one statement.

        An `entry_id` is unique only within a session, so this tells what the store already has, in any session. A fork
        that shares an entry is not named: only the session that the entry's usage counts for. Does not extend any TTL.
        Inside a caller's transaction, others may change what was found before it ends.

        Args:
            entry_ids: The ids to look for, any number; several hundred at a time are a good size.
            agent_names: Look only at the sessions of these agents; by default at all sessions.
            include_expired: Also look at expired sessions that no sweep has deleted yet: until then their usage is in
                the reports too.

        Returns:
            The places, the oldest entry first, by entry id, in the order given. Ids that no session has are left out.

        Raises:
            InvalidValueError: An id or a name can never be stored, or an argument is a single string, not a list.
        """
        ids = self._once("entry_ids", lambda: checks.keys(entry_ids, "entry_ids"))
        names = self._once(
            "agent_names", lambda: checks.keys(() if agent_names is None else agent_names, "agent_names")
        )
        if not ids:
            return {}
        found: dict[str, list[EntryPlace]] = {}
        for entry_id, place in self._places(
            ids, names, any_agent=agent_names is None, expired_too=checks.flag(include_expired, "include_expired")
        ):
            found.setdefault(entry_id, []).append(place)
        return {entry_id: found[entry_id] for entry_id in ids if entry_id in found}

    def _places(
        self,
        entry_ids: list[str],
        agent_names: list[str] | None = None,
        *,
        any_agent: bool = True,
        expired_too: bool = False,
    ) -> list[tuple[str, EntryPlace]]:
        rows = self._link.all(
            _LOCATE, entry_ids=entry_ids, agent_names=agent_names or [], any_agent=any_agent, expired_too=expired_too
        )
        return [(entry_id, EntryPlace(session_id, seq)) for entry_id, session_id, seq in rows]
