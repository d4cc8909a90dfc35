"""Who owns the history that a session sees, and what becomes of rows that a session lets go.

A fork copies nothing. It sees ranges of other sessions' rows, listed in `session_segments`; everything else that it
sees are rows of its own. Three rules keep this sound, and every write below preserves them:

1. A segment names a session that owns every row of its range, and that sees them itself.
2. A position that a session sees is in exactly one segment, or is a row of its own.
3. Segments change only under the lock of the family: forks, which only add some, share it; a release has it alone.
   It is taken before any row of a session is locked.

Releasing is the one way in which rows leave a session that shares some: by trim, pop, clear, delete and expiry alike.
Those of a session without segments, its own or others', may go by one statement, without the lock (see `unshared`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import starmap
from typing import NamedTuple

from statestore.engine.sql import Link, Params, StartOver, Statement
from statestore.repositories.base import one_row
from statestore.repositories.sessions import endings
from statestore.repositories.usage import ledger

# A family is a root and all that was forked from it, at any depth. Its lock is an advisory one, held until the
# transaction ends, so it works behind PgBouncer. Row locks would have to be taken on all sessions involved, which are
# only known once the locks are held: that ends in deadlocks. The namespace is hashed by itself, into the seed, so that
# no other namespace and root give the same text.
FAMILY = "hashtextextended(s.root_session_id, hashtextextended(CAST(:namespace AS text), 7))"
# Whoever holds the lock of a family shares this one. Who works on thousands of families in one transaction has it alone
# instead: a lock for each of them would fill PostgreSQL's lock table, which all sessions of the server share.
_ALL = "hashtextextended(CAST(:namespace AS text), 8)"
TRY_FAMILY = f"(pg_try_advisory_xact_lock_shared({_ALL}) AND pg_try_advisory_xact_lock({FAMILY}))"
_FAMILY = f"""
    SELECT s.root_session_id, pg_advisory_xact_lock_shared({_ALL}), %s({FAMILY})
    FROM $sessions AS s WHERE s.namespace = :namespace AND s.session_id = :session_id"""
_LOCK_FAMILY = Statement(postgresql=_FAMILY % "pg_advisory_xact_lock")
_SHARE_FAMILY = Statement(postgresql=_FAMILY % "pg_advisory_xact_lock_shared")
_LOCK_ALL = Statement(postgresql=f"SELECT pg_advisory_xact_lock({_ALL}) FROM {one_row('sessions', 'session_id')}")

# Only as one of that family: the row of a session that has come back in another one must not be locked before its lock.
_ROW = """
    SELECT 1 FROM $sessions AS s
    WHERE s.namespace = :namespace AND s.session_id = :session_id AND s.root_session_id = :root_session_id"""
_EXISTS = Statement("SELECT 1 FROM $sessions WHERE namespace = :namespace AND session_id = :session_id")
_LOCK_ROW = Statement(_ROW + " $lock")
# A fork of a part belongs to the same session, whose row is locked before any of a part.
_LOCK_ROW_OF_SOURCE = Statement(
    postgresql=f"""
    WITH whole AS MATERIALIZED (
        SELECT 1 FROM $sessions AS w WHERE w.namespace = :namespace AND w.session_id = (
            SELECT x.belongs_to FROM $sessions AS x WHERE x.namespace = :namespace AND x.session_id = :session_id)
        FOR NO KEY UPDATE OF w)
    {_ROW} AND (SELECT count(*) FROM whole) >= 0 $lock"""
)

_OF_SESSION = Statement("""
    SELECT session_id, from_seq, to_seq, owner_session_id FROM $session_segments
    WHERE namespace = :namespace AND session_id = :session_id ORDER BY from_seq""")

# Which ranges of a session's rows forks see: of those that begin at one position the longest, with the fork that would
# get the rows. Sessions that will live on are preferred, so that the rows need not change hands again.
# Each session is looked up by itself: a join of tables that were not analyzed yet may go through all sessions for each
# segment.
_VIEWED = Statement("""
    SELECT from_seq, to_seq, lives, session_id, gone, viewers FROM (
        SELECT v.*,
            row_number() OVER (PARTITION BY from_seq ORDER BY to_seq DESC, lives DESC, session_id DESC) AS place,
            max(CASE WHEN lives < 0 THEN 1 ELSE 0 END) OVER () AS gone, count(*) OVER () AS viewers
        FROM (
            SELECT g.from_seq, g.to_seq, g.session_id, (
                SELECT CASE WHEN s.expires_at IS NULL THEN 2 WHEN $live THEN 1
                    WHEN s.expires_at <= $later(-CAST(:gone_for AS interval)) THEN -1 ELSE 0 END
                FROM $sessions AS s WHERE s.namespace = :namespace AND s.session_id = g.session_id) AS lives
            FROM $session_segments AS g
            WHERE g.namespace = :namespace AND g.owner_session_id = :session_id
                AND g.from_seq <= :to_seq AND g.to_seq >= :from_seq) AS v) AS placed
    WHERE place = 1 ORDER BY from_seq""")

# Sessions that nothing can revive any more look for nothing.
_FORGET_GONE = Statement("""
    DELETE FROM $session_segments AS g
    WHERE g.namespace = :namespace AND g.owner_session_id = :session_id
        AND g.from_seq <= :to_seq AND g.to_seq >= :from_seq
        AND EXISTS (SELECT 1 FROM $sessions AS s WHERE s.namespace = :namespace AND s.session_id = g.session_id
            AND s.expires_at <= $later(-CAST(:gone_for AS interval)))""")

_INSERT = Statement("""
    INSERT INTO $session_segments (namespace, session_id, from_seq, to_seq, owner_session_id)
    VALUES (:namespace, :session_id, :from_seq, :to_seq, :owner)""")

_DELETE = Statement("""
    DELETE FROM $session_segments
    WHERE namespace = :namespace AND session_id = :session_id AND from_seq = :from_seq""")

DELETE_ROWS = Statement("""
    DELETE FROM $history_entries
    WHERE namespace = :namespace AND session_id = :session_id AND seq BETWEEN :from_seq AND :to_seq""")

_WEIGH_ROWS = Statement("""
    SELECT count(*), sum(content_bytes + $bytes(metadata)) FROM $history_entries
    WHERE namespace = :namespace AND session_id = :session_id AND seq BETWEEN :from_seq AND :to_seq""")

# What they used stays where it was: it has been folded by now.
_HAND_OVER_ROWS = Statement("""
    UPDATE $history_entries SET session_id = :heir, usage_folded = $greatest(usage_folded, 1)
    WHERE namespace = :namespace AND session_id = :session_id AND seq BETWEEN :from_seq AND :to_seq""")

# Segments that reach beyond a range that changes hands are cut at its ends first; then those within it name the heir.
_OF_OWNER = "namespace = :namespace AND owner_session_id = :session_id"
_CUT_BEHIND = Statement(f"""
    INSERT INTO $session_segments (namespace, session_id, from_seq, to_seq, owner_session_id)
    SELECT namespace, session_id, CAST(:to_seq AS bigint) + 1, to_seq, owner_session_id FROM $session_segments
    WHERE {_OF_OWNER} AND from_seq <= :to_seq AND to_seq > :to_seq""")
_CUT_BEFORE = Statement(f"""
    INSERT INTO $session_segments (namespace, session_id, from_seq, to_seq, owner_session_id)
    SELECT namespace, session_id, CAST(:from_seq AS bigint), to_seq, owner_session_id FROM $session_segments
    WHERE {_OF_OWNER} AND from_seq < :from_seq AND to_seq >= :from_seq""")
_SHORTEN = Statement(f"""
    UPDATE $session_segments SET to_seq = CAST(:from_seq AS bigint) - 1
    WHERE {_OF_OWNER} AND from_seq < :from_seq AND to_seq >= :from_seq""")
_NAME_HEIR = Statement(f"""
    UPDATE $session_segments SET owner_session_id = :heir, to_seq = $least(to_seq, :to_seq)
    WHERE {_OF_OWNER} AND from_seq BETWEEN :from_seq AND :to_seq AND session_id <> :heir""")
_OWN_NOW = Statement(f"""
    DELETE FROM $session_segments
    WHERE {_OF_OWNER} AND from_seq BETWEEN :from_seq AND :to_seq AND session_id = :heir""")

# Segments of one owner that continue each other become the first of them, in all sessions that see rows of an owner.
_VIEWERS = """session_id IN (SELECT v.session_id FROM $session_segments AS v
            WHERE v.namespace = :namespace AND v.owner_session_id = :owner)"""
_CHAINS = f"""
    WITH marked AS (
        SELECT session_id, from_seq, to_seq,
            CASE WHEN lag(owner_session_id) OVER w = owner_session_id AND lag(to_seq) OVER w = from_seq - 1
                THEN 0 ELSE 1 END AS begins
        FROM $session_segments WHERE namespace = :namespace AND {_VIEWERS}
        WINDOW w AS (PARTITION BY session_id ORDER BY from_seq)),
    numbered AS (
        SELECT session_id, from_seq, to_seq,
            sum(begins) OVER (PARTITION BY session_id ORDER BY from_seq) AS chain FROM marked),
    chains AS (
        SELECT session_id, min(from_seq) AS from_seq, max(to_seq) AS to_seq FROM numbered
        GROUP BY session_id, chain HAVING count(*) > 1)"""
_MERGE_POSTGRESQL = Statement(
    postgresql=f"""{_CHAINS}, merged AS (
        DELETE FROM $session_segments AS g USING chains AS c WHERE g.namespace = :namespace
            AND g.session_id = c.session_id AND g.from_seq > c.from_seq AND g.from_seq <= c.to_seq)
    UPDATE $session_segments AS g SET to_seq = c.to_seq FROM chains AS c
    WHERE g.namespace = :namespace AND g.session_id = c.session_id AND g.from_seq = c.from_seq"""
)
_EXTEND_SQLITE = Statement(
    sqlite=f"""{_CHAINS}
    UPDATE $session_segments AS g SET to_seq = c.to_seq FROM chains AS c
    WHERE g.namespace = :namespace AND g.session_id = c.session_id AND g.from_seq = c.from_seq"""
)
_MERGE_SQLITE = Statement(
    sqlite=f"""
    DELETE FROM $session_segments AS g WHERE g.namespace = :namespace AND g.{_VIEWERS}
        AND EXISTS (SELECT 1 FROM $session_segments AS x WHERE x.namespace = :namespace
            AND x.session_id = g.session_id AND x.from_seq < g.from_seq AND x.to_seq >= g.to_seq)"""
)


@dataclass(frozen=True, slots=True)
class Segment:
    """That *session_id* sees the rows *from_seq* to *to_seq* of *owner*."""

    session_id: str
    from_seq: int
    to_seq: int
    owner: str

    def overlaps(self, from_seq: int, to_seq: int) -> bool:
        return self.from_seq <= to_seq and self.to_seq >= from_seq

    def within(self, from_seq: int, to_seq: int) -> "Segment":
        return replace(self, from_seq=max(self.from_seq, from_seq), to_seq=min(self.to_seq, to_seq))

    def outside(self, from_seq: int, to_seq: int) -> list["Segment"]:
        """What is left of the segment when the range is taken out."""
        left = replace(self, to_seq=min(self.to_seq, from_seq - 1))
        right = replace(self, from_seq=max(self.from_seq, to_seq + 1))
        return [piece for piece in (left, right) if piece.from_seq <= piece.to_seq]

    def seen_by(self, session_id: str) -> "Segment":
        """The same rows as another session sees them."""
        return replace(self, session_id=session_id)

    def params(self) -> Params:
        return {
            "session_id": self.session_id,
            "from_seq": self.from_seq,
            "to_seq": self.to_seq,
            "owner": self.owner,
        }


def lock_for_release(link: Link, session_id: str) -> bool:
    """Lock the session's row, and the family against forks and other releases.

    Returns:
        Whether there is such a session; if not, none is to be looked for: it would be one that came later, unlocked.
    """
    return _lock(link, session_id, _LOCK_FAMILY, _LOCK_ROW)


def lock_all(link: Link) -> None:
    """As `lock_for_release` for every family of the namespace, without the rows; for work on thousands of sessions."""
    if link.dialect.name == "postgresql":
        link.one(_LOCK_ALL)


def lock_for_fork(link: Link, session_id: str) -> bool:
    """Keep the session's row from changing, and the family from releases; returns what `lock_for_release` does."""
    return _lock(link, session_id, _SHARE_FAMILY, _LOCK_ROW_OF_SOURCE)


def _lock(link: Link, session_id: str, family: Statement, row: Statement) -> bool:
    if link.dialect.name == "sqlite":
        return True  # The one writer, whether or not there is a session.
    found = link.one(family, session_id=session_id)
    if found is None:
        return False
    root, *_ = found
    if link.one(row, session_id=session_id, root_session_id=root) is not None:
        return True
    # While we waited, it was deleted. If it was made again in another family, to wait for that one's lock with this one
    # held could end in a deadlock.
    if link.one(_EXISTS, session_id=session_id) is not None:
        raise StartOver
    return False


def of(link: Link, session_id: str) -> list[Segment]:
    """The segments through which a session sees others' rows, oldest entries first."""
    return [Segment(*row) for row in link.all(_OF_SESSION, session_id=session_id)]


class _Viewed(NamedTuple):
    """A row of `_VIEWED`: a range that forks see, and the one that would get it."""

    from_seq: int
    to_seq: int
    lives: int
    session_id: str
    gone: int
    """1 if there is a session that nothing can revive."""
    viewers: int


def insert(link: Link, segments: list[Segment]) -> None:
    link.many(_INSERT, [segment.params() for segment in segments])


def view(segments: Sequence[Segment], session_id: str, from_seq: int, to_seq: int) -> list[Segment]:
    """The whole range as segments: those given, and between them the rows that *session_id* owns.

    Neighbours of one owner are one segment, also where those given are not.
    """
    pieces: list[Segment] = []

    def add(piece: Segment) -> None:
        if pieces and pieces[-1].owner == piece.owner and pieces[-1].to_seq == piece.from_seq - 1:
            pieces[-1] = replace(pieces[-1], to_seq=piece.to_seq)
        else:
            pieces.append(piece)

    position = from_seq
    for segment in segments:
        if not segment.overlaps(from_seq, to_seq):
            continue
        piece = segment.within(from_seq, to_seq)
        if piece.from_seq > position:
            add(Segment(session_id, position, piece.from_seq - 1, session_id))
        add(piece)
        position = piece.to_seq + 1
    if position <= to_seq:
        add(Segment(session_id, position, to_seq, session_id))
    return pieces


def release(link: Link, session_id: str, from_seq: int, to_seq: int) -> int:
    """Let go of the rows *from_seq* to *to_seq* of what the session sees. The locks for it are held.

    Rows of others are no longer seen. What its own rows used goes into the usage ledger. Of these rows, those that a
    fork sees are handed to a fork that sees them, and every segment that named this session follows; the others are
    deleted.

    Returns:
        How many rows were deleted.
    """
    return release_weighed(link, session_id, from_seq, to_seq, weigh=False)[0]


def release_weighed(link: Link, session_id: str, from_seq: int, to_seq: int, *, weigh: bool = True) -> tuple[int, int]:
    """As `release`, with how many bytes callers had put into the rows that were deleted; 0 without *weigh*."""
    if from_seq > to_seq:
        return 0, 0
    seen = [segment for segment in of(link, session_id) if segment.overlaps(from_seq, to_seq)]
    _replace(link, seen, [piece for segment in seen for piece in segment.outside(from_seq, to_seq)])
    if any(piece.owner == session_id for piece in view(seen, session_id, from_seq, to_seq)):
        ledger.fold(link, session_id, from_seq, to_seq)

    viewed = _viewed(link, session_id, from_seq, to_seq)
    deleted = size = 0
    position = from_seq
    for start, end, heir in _shares(viewed, from_seq, to_seq):
        counted = _delete_rows(link, session_id, position, start - 1, weigh)
        deleted, size = deleted + counted[0], size + counted[1]
        _hand_over(link, session_id, start, end, heir, viewed)
        position = end + 1
    counted = _delete_rows(link, session_id, position, to_seq, weigh)
    return deleted + counted[0], size + counted[1]


def _delete_rows(link: Link, session_id: str, from_seq: int, to_seq: int, weigh: bool) -> tuple[int, int]:
    if from_seq > to_seq:
        return 0, 0
    rows: Params = {"session_id": session_id, "from_seq": from_seq, "to_seq": to_seq}
    _, size = link.only(_WEIGH_ROWS, **rows) if weigh else (0, 0)
    return link.run(DELETE_ROWS, **rows), int(size or 0)


def _viewed(link: Link, session_id: str, from_seq: int, to_seq: int) -> list[_Viewed]:
    """What forks see of the range."""

    def look() -> list[_Viewed]:
        rows = link.all(_VIEWED, session_id=session_id, from_seq=from_seq, to_seq=to_seq, gone_for=endings.GONE_FOR)
        return list(starmap(_Viewed, rows))

    viewed = look()
    if viewed and viewed[0].gone:
        link.run(_FORGET_GONE, session_id=session_id, from_seq=from_seq, to_seq=to_seq, gone_for=endings.GONE_FOR)
        viewed = look()
    begins = {one.from_seq for one in viewed}
    if any(one.to_seq + 1 in begins for one in viewed):
        # Segments may be in pieces: whole ones need fewer heirs.
        merge(link, session_id)
        viewed = look()
    return viewed


def _shares(viewed: Sequence[_Viewed], from_seq: int, to_seq: int) -> list[tuple[int, int, str]]:
    """Which fork gets which rows: always the one that sees furthest on.

    So each range is as long as it can be, and what a fork sees lies in two ranges at most: where one begins within it,
    that one ends behind it.
    """
    shares: list[tuple[int, int, str]] = []
    rows = list(viewed)
    furthest: tuple[int, int, str] | None = None
    position = from_seq
    while position <= to_seq:
        while rows and rows[0].from_seq <= position:
            one = rows.pop(0)
            candidate = (one.to_seq, one.lives, one.session_id)
            furthest = candidate if furthest is None else max(furthest, candidate)
        if furthest is not None and furthest[0] >= position:
            end = min(furthest[0], to_seq)
            shares.append((position, end, furthest[2]))
            position = end + 1
        elif rows:
            position = rows[0].from_seq
        else:
            break
    return shares


def _hand_over(link: Link, session_id: str, from_seq: int, to_seq: int, heir: str, viewed: Sequence[_Viewed]) -> None:
    """Make *heir* the owner of the rows, for all who see them. No statement is run for each fork."""

    def run(statement: Statement) -> int:
        return link.run(statement, session_id=session_id, from_seq=from_seq, to_seq=to_seq, heir=heir)

    if any(one.from_seq <= to_seq < one.to_seq for one in viewed):
        run(_CUT_BEHIND)
    run(_HAND_OVER_ROWS)
    begins_before = any(one.from_seq < from_seq <= one.to_seq for one in viewed)
    if viewed[0].viewers == 1:
        run(_SHORTEN if begins_before else _OWN_NOW)
        return
    if begins_before and run(_CUT_BEFORE):
        run(_SHORTEN)
    run(_OWN_NOW)
    if run(_NAME_HEIR):
        merge(link, heir)


def merge(link: Link, owner: str) -> None:
    """Make one of segments that continue each other, in all sessions that see rows of *owner*."""
    for statement in (_MERGE_POSTGRESQL,) if link.dialect.name == "postgresql" else (_EXTEND_SQLITE, _MERGE_SQLITE):
        link.run(statement, owner=owner)


def _replace(link: Link, old: list[Segment], new: list[Segment]) -> None:
    if old:
        link.many(_DELETE, [segment.params() for segment in old])
        insert(link, new)
