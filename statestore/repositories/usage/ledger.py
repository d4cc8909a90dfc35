"""What entries used is kept when they go: their sums, by the quarter of an hour, in the usage ledger.

The sums of all that was used, of entries that are there as well, are another thing: `repositories/rollup`.

Entries are folded before they are deleted, or handed to a fork that sees them, in the same transaction and under the
lock of their session. A quarter of an hour that a session has lines for already is written anew with the sums of both,
so the ledger grows with the time in which a session was used and not with how often it was trimmed.
"""

import uuid
from collections.abc import Iterable, Sequence
from datetime import timedelta

from statestore import schema
from statestore.engine.columns import Columns
from statestore.engine.sql import Link, Row, Statement
from statestore.engine.sql_parts import arrays, each, unnest
from statestore.repositories.usage import records

_NAMES = ("user_id", "agent_name", "provider_name", "model", "tool_name")
COUNTS = schema.USAGE_COUNTS
_KEY = f"session_id, bucket_at, {', '.join(_NAMES)}"
LINE = Columns(schema.usage_ledger, "session_id", "bucket_at", *_NAMES, *COUNTS, "duration_ms", "cost_usd")
_COLUMNS = LINE.select()

_BUCKET_POSTGRESQL = "date_bin('15 minutes', h.created_at, TIMESTAMPTZ '2000-01-01 00:00:00+00')"
_BUCKET_SQLITE = "substr(h.created_at, 1, 14) || printf('%02d', substr(h.created_at, 15, 2) / 15 * 15) || ':00.000000Z'"
_HAS_TOKENS = "(h.input_tokens IS NOT NULL OR h.output_tokens IS NOT NULL)"


def _entries(bucket: str, folded: int = 0) -> str:
    """Entries as lines of the ledger, those that are not in it, or those that are.

    What counts as a turn, a call or an error is also said in the report views.
    """
    return f"""
    SELECT h.session_id, {bucket} AS bucket_at, s.user_id, coalesce(h.agent_name, s.agent_name) AS agent_name,
        h.provider_name, coalesce(h.response_model, h.request_model) AS model, h.tool_name, 1 AS entries,
        CASE WHEN h.role = 'user' THEN 1 ELSE 0 END AS turns,
        CASE WHEN {_HAS_TOKENS} THEN 1 ELSE 0 END AS model_calls,
        CASE WHEN h.tool_name IS NOT NULL AND (h.role IS NULL OR h.role <> 'tool' OR h.tool_call_id IS NULL)
            THEN 1 ELSE 0 END AS tool_calls,
        CASE WHEN h.error_type IS NOT NULL THEN 1 ELSE 0 END AS errors,
        coalesce(h.input_tokens, 0) AS input_tokens, coalesce(h.output_tokens, 0) AS output_tokens,
        coalesce(h.cache_read_input_tokens, 0) AS cache_read_input_tokens,
        coalesce(h.cache_write_input_tokens, 0) AS cache_write_input_tokens,
        coalesce(h.reasoning_output_tokens, 0) AS reasoning_output_tokens,
        CASE WHEN h.cost_usd IS NULL AND {_HAS_TOKENS} THEN 1 ELSE 0 END AS unpriced_calls,
        h.content_bytes, coalesce(h.duration_ms, 0) AS duration_ms, h.cost_usd
    FROM $history_entries AS h
    JOIN $sessions AS s ON s.namespace = h.namespace AND s.session_id = h.session_id
    WHERE h.namespace = :namespace AND h.usage_folded = {folded} AND """


def _negative(bucket: str, which: str) -> str:
    """What entries had added to the ledger, to be taken away."""
    measures = each("-{0} AS {0}", (*COUNTS, "duration_ms", "cost_usd"))
    return f"SELECT {_KEY}, {measures} FROM ({_entries(bucket, folded=1)} {which}) AS e"


_NOT_EMPTY = " HAVING " + " OR ".join(f"sum({name}) <> 0" for name in (*COUNTS, "duration_ms", "cost_usd"))


# A sum never leaves 64 bits, whatever callers claim to have used.
_SUMS_POSTGRESQL = each(f"CAST(least(sum({{0}}), {2**63 - 1}) AS bigint) AS {{0}}", COUNTS) + (
    ", round(CAST(sum(duration_ms) AS numeric), 3) AS duration_ms, sum(cost_usd) AS cost_usd"
)
# Whole dollars and whole ten-billionths of one: a sum of floats would be off in the last digits.
_SUMS_SQLITE = each("sum({0}) AS {0}", COUNTS) + (
    ", round(sum(duration_ms), 3) AS duration_ms, round(sum(CAST(cost_usd AS INTEGER))"
    " + sum(CAST(round((cost_usd - CAST(cost_usd AS INTEGER)) * 1e10) AS INTEGER)) / 1e10, 10) AS cost_usd"
)
_NUMBERED = f"row_number() OVER (PARTITION BY session_id, bucket_at ORDER BY {', '.join(_NAMES)})"


def fold_ctes(which: str, sessions: str, *, away: bool = False) -> str:
    """What adds entries to the ledger, as common table expressions for a statement of PostgreSQL that does more.

    Args:
        which: The condition for the entries, on `h`; they are not yet in the ledger.
        sessions: The condition for the lines of their sessions, on `l`.
        away: Take entries away instead, which are in the ledger.
    """
    folded = _negative(_BUCKET_POSTGRESQL, which) if away else f"{_entries(_BUCKET_POSTGRESQL)} {which}"
    return f"""folded AS ({folded}),
    replaced AS (
        DELETE FROM $usage_ledger AS l WHERE l.namespace = :namespace AND {sessions}
            AND (l.session_id, l.bucket_at) IN (SELECT DISTINCT session_id, bucket_at FROM folded)
        RETURNING {_COLUMNS}),
    noted AS (
        INSERT INTO $usage_ledger (namespace, line, {_COLUMNS})
        SELECT :namespace, {_NUMBERED}, {_COLUMNS} FROM (
            SELECT {_KEY}, {_SUMS_POSTGRESQL}
            FROM (SELECT {_COLUMNS} FROM folded UNION ALL SELECT {_COLUMNS} FROM replaced) AS lines
            GROUP BY {_KEY}{_NOT_EMPTY if away else ""}
        ) AS sums RETURNING line)"""


def _fold_postgresql(which: str, sessions: str, *, away: bool = False) -> Statement:
    return Statement(
        postgresql=f"""
    WITH {fold_ctes(which, sessions, away=away)} SELECT count(*) FROM noted"""
    )


def _fold_sqlite(which: str, sessions: str, *, away: bool = False) -> tuple[Statement, Statement, Statement]:
    """The same in three steps: new lines under negative numbers, away with the old ones, and the sign turned.

    Lines that are empty then go last: the old ones are found by them.
    """
    folded = _negative(_BUCKET_SQLITE, which) if away else f"{_entries(_BUCKET_SQLITE)} {which}"
    return (
        Statement(
            sqlite=f"""
    WITH folded AS ({folded}),
    replaced AS (
        SELECT {_COLUMNS} FROM $usage_ledger AS l WHERE l.namespace = :namespace AND {sessions}
            AND (l.session_id, l.bucket_at) IN (SELECT DISTINCT session_id, bucket_at FROM folded))
    INSERT INTO $usage_ledger (namespace, line, {_COLUMNS})
    SELECT :namespace, -{_NUMBERED}, {_COLUMNS} FROM (
        SELECT {_KEY}, {_SUMS_SQLITE}
        FROM (SELECT {_COLUMNS} FROM folded UNION ALL SELECT {_COLUMNS} FROM replaced) GROUP BY {_KEY})"""
        ),
        Statement(
            sqlite=f"""
    DELETE FROM $usage_ledger AS l WHERE l.namespace = :namespace AND {sessions} AND l.line > 0
        AND (l.session_id, l.bucket_at) IN (SELECT DISTINCT n.session_id, n.bucket_at FROM $usage_ledger AS n
            WHERE n.namespace = :namespace AND {sessions.replace("l.", "n.")} AND n.line < 0)"""
        ),
        Statement(
            sqlite=f"""
    UPDATE $usage_ledger AS l SET line = -line WHERE l.namespace = :namespace AND {sessions} AND l.line < 0"""
        ),
    )


_RANGE = "h.session_id = :session_id AND h.seq BETWEEN :from_seq AND :to_seq"
_RANGE_LEDGER = "l.session_id = :session_id"
_FOLD_RANGE = _fold_postgresql(_RANGE, _RANGE_LEDGER)
_FOLD_RANGE_SQLITE = _fold_sqlite(_RANGE, _RANGE_LEDGER)

_UNFOLD_RANGE = _fold_postgresql(_RANGE, _RANGE_LEDGER, away=True)
_UNFOLD_RANGE_SQLITE = (
    *_fold_sqlite(_RANGE, _RANGE_LEDGER, away=True),
    Statement(f"""
    DELETE FROM $usage_ledger AS l WHERE l.namespace = :namespace AND {_RANGE_LEDGER}
        AND {" AND ".join(f"coalesce({name}, 0) = 0" for name in (*COUNTS, "duration_ms", "cost_usd"))}"""),
)

_SESSIONS, _SESSIONS_LEDGER = "h.session_id $in(:session_ids)", "l.session_id $in(:session_ids)"
_FOLD_SESSIONS = _fold_postgresql(_SESSIONS, _SESSIONS_LEDGER)
_FOLD_SESSIONS_SQLITE = _fold_sqlite(_SESSIONS, _SESSIONS_LEDGER)

_UNFOLDED = Statement(
    postgresql=f"SELECT {_KEY}, {_SUMS_POSTGRESQL} FROM ({_entries(_BUCKET_POSTGRESQL)} h.session_id = :session_id)"
    f" AS lines GROUP BY {_KEY}",
    sqlite=f"SELECT {_KEY}, {_SUMS_SQLITE} FROM ({_entries(_BUCKET_SQLITE)} h.session_id = :session_id)"
    f" GROUP BY {_KEY}",
)

# Of sessions that are being erased: their lines get another session's id when they go, and lose the user's at once.
_DISOWN = Statement("""
    UPDATE $usage_ledger SET user_id = NULL
    WHERE namespace = :namespace AND user_id = :user_id AND session_id IN (
        SELECT s.session_id FROM $sessions AS s WHERE s.namespace = :namespace AND s.ttl = :erased)""")
_SESSIONS_OF_USER = Statement("""
    SELECT session_id FROM $usage_ledger WHERE namespace = :namespace AND user_id = :user_id
    UNION SELECT session_id FROM $usage_records WHERE namespace = :namespace AND user_id = :user_id""")
_WITH_LINES = Statement("""
    SELECT session_id FROM $usage_ledger WHERE namespace = :namespace AND session_id $in(:session_ids)
    UNION SELECT session_id FROM $usage_records WHERE namespace = :namespace AND session_id $in(:session_ids)""")

# Lines that another user had there before keep that user.
_FORGET = "SET session_id = %s, user_id = nullif(user_id, :user_id)"
_FORGET_POSTGRESQL = Statement(
    postgresql=f"""
    UPDATE $usage_ledger AS l {_FORGET % "r.random_id"}
    FROM {unnest("r", {"session_id": "text", "random_id": "text"})}
    WHERE l.namespace = :namespace AND l.session_id = r.session_id
        AND (l.user_id = :user_id OR CAST(:user_id AS text) IS NULL)"""
)
_FORGET_SQLITE = Statement(
    sqlite=f"""
    UPDATE $usage_ledger {_FORGET % ":random_id"}
    WHERE namespace = :namespace AND session_id = :session_id AND (user_id = :user_id OR :user_id IS NULL)"""
)


def fold(link: Link, session_id: str, from_seq: int, to_seq: int) -> None:
    """Add to the ledger what a session's own entries *from_seq* to *to_seq* used, as far as it is not there yet.

    To be called once for each entry: the caller deletes the entries next, or marks them as folded.
    """
    for statement in (_FOLD_RANGE,) if link.dialect.name == "postgresql" else _FOLD_RANGE_SQLITE:
        link.run(statement, session_id=session_id, from_seq=from_seq, to_seq=to_seq)


def unfold(link: Link, session_id: str, seq: int) -> None:
    """Take away from the ledger what one of a session's own entries has there, before it counts again as it is.

    If that was added for another session, which had the entry first, this one's lines get less than nothing: the sums
    over both are right.
    """
    for statement in (_UNFOLD_RANGE,) if link.dialect.name == "postgresql" else _UNFOLD_RANGE_SQLITE:
        link.run(statement, session_id=session_id, from_seq=seq, to_seq=seq)


def fold_sessions(link: Link, session_ids: Iterable[str]) -> None:
    """As `fold`, for all own entries of several sessions."""
    ids = list(session_ids)
    for statement in (_FOLD_SESSIONS,) if link.dialect.name == "postgresql" else _FOLD_SESSIONS_SQLITE:
        link.run(statement, session_ids=ids)


def unfolded(link: Link, session_id: str) -> Sequence[Row]:
    """What a session's own entries used that is not in the ledger yet, as rows of `LINE`."""
    return link.all(_UNFOLDED, session_id=session_id)


def forget_user(link: Link, user_id: str, *, erased: timedelta) -> None:
    """Take a user out of the ledger and the recorded calls. The sums stay.

    The user's lines lose the ids of their sessions too, which may tell as much; those of sessions that are being
    erased, whose TTL is *erased*, when these go.
    """
    link.run(_DISOWN, user_id=user_id, erased=erased)
    records.disown(link, user_id, erased=erased)
    # Again until nothing is found: a fold of another transaction may have written lines anew while we waited for it.
    while found := [session_id for (session_id,) in link.all(_SESSIONS_OF_USER, user_id=user_id)]:
        _rename(link, found, user_id)


def rename(link: Link, session_ids: Iterable[str]) -> None:
    """Put a random id in place of each of the sessions, which are those of an erased user. Once for each of them."""
    found = [session_id for (session_id,) in link.all(_WITH_LINES, session_ids=list(session_ids))]
    if found:
        _rename(link, found, None)


def _rename(link: Link, session_ids: list[str], user_id: str | None) -> None:
    """Only the lines and records of a user, if one is given. Those of one session get the same id."""
    rows = [{"session_id": one, "random_id": f"{records.ERASED}{uuid.uuid4()}"} for one in session_ids]
    if link.dialect.name == "postgresql":
        link.run(_FORGET_POSTGRESQL, user_id=user_id, **arrays(rows, ("session_id", "random_id")))
    else:
        link.many(_FORGET_SQLITE, rows, user_id=user_id)
    records.rename(link, rows, user_id)
