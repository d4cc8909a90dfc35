"""Removing sessions that are too many, or too large, for one short transaction.

The first transaction hides all of it, for good: what is hidden has expired long ago, and nothing revives it. The rest
follows in batches, as in a sweep; if the process dies, the next sweep goes on with them.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from statestore.checking import checks
from statestore.engine.calls import reported_as, writes, writes_in_one_statement
from statestore.engine.sql import Statement
from statestore.repositories.expiry.batch import Batch
from statestore.repositories.expiry.repository import FIND_ERASED, ExpiryRepository
from statestore.repositories.sessions import endings, parts, segments, session_life, session_rows, unshared
from statestore.repositories.state.statements import APP_STATEMENTS, USER_STATEMENTS
from statestore.repositories.usage import ledger

# What is left in the row says nothing of the user but which erasure it belongs to. What another user's part used is
# still theirs to be billed.
_HIDE = f"""
    UPDATE $sessions AS s SET user_id = nullif(s.user_id, :user_id), title = NULL, instructions = :erasure,
        metadata = '{{}}', project_root = NULL, cwd = NULL, lease_owner = NULL, lease_until = NULL, ttl = :erased,
        {endings.END}
    WHERE s.namespace = :namespace AND """
_HIDE_USER = Statement(_HIDE + "s.user_id = :user_id")
# Whoever's they are. None is made any more by now: that would wait for the row of the session that it is to belong to.
_HIDE_PARTS = Statement(
    _HIDE
    + """(s.ttl IS NULL OR s.ttl <> :erased) AND s.belongs_to IN (
        SELECT w.session_id FROM $sessions AS w WHERE w.namespace = :namespace AND w.expires_at <= $now
            AND w.ttl = :erased AND w.instructions = :erasure)"""
)

# Those that have keys which were written for a user, in the order in which they are locked.
_AGENTS = Statement("""
    SELECT DISTINCT e.owner_id FROM $shared_state AS e
    WHERE e.namespace = :namespace AND e.user_id = :user_id AND e.scope = 'app' ORDER BY e.owner_id""")

_LOOK = Statement("""
    SELECT $live, s.next_seq - s.first_seq, s.revision, s.user_id, EXISTS (
        SELECT 1 FROM $sessions AS p WHERE p.namespace = :namespace AND p.belongs_to = s.session_id)
    FROM $sessions AS s
    WHERE s.namespace = :namespace AND s.session_id = :session_id $lock""")
_HIDE_SESSION = Statement(f"""
    UPDATE $sessions AS s SET ttl = :deleted, {endings.END}
    WHERE s.namespace = :namespace AND s.session_id = :session_id""")
_IS_HIDDEN = Statement("""
    SELECT 1 FROM $sessions AS s WHERE s.namespace = :namespace AND s.session_id = :session_id
        AND s.expires_at <= $later(-CAST(:gone_for AS interval))""")
_NEXT_ERASED = Statement("""
    SELECT s.session_id FROM $sessions AS s
    WHERE s.namespace = :namespace AND s.expires_at <= $now AND s.ttl = :erased AND s.instructions = :erasure
    ORDER BY s.expires_at, s.session_id LIMIT 1""")


_ENDED = """, ended AS (
        DELETE FROM $sessions AS s USING own WHERE s.namespace = :namespace AND s.session_id = own.session_id
        RETURNING s.session_id)"""
_SMALL = "s.next_seq - s.first_seq <= :limit"
_PLAIN = """(s.ttl IS NULL OR s.ttl <> :erased) AND NOT EXISTS (
                SELECT 1 FROM $sessions AS p WHERE p.namespace = :namespace AND p.belongs_to = s.session_id)"""
_REMOVE = unshared.release(
    f"{_ENDED} SELECT held.lives, (SELECT count(*) FROM ended) FROM held",
    from_seq="1",
    where=f"{_SMALL} AND {session_rows.AS_EXPECTED} AND {_PLAIN}",
)
# Of a session and a part of it the one that is named first goes first: then the other may be gone.
_REMOVE_MANY = unshared.release_many(
    f"""{_ENDED}
    SELECT held.session_id, ended.session_id IS NOT NULL, held.lives
    FROM held LEFT JOIN ended ON ended.session_id = held.session_id
    UNION ALL
    SELECT s.session_id, false, NULL FROM $sessions AS s
    WHERE s.namespace = :namespace AND s.session_id $in(:session_ids)
        AND NOT EXISTS (SELECT 1 FROM held WHERE held.session_id = s.session_id)""",
    where=f"{_SMALL} AND {_PLAIN} AND coalesce(NOT s.belongs_to $in(:session_ids), true)",
)
_SIZES = Statement("""
    SELECT s.session_id, s.next_seq - s.first_seq FROM $sessions AS s
    WHERE s.namespace = :namespace AND s.session_id $in(:session_ids)""")


@dataclass(frozen=True, slots=True)
class Removed:
    """What came of a session that is to be removed: whether it lived, and of which sessions rows are left to delete."""

    lived: bool
    hidden: tuple[str, ...] = ()

    @property
    def more(self) -> bool:
        return bool(self.hidden)


@dataclass(frozen=True, slots=True)
class RemovedMany:
    """What came of sessions that are to be removed.

    Attributes:
        lived: How many of those that were removed lived.
        hidden: Sessions of which rows are left to delete.
        left: Those that are still to be removed, in the order given.
    """

    lived: int
    hidden: tuple[str, ...] = ()
    left: tuple[str, ...] = ()


class ErasureRepository(ExpiryRepository):
    """The steps of `sessions.delete` and `sessions.delete_user`; no operations of their own."""

    @reported_as("sessions.delete")
    @writes_in_one_statement
    def remove(
        self, session_id: str, limit: int, *, expected_revision: int | None = None, user_id: str | None = None
    ) -> Removed:
        """Delete a session with up to *limit* entries; hide a larger one, and what belongs to it."""
        checks.key(session_id, "session_id")
        checks.optional_count(expected_revision, "expected_revision")
        checks.optional_key(user_id, "user_id")
        if not self._link.in_transaction:
            expected = {"expected_revision": expected_revision, "expected_user_id": user_id}
            row = self._link.one(_REMOVE, session_id=session_id, limit=limit, erased=endings.ERASED, **expected)
            if row is None:
                return Removed(lived=False)
            lives, removed = row
            if removed:
                return Removed(lived=bool(lives))
            self._needs_transaction()
        return self._remove_in_transaction(session_id, limit, expected_revision, user_id)

    @reported_as("sessions.delete_many", rows=lambda removed: removed.lived)
    @writes_in_one_statement
    def remove_many(self, session_ids: Sequence[str], limit: int) -> RemovedMany:
        """Delete sessions with up to *limit* entries in all, and hide larger ones.

        On PostgreSQL, outside a caller's transaction: only those that nobody has locked, that share no entries and have
        no parts.
        """
        if self._link.dialect.name == "sqlite" or self._link.holds_reads:
            return self._remove_each(session_ids, limit)
        rows = self._link.all(_REMOVE_MANY, session_ids=list(session_ids), limit=limit, erased=endings.ERASED)
        left = {session_id for session_id, removed, _ in rows if not removed}
        return RemovedMany(
            lived=sum(bool(removed and lives) for _, removed, lives in rows),
            left=tuple(session_id for session_id in session_ids if session_id in left),
        )

    def _remove_each(self, session_ids: Sequence[str], limit: int) -> RemovedMany:
        self._needs_transaction()
        sizes: dict[str, int] = dict(self._link.all(_SIZES, session_ids=list(session_ids)))
        lived = entries = 0
        hidden: list[str] = []
        for number, session_id in enumerate(session_ids):
            size = sizes.get(session_id, 0)
            entries += size if size <= limit else 0
            if entries > limit:
                return RemovedMany(lived, tuple(hidden), tuple(session_ids[number:]))
            removed = self._remove_in_transaction(session_id, limit, None, None)
            lived += removed.lived
            hidden += removed.hidden
        return RemovedMany(lived, tuple(hidden))

    def _remove_in_transaction(
        self, session_id: str, limit: int, expected_revision: int | None, user_id: str | None
    ) -> Removed:
        if not segments.lock_for_release(self._link, session_id):
            return Removed(lived=False)
        row = self._link.one(_LOOK, session_id=session_id)
        if row is None:
            return Removed(lived=False)
        lives, entries, revision, owner, has_parts = row
        if lives and user_id not in (None, owner):
            return Removed(lived=False)
        if lives and expected_revision not in (None, revision):
            raise session_rows.other_revision(session_id, revision, expected_revision)
        hidden = parts.of(self._link, session_id) if has_parts else []
        if entries <= limit:
            session_life.erase(self._link, session_id, locked=True)
            return Removed(lived=bool(lives), hidden=tuple(hidden))
        if has_parts:
            parts.end(self._link, [session_id])
        self._link.run(_HIDE_SESSION, session_id=session_id, deleted=endings.DELETED, back=endings.BACK)
        return Removed(lived=bool(lives), hidden=(session_id, *hidden))

    @reported_as("sessions.delete")
    @writes
    def remove_slice(self, session_id: str, limit: int) -> Batch:
        """Delete up to *limit* rows of a session that is hidden, waiting for whoever holds it or its family."""
        batch = Batch()
        if not segments.lock_for_release(self._link, session_id):
            return batch
        if self._link.one(_IS_HIDDEN, session_id=session_id, gone_for=endings.GONE_FOR) is None:
            return batch  # Another session by now, made anew under the id.
        return self._remove(session_id, limit, batch)

    @reported_as("sessions.delete_user", rows=lambda hidden: hidden[1].rows)
    @writes
    def hide_user(self, user_id: str, limit: int) -> tuple[datetime, Batch]:
        """Hide all sessions of a user, delete as many as one batch takes, and the user's own state.

        Returns:
            When that was, and the first batch.
        """
        checks.key(user_id, "user_id")
        if self._link.holds_reads:
            # All batches are in the caller's one transaction: a lock for each family would be too many.
            segments.lock_all(self._link)
        marks = {"erasure": self._erasure(user_id), "erased": endings.ERASED, "back": endings.BACK}
        # Again until there is none: the user may have opened a session while we waited for another.
        while self._link.run(_HIDE_USER, user_id=user_id, **marks):
            pass
        self._link.run(_HIDE_PARTS, user_id=user_id, **marks)
        ledger.forget_user(self._link, user_id, erased=endings.ERASED)
        state = self._link.all(USER_STATEMENTS.clear[True], owner_id=user_id)
        for (agent_name,) in self._link.all(_AGENTS, user_id=user_id):
            of_agent = APP_STATEMENTS.clear_user[self._link.holds_reads]
            state = [*state, *self._link.all(of_agent, owner_id=agent_name, user_id=user_id)]
        batch = self._erase(user_id, limit, ())
        batch.user_state_entries = sum(key is not None for *_, key, _ in state)
        return session_rows.now(self._link), batch

    @reported_as("sessions.delete_user")
    @writes
    def erase_batch(self, user_id: str, limit: int, after: tuple[Any, ...]) -> Batch:
        """Delete hidden sessions of a user with up to *limit* rows in all, as a sweep does."""
        return self._erase(user_id, limit, after)

    @reported_as("sessions.delete_user")
    @writes
    def erase_next(self, user_id: str, limit: int) -> Batch:
        """Delete up to *limit* rows of a user's next hidden session, waiting for whoever holds it or its family."""
        batch = Batch()
        erasure = {"erasure": self._erasure(user_id), "erased": endings.ERASED}
        row = self._link.one(_NEXT_ERASED, **erasure)
        if row is None:
            return batch
        (session_id,) = row
        if segments.lock_for_release(self._link, session_id) and self._link.one(_NEXT_ERASED, **erasure) == row:
            self._remove(session_id, limit, batch)
        batch.after = ()
        return batch

    def _erase(self, user_id: str, limit: int, after: tuple[Any, ...]) -> Batch:
        erasure = self._erasure(user_id)
        return self._sweep(FIND_ERASED, limit, after, alone=self._link.holds_reads, erasure=erasure)

    def _erasure(self, user_id: str) -> str:
        """By what the sessions of an erased user are found again, which does not tell whose they were."""
        return hashlib.sha256(f"{self._link.settings.namespace}\0{user_id}".encode()).hexdigest()
