"""Sessions: make, find, list, change, fork and delete them."""

import base64
import binascii
from collections.abc import Mapping
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any, Literal

import orjson

from statestore import checks, ids
from statestore.errors import ConflictError, InvalidValueError, SessionExistsError
from statestore.repositories import segments, session_life, session_rows
from statestore.repositories.base import (
    Repository,
    reads,
    writes,
    writes_in_one_statement,
    writes_once,
    writes_once_in_one_statement,
)
from statestore.repositories.segments import Segment
from statestore.repositories.session_rows import COLUMNS
from statestore.sql import Statement
from statestore.values import (
    MISSING,
    STATUSES,
    Ancestor,
    ErasureReceipt,
    Lineage,
    MissingType,
    Session,
    SessionPage,
    Status,
)

OrderBy = Literal["last_activity_at", "created_at"]
_MAX_PAGE = 10_000

_EXISTS = Statement("""
    SELECT 1 FROM {sessions} AS s WHERE s.namespace = :namespace AND s.session_id = :session_id AND {live}""")

_ROOT = Statement("""
    SELECT s.root_session_id, s.created_at FROM {sessions} AS s
    WHERE s.namespace = :namespace AND s.session_id = :session_id AND {live}""")

_OF_USER = Statement("""
    SELECT s.session_id,
        (SELECT count(*) FROM {state_entries} AS e WHERE e.namespace = s.namespace AND e.session_id = s.session_id),
        (SELECT count(*) FROM {summaries} AS m WHERE m.namespace = s.namespace AND m.session_id = s.session_id)
    FROM {sessions} AS s WHERE s.namespace = :namespace AND s.user_id = :user_id ORDER BY s.session_id""")

_NOW = Statement("SELECT {now}")

_TURN_AT = Statement("""
    SELECT turn FROM {history_entries} WHERE namespace = :namespace AND session_id = :session_id AND seq = :seq""")

_COPY_STATE = Statement("""
    INSERT INTO {state_entries} (namespace, session_id, key, value, version, updated_at, expires_at)
    SELECT e.namespace, :fork_id, e.key, e.value, e.version, e.updated_at, e.expires_at FROM {state_entries} AS e
    WHERE e.namespace = :namespace AND e.session_id = :session_id
        AND (e.expires_at IS NULL OR e.expires_at > {now})""")

_COPY_SUMMARIES = Statement("""
    INSERT INTO {summaries} (namespace, session_id, start_seq, end_seq, content, token_count, created_at)
    SELECT namespace, :fork_id, start_seq, end_seq, content, token_count, created_at FROM {summaries}
    WHERE namespace = :namespace AND session_id = :session_id AND end_seq <= :at_seq""")

# A step needs a row to go on from; the id of a parent that is gone is still known to its child. A session younger
# than its supposed child is another one, made under the id of a parent that was deleted.
_ANCESTORS = Statement("""
    WITH RECURSIVE up (parent_session_id, forked_at_seq, created_at, depth) AS (
        SELECT parent_session_id, forked_at_seq, created_at, 0 FROM {sessions}
        WHERE namespace = :namespace AND session_id = :session_id
        UNION ALL
        SELECT p.parent_session_id, p.forked_at_seq, p.created_at, up.depth + 1 FROM up
        JOIN {sessions} AS p ON p.namespace = :namespace AND p.session_id = up.parent_session_id
            AND p.created_at <= up.created_at)
    SELECT parent_session_id, forked_at_seq FROM up WHERE parent_session_id IS NOT NULL ORDER BY depth""")

_FORKS = Statement("""
    SELECT s.session_id FROM {sessions} AS s
    WHERE s.namespace = :namespace AND s.parent_session_id = :session_id AND s.created_at >= :created_at AND {live}
    ORDER BY s.created_at, s.session_id""")


@lru_cache(maxsize=128)
def _page_statement(filters: tuple[str, ...], order_by: OrderBy, descending: bool, continues: bool) -> Statement:
    """Keyset paging: each page starts where the last one ended, found in the index, however far down it is."""
    # By the indexed hour first, then by the exact time within it: the same order, without an index on the exact time.
    keys = ["s.active_hour", "s.last_activity_at"] if order_by == "last_activity_at" else ["s.created_at"]
    keys.append("s.session_id")
    where = ["s.namespace = :namespace", "{live}", *(f"s.{column} = :{column}" for column in filters)]
    if continues:
        comparison = "<" if descending else ">"
        bounds = [":at_hour", ":at", ":at_id"] if order_by == "last_activity_at" else [":at", ":at_id"]
        casts = [f"CAST({b} AS timestamptz)" for b in bounds[:-1]] + bounds[-1:]
        where_postgresql = [*where, f"({', '.join(keys)}) {comparison} ({', '.join(casts)})"]
        where_sqlite = [*where, f"({', '.join(keys)}) {comparison} ({', '.join(bounds)})"]
    else:
        where_postgresql = where_sqlite = where
    direction = " DESC" if descending else ""
    order = ", ".join(key + direction for key in keys)
    head = f"SELECT {COLUMNS} FROM {{sessions}} AS s WHERE "
    tail = f" ORDER BY {order} LIMIT :limit"
    return Statement(
        postgresql=head + " AND ".join(where_postgresql) + tail, sqlite=head + " AND ".join(where_sqlite) + tail
    )


@lru_cache(maxsize=128)
def _count_statement(filters: tuple[str, ...]) -> Statement:
    where = ["s.namespace = :namespace", "{live}", *(f"s.{column} = :{column}" for column in filters)]
    return Statement("SELECT count(*) FROM {sessions} AS s WHERE " + " AND ".join(where))


@lru_cache(maxsize=256)
def _update_statement(columns: tuple[str, ...], checked: bool) -> Statement:
    changes = [f"{column} = :{column}" for column in columns]
    active = session_rows.ACTIVE
    if "ttl" in columns:
        active = active.replace("{later:s.ttl}", "{later:CAST(:ttl AS interval)}")
    revision = " AND s.revision = :expected_revision" if checked else ""
    return Statement(f"""
        UPDATE {{sessions}} AS s SET {", ".join([*changes, "revision = s.revision + 1", active])}
        WHERE s.namespace = :namespace AND s.session_id = :session_id AND {{live}}{revision}
        RETURNING {COLUMNS}""")


class SessionsRepository(Repository):
    """The sessions of a namespace."""

    @writes_once_in_one_statement
    def create(
        self,
        session_id: str | None = None,
        *,
        user_id: str | None = None,
        agent_name: str | None = None,
        title: str | None = None,
        instructions: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        project_root: str | None = None,
        cwd: str | None = None,
        ttl: timedelta | None = None,
        status: Status = "ready",
    ) -> Session:
        """Make a session.

        Args:
            session_id: Its id; a UUIDv7 if none is given.
            user_id: Whose it is; lists, reports and erasure go by it.
            agent_name: Which agent runs it.
            title: For people.
            instructions: The agent's standing instructions, returned on resume.
            metadata: A mapping of exact JSON.
            project_root: The directory that the session is about; it stays while *cwd* wanders.
            cwd: The current directory.
            ttl: How long after the last use the session ends; None for never.
            status: `ready`, or `starting` for an agent that is not up yet.

        Raises:
            SessionExistsError: A living session has this id. Nothing was written.
        """
        session_id = self._once("session_id", ids.uuid7) if session_id is None else session_id
        attributes = {
            "user_id": user_id,
            "agent_name": agent_name,
            "title": title,
            "instructions": instructions,
            "metadata": metadata,
            "project_root": project_root,
            "cwd": cwd,
            "ttl": ttl,
        }
        columns = self._columns(session_id, attributes, status)
        session = self._create(session_id, columns)
        if session is None:
            raise SessionExistsError(session_id, self._link.settings.namespace)
        return session

    @writes_in_one_statement
    def open(
        self,
        session_id: str,
        *,
        user_id: str | None = None,
        agent_name: str | None = None,
        title: str | None = None,
        instructions: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        project_root: str | None = None,
        cwd: str | None = None,
        ttl: timedelta | None = None,
        status: Status = "ready",
    ) -> Session:
        """Resume a session, or create it: `Session.resumed` tells which.

        A session that is resumed keeps what it has; the other arguments only serve to create one. Its TTL is extended.
        """
        attributes = {
            "user_id": user_id,
            "agent_name": agent_name,
            "title": title,
            "instructions": instructions,
            "metadata": metadata,
            "project_root": project_root,
            "cwd": cwd,
            "ttl": ttl,
        }
        columns = self._columns(session_id, attributes, status)
        while True:
            found = session_rows.find(self._link, session_id, resumed=True)
            session = found or self._create(session_id, columns)
            if session is not None:
                return session

    @reads
    def get(self, session_id: str) -> Session:
        """The session. Extends its TTL.

        Raises:
            SessionNotFoundError: No such session, or it has expired.
        """
        found = session_rows.find(self._link, checks.key(session_id, "session_id"))
        if found is None:
            raise session_rows.not_found(self._link, session_id)
        return found

    @reads
    def find(self, session_id: str) -> Session | None:
        """The session, or None. Extends its TTL."""
        return session_rows.find(self._link, checks.key(session_id, "session_id"))

    @reads
    def exists(self, session_id: str) -> bool:
        """Whether there is such a session. Does not extend its TTL."""
        return self._link.one(_EXISTS, session_id=checks.key(session_id, "session_id")) is not None

    @reads
    def page(
        self,
        *,
        user_id: str | None = None,
        status: Status | None = None,
        agent_name: str | None = None,
        order_by: OrderBy = "last_activity_at",
        descending: bool = True,
        limit: int = 100,
        cursor: str | None = None,
    ) -> SessionPage:
        """A page of sessions, the latest first. Expired ones are left out; no TTL is extended.

        Each page costs the same, however far down it is. A session that moves while one pages, because it was used,
        may be seen again or missed; order by `created_at` for a complete walk.

        Args:
            user_id: Only this user's.
            status: Only those in this status.
            agent_name: Only this agent's.
            order_by: `last_activity_at` or `created_at`.
            descending: The latest first.
            limit: How many at most, 1 to 10,000.
            cursor: `next_cursor` of the page before, taken with the same order.

        Raises:
            InvalidValueError: Among others, a cursor that is not from a page of this order.
        """
        filters = self._filters(user_id, status, agent_name)
        checks.one_of(order_by, ("last_activity_at", "created_at"), "order_by")
        if checks.count(limit, "limit", least=1) > _MAX_PAGE:
            raise InvalidValueError("limit", f"must be at most {_MAX_PAGE:,}; page on with next_cursor")
        position = {} if cursor is None else _position(cursor, order_by, descending)
        statement = _page_statement(tuple(filters), order_by, bool(descending), bool(position))
        rows = self._link.all(statement, limit=limit + 1, **filters, **position)
        sessions = [session_rows.from_row(self._link, row) for row in rows[:limit]]
        more = len(rows) > limit
        return SessionPage(sessions, _cursor(sessions[-1], order_by, descending) if more else None)

    @reads
    def count(self, *, user_id: str | None = None, status: Status | None = None, agent_name: str | None = None) -> int:
        """How many sessions there are, expired ones left out. Arguments as for `page`."""
        filters = self._filters(user_id, status, agent_name)
        row = self._link.one(_count_statement(tuple(filters)), **filters)
        sessions: int = row[0] if row else 0
        return sessions

    @writes_once_in_one_statement
    def update(
        self,
        session_id: str,
        *,
        user_id: str | MissingType | None = MISSING,
        agent_name: str | MissingType | None = MISSING,
        title: str | MissingType | None = MISSING,
        instructions: str | MissingType | None = MISSING,
        metadata: Mapping[str, Any] | MissingType | None = MISSING,
        project_root: str | MissingType | None = MISSING,
        cwd: str | MissingType | None = MISSING,
        ttl: timedelta | MissingType | None = MISSING,
        expected_revision: int | None = None,
    ) -> Session:
        """Change a session's attributes; those not given stay. Extends its TTL.

        Args:
            session_id: The session.
            user_id: See `create`, as for the others; None empties an attribute.
            agent_name: …
            title: …
            instructions: …
            metadata: Replaces all metadata; `merge_metadata` changes some keys.
            project_root: …
            cwd: …
            ttl: Counts from now.
            expected_revision: Change only a session of this revision.

        Returns:
            The session as it is now, its revision one higher.

        Raises:
            SessionNotFoundError: No such session, or it has expired. Nothing was written.
            ConflictError: The session has another revision than expected. Nothing was written.
        """
        checks.key(session_id, "session_id")
        checks.optional_count(expected_revision, "expected_revision")
        given = {
            "user_id": user_id,
            "agent_name": agent_name,
            "title": title,
            "instructions": instructions,
            "metadata": {} if metadata is None else metadata,
            "project_root": project_root,
            "cwd": cwd,
            "ttl": ttl,
        }
        columns = {name: self._attribute(name, value) for name, value in given.items() if value is not MISSING}
        statement = _update_statement(tuple(columns), expected_revision is not None)
        row = self._link.one(statement, session_id=session_id, expected_revision=expected_revision, **columns)
        if row is not None:
            return session_rows.from_row(self._link, row)
        found = session_rows.find(self._link, session_id)
        if found is None:
            raise session_rows.not_found(self._link, session_id)
        raise ConflictError(
            f"expected_revision: session {session_id!r} has revision {found.revision}, not {expected_revision}; "
            "read it again",
            session_id=session_id,
            expected=expected_revision,
            actual=found.revision,
        )

    @writes
    def merge_metadata(self, session_id: str, metadata: Mapping[str, Any]) -> Session:
        """Set some keys of a session's metadata and leave the others, whoever else does so at the same time.

        Keys that are there keep their place; a None value is stored as such.

        Returns:
            The session as it is now.

        Raises:
            SessionNotFoundError: No such session, or it has expired. Nothing was written.
        """
        checks.key(session_id, "session_id")
        self._attribute("metadata", metadata)
        held = session_rows.lock(self._link, session_id).session
        merged = self._attribute("metadata", held.metadata | dict(metadata))
        row = self._link.one(_update_statement(("metadata",), False), session_id=session_id, metadata=merged)
        if row is None:
            raise session_rows.not_found(self._link, session_id)
        return session_rows.from_row(self._link, row)

    @writes_in_one_statement
    def touch(self, session_id: str) -> None:
        """Say that the session is in use: extends its TTL and moves its last activity.

        Raises:
            SessionNotFoundError: No such session, or it has expired. Nothing was written.
        """
        session_rows.mark_active(self._link, checks.key(session_id, "session_id"))

    @writes_once
    def fork(
        self,
        source_id: str,
        new_session_id: str | None = None,
        *,
        at_seq: int | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> Session:
        """Make an independent session that begins as a copy of another.

        It has the source's history up to *at_seq*, its state as it is now, its summaries up to there, and its
        attributes. No entry is copied: the cost does not grow with the history. What happens to the source later does
        not show in the fork, nor the other way round. Appends that run at the same time fall wholly before or behind
        the fork.

        Args:
            source_id: The session to fork.
            new_session_id: The fork's id; a UUIDv7 if none is given.
            at_seq: The last position that the fork sees, 0 for none; by default all.
            metadata: Keys to set over those of the source.

        Raises:
            SessionNotFoundError: No such source, or it has expired. Nothing was written.
            SessionExistsError: A living session has the new id. Nothing was written.
            InvalidValueError: *at_seq* lies behind the end of the source. Nothing was written.
        """
        checks.key(source_id, "source_id")
        checks.optional_count(at_seq, "at_seq")
        fork_id = ids.uuid7() if new_session_id is None else checks.key(new_session_id, "new_session_id")
        if metadata is not None:
            self._attribute("metadata", metadata)

        pieces = segments.lock_for_fork(self._link, source_id)
        locked = session_rows.lock(self._link, source_id, share=True)
        source = locked.session
        end = source.next_seq - 1
        if at_seq is None:
            at_seq = end
        elif at_seq > end:
            raise InvalidValueError("at_seq", f"is {at_seq}, but session {source_id!r} ends at {end}")
        seen = segments.view(pieces, source_id, source.first_seq, at_seq)
        columns = {
            "user_id": source.user_id,
            "agent_name": source.agent_name,
            "title": source.title,
            "instructions": source.instructions,
            "metadata": self._attribute("metadata", source.metadata | dict(metadata or {})),
            "project_root": source.project_root,
            "cwd": source.cwd,
            "ttl": source.ttl,
            "parent_session_id": source_id,
            "root_session_id": source.root_session_id,
            "forked_at_seq": at_seq,
            "first_seq": min(source.first_seq, at_seq + 1),
            "next_seq": at_seq + 1,
            "last_turn": locked.last_turn if at_seq == end else self._turn_at(seen),
        }
        fork = None if fork_id == source_id else session_life.create(self._link, fork_id, columns)
        if fork is None:
            raise SessionExistsError(fork_id, self._link.settings.namespace)
        segments.insert(self._link, [segment.seen_by(fork_id) for segment in seen])
        self._link.run(_COPY_STATE, session_id=source_id, fork_id=fork_id)
        self._link.run(_COPY_SUMMARIES, session_id=source_id, fork_id=fork_id, at_seq=at_seq)
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
        ancestors = self._link.all(_ANCESTORS, session_id=session_id)
        forks = self._link.all(_FORKS, session_id=session_id, created_at=row[1])
        return Lineage(
            session_id=session_id,
            root_session_id=row[0],
            ancestors=tuple(Ancestor(*ancestor) for ancestor in ancestors),
            forks=tuple(fork[0] for fork in forks),
        )

    @writes
    def delete(self, session_id: str) -> bool:
        """Remove a session with its history, state and summaries. Forks keep what they see.

        A write that comes later does not bring it back.

        Returns:
            Whether there was such a session, not counting one that had expired.
        """
        checks.key(session_id, "session_id")
        lived = self._link.one(_EXISTS, session_id=session_id) is not None
        session_life.erase(self._link, session_id)
        return lived

    @writes
    def delete_user(self, user_id: str) -> ErasureReceipt:
        """Remove all sessions of a user, expired ones included: all or none.

        Entries that a fork of another user sees stay there, and belong to that user.

        Returns:
            What was removed, for the record.
        """
        checks.key(user_id, "user_id")
        sessions = entries = state_entries = summaries = 0
        # Again until there is none: the user may open a session while this runs.
        while found := self._link.all(_OF_USER, user_id=user_id):
            for session_id, states, summed in found:
                sessions += 1
                state_entries += states
                summaries += summed
                entries += session_life.erase(self._link, session_id) or 0
        now = self._link.one(_NOW)
        return ErasureReceipt(
            user_id=user_id,
            namespace=self._link.settings.namespace,
            erased_at=self._link.dialect.time(now[0] if now else None),
            sessions=sessions,
            entries=entries,
            state_entries=state_entries,
            summaries=summaries,
        )

    def _create(self, session_id: str, columns: Mapping[str, Any]) -> Session | None:
        """Make the session; None where one lives."""
        if not self._link.in_transaction:
            made = session_rows.insert(self._link, session_id, columns)
            if made is not None:
                return made
        self._needs_transaction()
        return session_life.create(self._link, session_id, columns)

    def _columns(self, session_id: str, attributes: Mapping[str, Any], status: Status) -> dict[str, Any]:
        checks.key(session_id, "session_id")
        checks.one_of(status, STATUSES, "status")
        if attributes["metadata"] is None:
            attributes = {**attributes, "metadata": {}}
        return {name: self._attribute(name, value) for name, value in attributes.items()} | {"status": status}

    def _attribute(self, name: str, value: Any) -> Any:
        """An attribute, checked, as its column takes it."""
        max_bytes = self._link.settings.max_value_bytes
        if name in ("user_id", "agent_name"):
            return checks.optional_key(value, name)
        if name == "metadata":
            return checks.metadata(value, name, max_bytes=max_bytes)
        if name == "ttl":
            return checks.ttl(value)
        return checks.optional_text(value, name, max_bytes=max_bytes)

    def _filters(self, user_id: str | None, status: str | None, agent_name: str | None) -> dict[str, str]:
        filters = {
            "user_id": checks.optional_key(user_id, "user_id"),
            "status": None if status is None else checks.one_of(status, STATUSES, "status"),
            "agent_name": checks.optional_key(agent_name, "agent_name"),
        }
        return {name: value for name, value in filters.items() if value is not None}

    def _turn_at(self, seen: list[Segment]) -> int:
        """The turn of the last entry of what is seen."""
        if not seen:
            return 0
        row = self._link.one(_TURN_AT, session_id=seen[-1].owner, seq=seen[-1].to_seq)
        turn: int = row[0] if row else 0
        return turn


def _cursor(session: Session, order_by: OrderBy, descending: bool) -> str:
    at = session.last_activity_at if order_by == "last_activity_at" else session.created_at
    return base64.urlsafe_b64encode(orjson.dumps([order_by, descending, at.isoformat(), session.session_id])).decode()


def _position(cursor: str, order_by: OrderBy, descending: bool) -> dict[str, Any]:
    """Where a page is to go on."""
    wrong = InvalidValueError("cursor", "is not the next_cursor of a page in this order; start without one")
    try:
        kept_order, kept_descending, text, session_id = orjson.loads(base64.urlsafe_b64decode(cursor))
        at = datetime.fromisoformat(text)
    except (binascii.Error, ValueError, TypeError):
        raise wrong from None
    if (kept_order, kept_descending) != (order_by, descending) or at.tzinfo is None or not isinstance(session_id, str):
        raise wrong
    return {"at": at, "at_hour": at.replace(minute=0, second=0, microsecond=0), "at_id": session_id}
