"""Letting go of entries that no other session sees, in one statement. PostgreSQL only.

Whether others see them must be known under a lock, and a statement that locks a row reads everything else as it was
when it began. So whatever comes to see rows of a session, or to belong to it, writes the session's row (see `forks` and
`session_rows.insert`), and the statement does nothing unless the row that it has locked is the one that it has read:
then nobody came in between, nothing was appended, and what it reads is what there is.

It waits for the one row only, and never for the lock of a family, so it cannot end in a deadlock with those who take
that lock first. If it does nothing, `segments.release` does the work, in a transaction.

On SQLite the one writer needs no such care, and a statement costs no round trip.
"""

from statestore.engine.sql import Statement
from statestore.repositories.usage import ledger

SHARES = """(EXISTS (SELECT 1 FROM $session_segments AS g
            WHERE g.namespace = :namespace AND g.owner_session_id = s.session_id)
        OR EXISTS (SELECT 1 FROM $session_segments AS g
            WHERE g.namespace = :namespace AND g.session_id = s.session_id))"""
"""Session `s` sees rows of others, or others see its rows."""

HAS_FAMILY = """(s.root_session_id <> s.session_id
        OR EXISTS (SELECT 1 FROM $sessions AS f WHERE f.namespace = :namespace
            AND f.root_session_id = s.session_id AND f.root_session_id <> f.session_id))"""
"""Session `s` is a fork, or has forks: others may have rows of the same entries, shared or copied."""

_RANGE = "h.session_id = :session_id AND h.seq BETWEEN (SELECT from_seq FROM own) AND (SELECT to_seq FROM own)"


def release(
    then: str,
    *,
    from_seq: str = "s.first_seq",
    to_seq: str = "s.next_seq - 1",
    where: str = "true",
    columns: str = "",
    rows: str = "h.seq",
) -> Statement:
    """A statement that locks `:session_id`, folds and deletes entries that are its own, and then does what is given.

    Args:
        then: The rest of the statement, from a comma or a SELECT on. It may use `held` (`session_id` and `lives`: the
            session, if there is one, expired or not), `own` (one row if the entries are let go of; none if the work is
            left to a transaction, or *where* is not true of the session) and `gone` (the deleted rows).
        from_seq: The first position that goes, as an expression on session `s`.
        to_seq: The last one.
        where: A further condition on `s`.
        columns: What `own` has beside `session_id`, `from_seq` and `to_seq`; begins with a comma.
        rows: What `gone` has, of the deleted entries `h`.
    """
    return Statement(
        postgresql=f"""
    WITH held AS MATERIALIZED (
        SELECT s.session_id, $live AS lives, CAST(s.xmin AS text) AS version FROM $sessions AS s
        WHERE s.namespace = :namespace AND s.session_id = :session_id $lock),
    own AS MATERIALIZED (
        SELECT s.session_id, {from_seq} AS from_seq, {to_seq} AS to_seq{columns} FROM $sessions AS s
        JOIN held ON held.version = CAST(s.xmin AS text)
        WHERE s.namespace = :namespace AND s.session_id = :session_id AND ({where}) AND NOT {SHARES}),
    {ledger.fold_ctes(_RANGE, "l.session_id = :session_id")},
    gone AS (
        DELETE FROM $history_entries AS h WHERE h.namespace = :namespace AND {_RANGE} RETURNING {rows})
    {then}"""
    )


_OWN = "session_id = ANY (array(SELECT own.session_id FROM own))"


def release_many(then: str, *, where: str) -> Statement:
    """As `release`, of all entries of several sessions, `:session_ids`, with up to `:limit` entries in all.

    It waits for nobody: sessions that somebody has locked are passed by, also those whose state somebody is writing
    (hence FOR UPDATE), so those of two such statements may come in any order.

    Args:
        then: The rest of the statement. It may use `held`, `own` (only `session_id`) and `gone`, as for `release`.
        where: A further condition on each session `s`.
    """
    return Statement(
        postgresql=f"""
    WITH held AS MATERIALIZED (
        SELECT s.session_id, $live AS lives, CAST(s.xmin AS text) AS version FROM $sessions AS s
        WHERE s.namespace = :namespace AND s.session_id $in(:session_ids) ORDER BY s.session_id
        FOR UPDATE OF s SKIP LOCKED),
    own AS MATERIALIZED (
        SELECT x.session_id FROM (
            SELECT s.session_id, sum(s.next_seq - s.first_seq) OVER (ORDER BY s.session_id) AS entries
            FROM $sessions AS s JOIN held ON held.session_id = s.session_id AND held.version = CAST(s.xmin AS text)
            WHERE s.namespace = :namespace AND ({where}) AND NOT {SHARES}) AS x
        WHERE x.entries <= :limit),
    {ledger.fold_ctes(f"h.{_OWN}", f"l.{_OWN}")},
    gone AS (
        DELETE FROM $history_entries AS h WHERE h.namespace = :namespace AND h.{_OWN} RETURNING h.seq)
    {then}"""
    )
