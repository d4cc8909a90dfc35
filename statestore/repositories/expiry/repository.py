"""The sweep's deletion of expired and idle sessions: one batch at a time, each in a short transaction of its own.

Several workers may do so at once. A batch takes sessions that nobody else holds, and waits for none (SKIP LOCKED;
SQLite has one writer). It looks again under the lock whether they are due, and is bounded in rows: a session that is
larger than a batch goes in slices, from its front. What has expired can never be revived, so a slice needs no mark, and
a worker that dies leaves the rest to the next. Idle sessions are made to expire first, in one update; from then on they
are like the others.
"""

from collections.abc import Container, Sequence
from dataclasses import dataclass
from typing import Any

from statestore.engine.calls import writes
from statestore.engine.sql import Statement
from statestore.engine.sql_parts import each
from statestore.repositories.expiry.batch import Batch
from statestore.repositories.expiry.ending import EndingRepository
from statestore.repositories.sessions import endings, parts, segments, unshared
from statestore.repositories.usage import ledger
from statestore.repositories.usage.periods import EARLIEST
from statestore.values.usage import SweepKind

_FAR = 2**62
# So many sessions a batch looks at, however few the one before deleted.
_AT_LEAST = 8
# At most so many families in one batch: their locks are in a table that all sessions of the server share.
_FAMILIES_AT_ONCE = 100

_DUE = """
    SELECT s.expires_at, s.session_id, s.root_session_id FROM $sessions AS s
    WHERE s.namespace = :namespace AND %s
        AND (s.expires_at, s.session_id) > ($time(:after_at), :after_id)
    ORDER BY s.expires_at, s.session_id LIMIT :limit"""


def _find_due(which: str) -> Statement:
    """Sessions that are due, and the locks of their families with them, if they share entries.

    Only those locks that are free: to wait for one could end in a deadlock. The third column says whether they share
    entries, the last whether they may be taken; it is NULL where enough families are locked. `:alone` says that the
    lock for all of them is held.
    """
    due = _DUE % which
    return Statement(
        postgresql=f"""
    WITH due AS MATERIALIZED ({due}), found AS MATERIALIZED (
        SELECT s.expires_at, s.session_id, s.root_session_id, {unshared.SHARES} AS shares FROM due AS s),
    changing AS (
        SELECT s.*, s.shares AND s.root_session_id IS DISTINCT FROM lag(s.root_session_id)
            OVER (ORDER BY s.expires_at, s.session_id) AS changes FROM found AS s),
    counted AS MATERIALIZED (
        SELECT s.*, count(*) FILTER (WHERE s.changes) OVER (ORDER BY s.expires_at, s.session_id) AS families
        FROM changing AS s)
    SELECT s.expires_at, s.session_id, s.shares,
        CASE WHEN NOT s.shares OR CAST(:alone AS boolean) THEN true
            WHEN s.families <= {_FAMILIES_AT_ONCE} THEN {segments.TRY_FAMILY} END
    FROM counted AS s ORDER BY s.expires_at, s.session_id""",
        sqlite=due.replace("s.root_session_id", "1, 1"),
    )


_FIND_DUE = _find_due(endings.DUE)
FIND_ERASED = _find_due("s.expires_at <= $now AND s.ttl = :erased AND s.instructions = :erasure")
_LOCK_DUE = Statement(
    postgresql="""
    SELECT s.session_id FROM $sessions AS s
    WHERE s.namespace = :namespace AND s.session_id $in(:session_ids) AND s.expires_at <= $now
    FOR UPDATE OF s SKIP LOCKED""",
    sqlite="""
    SELECT s.session_id FROM $sessions AS s WHERE s.namespace = :namespace AND s.session_id $in(:session_ids)""",
)
# Which of them share entries with others, and so are let go of under the lock of the family alone; and which of these
# have entries that sessions see which are not gone.
_SHARING = Statement(f"""
    SELECT s.session_id, EXISTS (SELECT 1 FROM $session_segments AS g
        JOIN $sessions AS v ON v.namespace = g.namespace AND v.session_id = g.session_id
            AND (v.expires_at IS NULL OR v.expires_at > $later(-CAST(:gone_for AS interval)))
        WHERE g.namespace = :namespace AND g.owner_session_id = s.session_id)
    FROM $sessions AS s WHERE s.namespace = :namespace AND s.session_id $in(:session_ids) AND {unshared.SHARES}""")
_FORGET_VIEWERS = Statement("""
    DELETE FROM $session_segments WHERE namespace = :namespace AND owner_session_id $in(:session_ids)""")

# What would be deleted with each session. Asked once it is locked, so that nothing is added any more. Entries are
# counted as far as a batch goes: of a session that is ended nobody keeps what it sees of others up to date.
_WEIGH = Statement("""
    SELECT s.session_id, s.first_seq, s.next_seq, s.ttl = :idle, s.ttl = :evicted, s.ttl = :erased,
        (SELECT count(*) FROM (SELECT 1 FROM $history_entries AS h
            WHERE h.namespace = :namespace AND h.session_id = s.session_id
            LIMIT CAST(:limit AS bigint) + 1) AS counted),
        (SELECT count(*) FROM $state_entries AS e WHERE e.namespace = :namespace AND e.session_id = s.session_id),
        (SELECT count(*) FROM $summaries AS m WHERE m.namespace = :namespace AND m.session_id = s.session_id),
        (SELECT count(*) FROM $sessions AS p WHERE p.namespace = :namespace AND p.belongs_to = s.session_id
            AND p.expires_at IS NULL),
        (SELECT count(*) FROM $session_list_items AS i WHERE i.namespace = :namespace AND i.session_id = s.session_id),
        $bytes(s.title) + $bytes(s.instructions) + $bytes(s.metadata)
        + coalesce((SELECT sum($bytes(e.value)) FROM $state_entries AS e
            WHERE e.namespace = :namespace AND e.session_id = s.session_id), 0)
        + coalesce((SELECT sum($bytes(m.content)) FROM $summaries AS m
            WHERE m.namespace = :namespace AND m.session_id = s.session_id), 0)
        + coalesce((SELECT sum($bytes(i.value)) FROM $session_list_items AS i
            WHERE i.namespace = :namespace AND i.session_id = s.session_id), 0)
    FROM $sessions AS s WHERE s.namespace = :namespace AND s.session_id $in(:session_ids)""")
_COUNT_VIEWERS = Statement("""
    SELECT count(*) FROM $session_segments AS g
    WHERE g.namespace = :namespace AND g.owner_session_id = :session_id""")
_LAST_OF_SLICE = Statement("""
    SELECT max(seq) FROM (SELECT h.seq FROM $history_entries AS h
        WHERE h.namespace = :namespace AND h.session_id = :session_id ORDER BY h.seq LIMIT :limit) AS slice""")

_DELETE_ENTRIES = Statement(
    postgresql="""
    WITH gone AS (
        DELETE FROM $history_entries WHERE namespace = :namespace AND session_id $in(:session_ids)
        RETURNING content_bytes + $bytes(metadata) AS size)
    SELECT count(*), sum(size) FROM gone""",
    sqlite="""
    SELECT count(*), sum(content_bytes + $bytes(metadata)) FROM $history_entries
    WHERE namespace = :namespace AND session_id $in(:session_ids)""",
)
_DELETE_ENTRIES_SQLITE = Statement(
    sqlite="DELETE FROM $history_entries WHERE namespace = :namespace AND session_id $in(:session_ids)"
)
# State, summaries and segments go with it. That they are due was seen under the lock that is still held.
_DELETE_SESSIONS = Statement("""
    DELETE FROM $sessions WHERE namespace = :namespace AND session_id $in(:session_ids)""")

_SET_FIRST = Statement("""
    UPDATE $sessions SET first_seq = :first_seq WHERE namespace = :namespace AND session_id = :session_id""")


def _delete_some(table: str, *key: str) -> Statement:
    """Up to `:limit` rows of a session. They are looked for once: PostgreSQL may run what is IN (…) for each row."""
    some = f"""SELECT {each("t.{0}", key)} FROM {table} AS t
        WHERE t.namespace = :namespace AND t.session_id = :session_id ORDER BY {each("t.{0}", key)} LIMIT :limit"""
    same = " AND ".join(f"t.{name} = chosen.{name}" for name in key)
    return Statement(
        postgresql=f"""
    WITH chosen AS MATERIALIZED (
        {some})
    DELETE FROM {table} AS t USING chosen
    WHERE t.namespace = :namespace AND t.session_id = :session_id AND {same}""",
        sqlite=f"""
    DELETE FROM {table} WHERE namespace = :namespace AND session_id = :session_id AND ({", ".join(key)}) IN (
        {some})""",
    )


_DELETE_SOME_STATE = _delete_some("$state_entries", "key")
_DELETE_SOME_SUMMARIES = _delete_some("$summaries", "start_seq")
_DELETE_SOME_ITEMS = _delete_some("$session_list_items", "name", "position")


@dataclass(frozen=True, slots=True)
class _Doomed:
    """A session of the batch, locked, and what goes with it."""

    session_id: str
    first_seq: int
    next_seq: int
    idle: bool
    evicted: bool
    erased: bool
    entries: int
    state_entries: int
    summaries: int
    parts: int
    """Sessions that belong to it and are not ended yet."""
    list_items: int
    size: int

    @property
    def rows(self) -> int:
        return 1 + self.entries + self.state_entries + self.summaries + self.list_items

    @property
    def kind(self) -> SweepKind:
        return "idle_sessions" if self.idle else "session_overflow" if self.evicted else "expired_sessions"


class ExpiryRepository(EndingRepository):
    """The steps of a sweep that delete sessions."""

    @writes
    def sweep_sessions(self, limit: int, after: tuple[Any, ...] = ()) -> Batch:
        """Delete expired sessions with up to *limit* rows in all, or a slice of the first one if that has more.

        Forks keep what they see. The next batch starts behind the last session of this one, so that those which
        somebody else holds are not asked for again and again.
        """
        return self._sweep(_FIND_DUE, limit, after, claimed=endings.CLAIMED)

    def _sweep(
        self, find: Statement, limit: int, after: tuple[Any, ...], *, alone: bool = False, **which: Any
    ) -> Batch:
        # No more are looked at, locked and weighed than the batch before lets expect: it ends if they are too large.
        *where, most = after or (EARLIEST, "", limit)
        place = tuple(where)
        which |= {"erased": endings.ERASED, "alone": alone}
        found = self._link.all(find, after_at=place[0], after_id=place[1], limit=most, **which)
        batch = Batch()
        if not found:
            return batch
        exhausted = len(found) < most
        for index, (*_, is_ours) in enumerate(found):
            if is_ours is None:
                found, exhausted = found[:index], False
                break
        ours, sharing = self._take({session_id: bool(shares) for _, session_id, shares, is_ours in found if is_ours})
        viewed = {session_id for session_id, is_viewed in sharing.items() if is_viewed}
        weighed = self._weigh(ours, limit)
        taken: list[_Doomed] = []
        rows = 0
        for expires_at, session_id, *_ in found:
            doomed = weighed.get(session_id)
            if doomed is None:
                batch.left = True
            elif rows + doomed.rows <= limit:
                taken.append(doomed)
                rows += doomed.rows
            elif taken:
                break
            else:
                self._slice(doomed, limit, batch)
                batch.after = (*place, min(limit, _AT_LEAST))
                return batch
            place = (expires_at, session_id)
        else:
            place = () if exhausted else place
        self._delete([doomed for doomed in taken if doomed.session_id not in viewed], batch, sharing)
        for doomed in taken:
            if doomed.session_id in viewed:
                self._release(doomed, batch)
        erased = [doomed.session_id for doomed in taken if doomed.erased]
        if erased:
            ledger.rename(self._link, erased)
        batch.after = (*place, min(limit, 2 * len(taken) + _AT_LEAST)) if place else None
        return batch

    def _take(self, found: dict[str, bool]) -> tuple[list[str], dict[str, bool]]:
        """Lock those of the sessions that nobody else holds, and tell which share entries, and let others see theirs.

        Args:
            found: Whether a session shared entries when it was found, and the lock of its family is ours.
        """
        ours = [session_id for (session_id,) in self._link.all(_LOCK_DUE, session_ids=list(found))]
        # Asked again once they are locked, when nobody can fork them any more: a fork may have come until then.
        rows = self._link.all(_SHARING, session_ids=ours, gone_for=endings.GONE_FOR)
        sharing = {session_id: bool(is_viewed) for session_id, is_viewed in rows}
        if self._link.dialect.name == "postgresql":
            ours = [session_id for session_id in ours if session_id not in sharing or found[session_id]]
        return ours, sharing

    def _weigh(self, session_ids: list[str], limit: int) -> dict[str, _Doomed]:
        marks = {"idle": endings.IDLE, "evicted": endings.EVICTED, "erased": endings.ERASED}
        rows = self._link.all(_WEIGH, session_ids=session_ids, limit=limit, **marks)
        return {
            session_id: _Doomed(session_id, first_seq, next_seq, *map(bool, (idle, evicted, erased)), *map(int, counts))
            for session_id, first_seq, next_seq, idle, evicted, erased, *counts in rows
        }

    def _delete(self, doomed: Sequence[_Doomed], batch: Batch, sharing: Container[str]) -> None:
        """Delete sessions of which no fork sees anything that is not gone itself, all at once."""
        if not doomed:
            return
        ids = [one.session_id for one in doomed]
        self._end_parts(doomed, batch)
        if any(session_id in sharing for session_id in ids):
            self._link.run(_FORGET_VIEWERS, session_ids=ids)
        if any(one.entries for one in doomed):
            ledger.fold_sessions(self._link, ids)
            rows, size = self._link.only(_DELETE_ENTRIES, session_ids=ids)
            if self._link.dialect.name == "sqlite":
                self._link.run(_DELETE_ENTRIES_SQLITE, session_ids=ids)
            batch.add("history_entries", rows, size)
        self._link.run(_DELETE_SESSIONS, session_ids=ids)
        for one in doomed:
            self._count(one, batch)

    def _remove(self, session_id: str, limit: int, batch: Batch) -> Batch:
        """Delete a session that is locked for release, or a slice of it; `batch.after` says whether more is left."""
        for doomed in self._weigh([session_id], limit).values():
            if doomed.rows > limit + 1:
                self._slice(doomed, limit, batch)
                batch.after = ()
            else:
                self._release(doomed, batch)
                if doomed.erased:
                    ledger.rename(self._link, [session_id])
        return batch

    def _count(self, doomed: _Doomed, batch: Batch) -> None:
        batch.add(doomed.kind, 1, doomed.size)
        batch.state_entries += doomed.state_entries
        batch.summaries += doomed.summaries

    def _release(self, doomed: _Doomed, batch: Batch) -> None:
        """Delete a session that forks look into: they keep what they see."""
        self._end_parts([doomed], batch)
        self._release_range(doomed, 1, _FAR, batch)
        self._link.run(_DELETE_SESSIONS, session_ids=[doomed.session_id])
        self._count(doomed, batch)

    def _end_parts(self, doomed: Sequence[_Doomed], batch: Batch) -> None:
        """End what belongs to sessions that go now, as far as nobody has done so before."""
        whole = [one.session_id for one in doomed if one.parts]
        if whole:
            parts.end(self._link, whole)
            batch.left = True

    def _release_range(self, doomed: _Doomed, from_seq: int, to_seq: int, batch: Batch) -> None:
        rows, size = segments.release_weighed(self._link, doomed.session_id, from_seq, to_seq)
        batch.add("history_entries", rows, size)

    def _slice(self, doomed: _Doomed, limit: int, batch: Batch) -> None:
        """Delete about *limit* rows of a session that has more: entries from the front, then the rest."""
        session_id = doomed.session_id
        if doomed.entries:
            # A slice that changes hands changes a row for each fork: with very many of them it takes more entries, or
            # all of them would be gone through again for each few of these.
            (viewers,) = self._link.only(_COUNT_VIEWERS, session_id=session_id)
            (last,) = self._link.only(_LAST_OF_SLICE, session_id=session_id, limit=max(limit, viewers // 10))
            last = doomed.next_seq - 1 if last is None else last
            self._release_range(doomed, 1, last, batch)
            first_seq = min(last + 1, doomed.next_seq)
            self._link.run(_SET_FIRST, session_id=session_id, first_seq=first_seq)
            return
        if doomed.state_entries:
            batch.state_entries += self._link.run(_DELETE_SOME_STATE, session_id=session_id, limit=limit)
        elif doomed.list_items:
            self._link.run(_DELETE_SOME_ITEMS, session_id=session_id, limit=limit)
        else:
            batch.summaries += self._link.run(_DELETE_SOME_SUMMARIES, session_id=session_id, limit=limit)
        batch.add(doomed.kind, 0, doomed.size - self._weigh([session_id], 0)[session_id].size)
