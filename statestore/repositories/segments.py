"""Who owns the history that a session sees, and what becomes of rows that a session lets go.

A fork copies nothing. It sees ranges of other sessions' rows, listed in `session_segments`; everything else that it
sees are rows of its own. Three rules keep this sound, and every write below preserves them:

1. A segment names a session that owns every row of its range, and that sees them itself.
2. A position that a session sees is in exactly one segment, or is a row of its own.
3. Segments change only under the lock of the family: forks, which only add some, share it; a release has it alone.
   It is taken before any row of a session is locked.

Releasing is the one way in which rows leave a session: by trim, pop, clear, delete and expiry alike.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import pairwise

from statestore.repositories import ledger
from statestore.sql import Link, Params, StartOver, Statement

# A family is a root and all that was forked from it, at any depth. Its lock is an advisory one, held until the
# transaction ends, so it works behind PgBouncer. Row locks would have to be taken on all sessions involved, which are
# only known once the locks are held: that ends in deadlocks.
FAMILY = "hashtextextended(s.root_session_id, hashtextextended(CAST(:namespace AS text), 7))"
_FAMILY = f"""
    SELECT s.root_session_id, {{function}}({FAMILY})
    FROM {{{{sessions}}}} AS s WHERE s.namespace = :namespace AND s.session_id = :session_id"""
_LOCK_FAMILY = Statement(postgresql=_FAMILY.format(function="pg_advisory_xact_lock"))
_SHARE_FAMILY = Statement(postgresql=_FAMILY.format(function="pg_advisory_xact_lock_shared"))

# Only as one of that family: the row of a session that has come back in another one must not be locked before its lock.
_ROW = """
    SELECT 1 FROM {sessions} AS s
    WHERE s.namespace = :namespace AND s.session_id = :session_id AND s.root_session_id = :root_session_id"""
_EXISTS = Statement("SELECT 1 FROM {sessions} WHERE namespace = :namespace AND session_id = :session_id")
_LOCK_ROW = Statement(_ROW + " {lock}")
_SHARE_ROW = Statement(_ROW + " {share}")

_OF_SESSION = Statement("""
    SELECT session_id, from_seq, to_seq, owner_session_id FROM {session_segments}
    WHERE namespace = :namespace AND session_id = :session_id ORDER BY from_seq""")

_OF_OWNER = Statement("""
    SELECT session_id, from_seq, to_seq, owner_session_id FROM {session_segments}
    WHERE namespace = :namespace AND owner_session_id = :session_id ORDER BY session_id, from_seq""")

_INSERT = Statement("""
    INSERT INTO {session_segments} (namespace, session_id, from_seq, to_seq, owner_session_id)
    VALUES (:namespace, :session_id, :from_seq, :to_seq, :owner)""")

_DELETE = Statement("""
    DELETE FROM {session_segments}
    WHERE namespace = :namespace AND session_id = :session_id AND from_seq = :from_seq""")

_DELETE_ROWS = Statement("""
    DELETE FROM {history_entries}
    WHERE namespace = :namespace AND session_id = :session_id AND seq BETWEEN :from_seq AND :to_seq""")

# What they used stays where it was: it has been folded by now.
_HAND_OVER_ROWS = Statement("""
    UPDATE {history_entries} SET session_id = :heir, usage_folded = 1
    WHERE namespace = :namespace AND session_id = :session_id AND seq BETWEEN :from_seq AND :to_seq""")


# Two segments of a fork that could be one.
_ADJACENT = Statement("""
    SELECT a.session_id, a.from_seq, b.from_seq, b.to_seq FROM {session_segments} AS a
    JOIN {session_segments} AS b ON b.namespace = a.namespace AND b.session_id = a.session_id
        AND b.from_seq = a.to_seq + 1 AND b.owner_session_id = a.owner_session_id
    WHERE a.namespace = :namespace AND a.session_id {in:session_ids} ORDER BY a.session_id, a.from_seq""")
_EXTEND = Statement("""
    UPDATE {session_segments} SET to_seq = :to_seq
    WHERE namespace = :namespace AND session_id = :session_id AND from_seq = :from_seq""")


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


def lock_for_fork(link: Link, session_id: str) -> bool:
    """Keep the session's row from changing, and the family from releases; returns what `lock_for_release` does."""
    return _lock(link, session_id, _SHARE_FAMILY, _SHARE_ROW)


def _lock(link: Link, session_id: str, family: Statement, row: Statement) -> bool:
    if link.dialect.name == "sqlite":
        return True  # The one writer, whether or not there is a session.
    root = link.one(family, session_id=session_id)
    if root is None:
        return False
    if link.one(row, session_id=session_id, root_session_id=root[0]) is not None:
        return True
    # While we waited, it was deleted. If it was made again in another family, to wait for that one's lock with this one
    # held could end in a deadlock.
    if link.one(_EXISTS, session_id=session_id) is not None:
        raise StartOver
    return False


def of(link: Link, session_id: str) -> list[Segment]:
    """The segments through which a session sees others' rows, oldest entries first."""
    return [Segment(*row) for row in link.all(_OF_SESSION, session_id=session_id)]


def naming(link: Link, session_id: str) -> list[Segment]:
    """The segments through which forks see the session's rows."""
    return [Segment(*row) for row in link.all(_OF_OWNER, session_id=session_id)]


def insert(link: Link, segments: list[Segment]) -> None:
    link.many(_INSERT, [segment.params() for segment in segments])


def view(segments: list[Segment], session_id: str, from_seq: int, to_seq: int) -> list[Segment]:
    """The whole range as segments: those given, and between them the rows that *session_id* owns."""
    pieces: list[Segment] = []
    position = from_seq
    for segment in segments:
        if not segment.overlaps(from_seq, to_seq):
            continue
        piece = segment.within(from_seq, to_seq)
        if piece.from_seq > position:
            pieces.append(Segment(session_id, position, piece.from_seq - 1, session_id))
        pieces.append(piece)
        position = piece.to_seq + 1
    if position <= to_seq:
        pieces.append(Segment(session_id, position, to_seq, session_id))
    return pieces


def release(link: Link, session_id: str, from_seq: int, to_seq: int) -> int:
    """Let go of the rows *from_seq* to *to_seq* of what the session sees. The locks for it are held.

    Rows of others are no longer seen. What its own rows used goes into the usage ledger. Of these rows, those that a
    fork sees are handed to a fork that sees them, and every segment that named this session follows; the others are
    deleted.

    Returns:
        How many rows were deleted.
    """
    if from_seq > to_seq:
        return 0
    seen = [segment for segment in of(link, session_id) if segment.overlaps(from_seq, to_seq)]
    _replace(link, seen, [piece for segment in seen for piece in segment.outside(from_seq, to_seq)])
    if any(piece.owner == session_id for piece in view(seen, session_id, from_seq, to_seq)):
        ledger.fold(link, session_id, from_seq, to_seq)

    viewers = [segment for segment in naming(link, session_id) if segment.overlaps(from_seq, to_seq)]
    kept = [piece for segment in viewers for piece in segment.outside(from_seq, to_seq)]
    deleted = 0
    for start, end in _uniform_ranges(viewers, from_seq, to_seq):
        watching = [segment for segment in viewers if segment.overlaps(start, end)]
        if not watching:
            deleted += link.run(_DELETE_ROWS, session_id=session_id, from_seq=start, to_seq=end)
            continue
        # The fork that sees most keeps most: fewer ranges have to change hands later.
        heir = max(watching, key=lambda segment: (segment.to_seq - segment.from_seq, segment.session_id)).session_id
        link.run(_HAND_OVER_ROWS, session_id=session_id, heir=heir, from_seq=start, to_seq=end)
        kept += [replace(segment.within(start, end), owner=heir) for segment in watching if segment.session_id != heir]
    _replace(link, viewers, kept)
    return deleted


def _uniform_ranges(viewers: list[Segment], from_seq: int, to_seq: int) -> list[tuple[int, int]]:
    """The range, cut wherever the set of sessions that see it changes."""
    cuts = {from_seq, to_seq + 1}
    for segment in viewers:
        cuts |= {max(segment.from_seq, from_seq), min(segment.to_seq, to_seq) + 1}
    edges = sorted(cuts)
    return [(start, end - 1) for start, end in pairwise(edges)]


def _replace(link: Link, old: list[Segment], new: list[Segment]) -> None:
    if old:
        link.many(_DELETE, [segment.params() for segment in old])
        insert(link, new)


def join(link: Link, session_ids: Iterable[str]) -> None:
    """Make one of segments that continue each other, in sessions whose rows are locked.

    A session that is released in slices would otherwise leave its forks a segment for each slice.
    """
    ids = sorted(session_ids)
    while ids and (found := link.all(_ADJACENT, session_ids=ids)):
        joined: set[str] = set()
        for session_id, from_seq, next_from, to_seq in found:
            if session_id not in joined:  # The next pair of the same session may begin with what is gone now.
                link.run(_DELETE, session_id=session_id, from_seq=next_from)
                link.run(_EXTEND, session_id=session_id, from_seq=from_seq, to_seq=to_seq)
                joined.add(session_id)
