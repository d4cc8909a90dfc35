"""Forks of sessions, and where a session comes from."""

from collections.abc import Mapping, Sequence
from itertools import starmap
from typing import Any, NamedTuple

from statestore.checking import checks, exactjson
from statestore.engine.calls import reads, writes_once
from statestore.engine.sql import Row, Statement
from statestore.errors import ConflictError, InvalidValueError, SessionExistsError
from statestore.repositories.base import Repository
from statestore.repositories.sessions import segments, session_columns, session_life, session_rows
from statestore.repositories.sessions.segments import Segment
from statestore.repositories.sessions.session_rows import ForkHints
from statestore.values import ids
from statestore.values.markers import MISSING, MissingType
from statestore.values.sessions import Ancestor, Lineage, Session

_ROOT = Statement("""
    SELECT s.root_session_id, s.created_at FROM $sessions AS s
    WHERE s.namespace = :namespace AND s.session_id = :session_id AND $live""")

_TURN_AT = Statement("""
    SELECT turn FROM $history_entries WHERE namespace = :namespace AND session_id = :session_id AND seq = :seq""")

_COPY_KEYS = """
    INSERT INTO $state_entries (namespace, session_id, key, value, version, created_at, updated_at, expires_at)
    SELECT e.namespace, :fork_id, e.key, e.value, e.version, e.created_at, e.updated_at, e.expires_at
    FROM $state_entries AS e WHERE e.namespace = :namespace AND e.session_id = :session_id
        AND (e.expires_at IS NULL OR e.expires_at > $now)"""
_COPY_LISTS = """
    INSERT INTO $session_lists (namespace, session_id, name, item_count, created_at, updated_at)
    SELECT namespace, :fork_id, name, item_count, created_at, updated_at FROM $session_lists
    WHERE namespace = :namespace AND session_id = :session_id"""
_COPY_ITEMS = """
    INSERT INTO $session_list_items (namespace, session_id, name, position, value, created_at)
    SELECT namespace, :fork_id, name, position, value, created_at FROM $session_list_items
    WHERE namespace = :namespace AND session_id = :session_id"""
# One statement on PostgreSQL, which sees one moment: a list and its items fit each other.
_COPY_STATE = (
    Statement(postgresql=f"WITH keys AS ({_COPY_KEYS}), lists AS ({_COPY_LISTS}), items AS ({_COPY_ITEMS}) SELECT 1"),
)
_COPY_STATE_SQLITE = tuple(Statement(sqlite=sql) for sql in (_COPY_KEYS, _COPY_LISTS, _COPY_ITEMS))

_COPY_SUMMARIES = """
    INSERT INTO $summaries (namespace, session_id, start_seq, end_seq, content, token_count, created_at)
    SELECT namespace, :fork_id, start_seq, end_seq, content, token_count, created_at FROM $summaries
    WHERE namespace = :namespace AND session_id = :session_id AND end_seq <= :at_seq"""
# What would be beside the fork's id in an index, of more than so many bytes: rows that are copied, and entries that are
# handed to the fork when their owner goes. Asked for only where the id is so long that there may be any.
_LONG_NAMES = Statement("""
    SELECT e.key FROM $state_entries AS e WHERE e.namespace = :namespace AND e.session_id = :session_id
        AND :with_state = 1 AND (e.expires_at IS NULL OR e.expires_at > $now) AND $bytes(e.key) > :room
    UNION ALL SELECT l.name FROM $session_lists AS l WHERE l.namespace = :namespace AND l.session_id = :session_id
        AND :with_state = 1 AND $bytes(l.name) > :room""")
_LONG_IDS = Statement("""
    SELECT h.entry_id FROM $history_entries AS h WHERE h.namespace = :namespace AND h.session_id = :session_id
        AND h.seq BETWEEN :from_seq AND :to_seq AND $bytes(h.entry_id) > :room""")

# The source's row is written, though nothing in it changes: see `unshared`. That comes last: an INSERT with the id of a
# session waits for whoever has written its row, though not for a lock on it, and two forks could wait for each other.
_COPY_SUMMARIES_AND_SHOW = Statement(
    postgresql=f"""
    WITH copied AS ({_COPY_SUMMARIES} RETURNING 1)
    UPDATE $sessions AS s SET revision = s.revision
    WHERE s.namespace = :namespace AND s.session_id = :session_id AND (SELECT count(*) FROM copied) >= 0""",
    sqlite=_COPY_SUMMARIES,
)

# A step needs a row to go on from; the id of a parent that is gone is still known to its child. A session younger than
# its supposed child is another one, made under the id of a parent that was deleted. UNION takes each row once, so that
# this ends whatever the rows say.
_UP = """
    WITH RECURSIVE up (session_id, parent_session_id, forked_at_seq, created_at) AS (
        SELECT session_id, parent_session_id, forked_at_seq, created_at FROM $sessions
        WHERE namespace = :namespace AND session_id = :session_id
        UNION
        SELECT p.session_id, p.parent_session_id, p.forked_at_seq, p.created_at FROM up
        JOIN $sessions AS p ON p.namespace = :namespace AND p.session_id = up.parent_session_id
            AND p.created_at <= up.created_at)
    SELECT session_id, parent_session_id, forked_at_seq, created_at FROM up WHERE parent_session_id IS NOT NULL"""
_ANCESTORS = Statement(_UP)
# Whether a session that is made now would be taken for one that the source comes from: that is so if the clock stands
# still, or goes back.
_COMES_FROM = Statement(_UP + " AND parent_session_id = :ancestor_id AND created_at >= $now LIMIT 1")

_FORKS = Statement("""
    SELECT s.session_id FROM $sessions AS s
    WHERE s.namespace = :namespace AND s.parent_session_id = :session_id AND s.created_at >= :created_at AND $live
    ORDER BY s.created_at, s.session_id""")


class ForksRepository(Repository):
    """Copies of sessions that share history with their source."""

    @writes_once
    def fork(
        self,
        source_id: str,
        new_session_id: str | None = None,
        *,
        at_seq: int | None = None,
        metadata: Mapping[str, Any] | None = None,
        user_id: str | MissingType | None = MISSING,
        title: str | MissingType | None = MISSING,
        with_state: bool = True,
        as_part: bool = False,
    ) -> Session:
        """Create an independent session that begins as a copy of another.

        It has the source's history up to *at_seq*, its current state and lists, its summaries up to there, and its
        attributes. No entry is copied: the cost does not grow with the history. Later changes to the source do not
        appear in the fork, or vice versa. A concurrent append comes entirely before or after the fork. A fork of a
        session that belongs to another belongs to that one too; what belongs to the source is not copied.

        Args:
            source_id: The session to fork.
            new_session_id: The fork's id; a UUIDv7 if none is given.
            at_seq: The last position that the fork sees, 0 for none; by default all.
            metadata: Keys to set over those of the source.
            user_id: The user that the fork belongs to; by default that of the source.
            title: The fork's title; by default that of the source.
            with_state: Copy the state and the lists; without it the fork begins with neither.
            as_part: Let the fork belong to its source, or to what that belongs to: it has no TTL, is hidden from
                `page` and `count`, and expires and goes with that session. See `create`.

        Raises:
            SessionNotFoundError: No such source, or it has expired. Nothing was written.
            SessionExistsError: A living session has the new id. Nothing was written.
            ConflictError: The source descends from a deleted session with the new id, and the clock has not advanced
                since: the fork would be its own ancestor. Nothing was written.
            InvalidValueError: *at_seq* is beyond the end of the source, or *new_session_id* is too long to be in
                PostgreSQL's indexes beside a key, or an entry id, of the source. Nothing was written.
        """
        checks.key(source_id, "source_id")
        checks.optional_count(at_seq, "at_seq")
        checks.flags(with_state=with_state, as_part=as_part)
        fork_id = ids.uuid7() if new_session_id is None else checks.key(new_session_id, "new_session_id")
        changed = exactjson.loads(
            session_columns.attribute(self._link, "metadata", {} if metadata is None else metadata)
        )
        given = {
            name: session_columns.attribute(self._link, name, value)
            for name, value in {"user_id": user_id, "title": title}.items()
            if value is not MISSING
        }

        if new_session_id is not None:
            # First, since this may hand entries to the source, whose segments then change.
            session_life.erase_expired(self._link, fork_id)
        if not segments.lock_for_fork(self._link, source_id):
            raise session_rows.not_found(self._link, source_id)
        pieces = segments.of(self._link, source_id)
        locked = session_rows.lock(self._link, source_id)
        source = locked.session
        if new_session_id is not None and source.parent_session_id is not None:
            self._check_descent(source_id, fork_id)
        end = source.next_seq - 1
        if at_seq is None:
            at_seq = end
        elif at_seq > end:
            raise InvalidValueError("at_seq", f"is {at_seq}, but session {source_id!r} ends at {end}")
        seen = segments.view(pieces, source_id, source.first_seq, at_seq)
        columns = {
            **{name: getattr(source, name) for name in session_columns.ATTRIBUTES},
            **given,
            "metadata": session_columns.attribute(self._link, "metadata", source.metadata | changed),
            "ttl": None if as_part else source.ttl,
            "belongs_to": source.belongs_to or (source_id if as_part else None),
            "parent_session_id": source_id,
            "root_session_id": source.root_session_id,
            "forked_at_seq": at_seq,
            "first_seq": min(source.first_seq, at_seq + 1),
            "next_seq": at_seq + 1,
            "last_turn": locked.last_turn if at_seq == end else self._turn_at(seen),
        }
        self._check_names(source_id, fork_id, seen, with_state)
        fork = None if fork_id == source_id else session_life.create(self._link, fork_id, columns)
        if fork is None:
            raise SessionExistsError(fork_id, self._link.settings.namespace)
        segments.insert(self._link, [segment.seen_by(fork_id) for segment in seen])
        if with_state:
            for statement in _COPY_STATE if self._link.dialect.name == "postgresql" else _COPY_STATE_SQLITE:
                self._link.run(statement, session_id=source_id, fork_id=fork_id)
        self._link.run(_COPY_SUMMARIES_AND_SHOW, session_id=source_id, fork_id=fork_id, at_seq=at_seq)
        self._link.settings.of(ForkHints).add(fork_id)
        return fork

    @reads
    def lineage(self, session_id: str) -> Lineage:
        """Where the session comes from, and which sessions were forked from it. Does not extend its TTL.

        Raises:
            SessionNotFoundError: No such session, or it has expired.
        """
        checks.key(session_id, "session_id")
        row = self._link.one(_ROOT, session_id=session_id)
        if row is None:
            raise session_rows.not_found(self._link, session_id)
        ancestors = _in_order(session_id, self._link.all(_ANCESTORS, session_id=session_id))
        root_session_id, created_at = row
        forks = self._link.all(_FORKS, session_id=session_id, created_at=created_at)
        return Lineage(
            session_id=session_id,
            root_session_id=root_session_id,
            ancestors=tuple(ancestors),
            forks=tuple(fork_id for (fork_id,) in forks),
        )

    def _check_descent(self, source_id: str, fork_id: str) -> None:
        """Refuse a fork that would be taken for an ancestor of its source."""
        if self._link.one(_COMES_FROM, session_id=source_id, ancestor_id=fork_id) is not None:
            raise ConflictError(
                f"new_session_id: session {source_id!r} descends from session {fork_id!r}, so a fork with this id "
                "would be its own ancestor; choose another id",
                session_id=fork_id,
            )

    def _check_names(self, source_id: str, fork_id: str, seen: list[Segment], with_state: bool) -> None:
        """Refuse an id that is too long for an index with the keys, names and entry ids that come with the fork."""
        taken = checks.indexed_bytes(self._link.settings.namespace) + checks.indexed_bytes(fork_id)
        room = checks.MAX_NAMES_BYTES - taken
        if room >= 4 * checks.MAX_KEY_LENGTH:
            return
        names = [*self._link.all(_LONG_NAMES, session_id=source_id, room=room, with_state=int(with_state))]
        for segment in seen:
            place = {"session_id": segment.owner, "from_seq": segment.from_seq, "to_seq": segment.to_seq}
            names += self._link.all(_LONG_IDS, **place, room=room)
        self._fits("new_session_id", fork_id, *(name for (name,) in names))

    def _turn_at(self, seen: list[Segment]) -> int:
        """The turn of the last visible entry."""
        if not seen:
            return 0
        row = self._link.one(_TURN_AT, session_id=seen[-1].owner, seq=seen[-1].to_seq)
        (turn,) = row or (0,)
        found: int = turn
        return found


class _Child(NamedTuple):
    """A row of `_UP`."""

    session_id: str
    parent_session_id: str
    forked_at_seq: int
    created_at: Any


def _in_order(session_id: str, rows: Sequence[Row]) -> list[Ancestor]:
    """The ancestors of a session, its parent first; up to where they begin to repeat themselves, if they do."""
    children = {child.session_id: child for child in starmap(_Child, rows)}
    seen = {session_id}
    ancestors: list[Ancestor] = []
    child = children.get(session_id)
    while child is not None:
        parent_id = child.parent_session_id
        parent = children.get(parent_id)
        if parent_id in seen and (parent is None or parent.created_at <= child.created_at):
            break  # An import of an earlier version, or another writer, may have left a cycle.
        ancestors.append(Ancestor(parent_id, child.forked_at_seq))
        if parent_id in seen:
            break  # An older session with that id, which is gone.
        seen.add(parent_id)
        child = parent
    return ancestors
