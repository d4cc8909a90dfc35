"""Sums of sessions: made for the first time, added to as time goes on, and made anew for those that have changed."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from statestore.engine.sql import Link, Statement
from statestore.engine.sql_parts import unnest
from statestore.repositories.rollup import totals
from statestore.repositories.usage import rolled

SESSIONS_AT_ONCE = 200
LINES_AT_ONCE = 20_000

# The next sessions of which there is something, living or not, in the order of their ids.
_IDS = " UNION ".join(
    f"SELECT session_id FROM (SELECT DISTINCT t.session_id FROM ${table} AS t WHERE t.namespace = :namespace"
    " AND t.session_id > :after ORDER BY t.session_id LIMIT :limit) AS found"
    for table in ("sessions", "usage_ledger", "usage_records")
)
_NEXT = Statement(f"SELECT session_id FROM ({_IDS}) AS ids ORDER BY session_id LIMIT :limit")

_FORGET = [Statement(f"DELETE FROM $usage_rollup WHERE {rolled.OF_PARTS.format(kind)}") for kind in rolled.OF_SESSIONS]

_FORGET_ALL = [
    Statement(
        f"DELETE FROM $usage_rollup WHERE namespace = :namespace AND kind = '{kind}' AND part > :after"
        " AND (part <= :to OR CAST(:to AS varchar) IS NULL)"
    )
    for kind in rolled.OF_SESSIONS
]


def _make(which: str) -> Statement:
    return Statement(
        **{
            dialect: rolled.insert_uses(dialect, rolled.lines(dialect, f"{which} AND at < $time(:until)"))
            for dialect in ("postgresql", "sqlite")
        }
    )


_MAKE = _make("session_id $in(:parts)")
_MAKE_NAMELESS = _make("session_id IS NULL")
_SUM_UP = Statement(**{dialect: rolled.insert_sessions(dialect) for dialect in ("postgresql", "sqlite")})

# Where as many lines as go into one transaction end.
_END = Statement(
    "SELECT min(at) FROM ("
    + " UNION ALL ".join(
        f"SELECT * FROM (SELECT t.{at} AS at FROM ${table} AS t WHERE t.namespace = :namespace"
        f" AND t.{at} >= :since AND t.{at} < :until ORDER BY t.{at} LIMIT 1 OFFSET :lines) AS {table}"
        for table, at in rolled.TIMES.items()
    )
    + ") AS ends"
)
_USED = Statement("""
    SELECT DISTINCT coalesce(session_id, '') FROM $usage_lines
    WHERE namespace = :namespace AND at >= :since AND at < :until""")
_WINDOW = "at >= :since AND at < :until"
_OLD = f"SELECT {', '.join(rolled.COLUMNS)} FROM {{}}"
_USES = rolled.OF_PARTS.format("use")
# A late line may be of a session that `_USED` did not find, so that nothing of it was taken away from the totals. It is
# left out: that session has been noted, and is made anew.
_ADD_POSTGRESQL = Statement(
    postgresql=f"""
    WITH new AS MATERIALIZED (
        SELECT l.* FROM ({rolled.lines("postgresql", _WINDOW)}) AS l
        WHERE l.part IN (SELECT p.part FROM {unnest("p", {"part": "varchar"}, "parts")})),
    replaced AS (
        DELETE FROM $usage_rollup WHERE {_USES} RETURNING {", ".join(rolled.COLUMNS)})
    {rolled.insert_uses("postgresql", f"{_OLD.format('new')} UNION ALL {_OLD.format('replaced')}")}"""
)
# The same in three steps: new lines under negative numbers, away with the old ones, and the sign turned.
_ADD_SQLITE = (
    Statement(
        sqlite=rolled.insert_uses(
            "sqlite",
            f"{rolled.lines('sqlite', _WINDOW)} UNION ALL {_OLD.format(f'$usage_rollup WHERE {_USES}')}",
            line="-line",
        )
    ),
    Statement(sqlite=f"DELETE FROM $usage_rollup WHERE {_USES} AND line > 0"),
    Statement(sqlite=f"UPDATE $usage_rollup SET line = -line WHERE {_USES}"),
)


def following(link: Link, after: str) -> list[str]:
    """The sessions behind *after* of which there may be something, as many as are summed in one transaction."""
    return [session_id for (session_id,) in link.all(_NEXT, after=after, limit=SESSIONS_AT_ONCE)]


def forget(link: Link, after: str, to: str | None) -> None:
    """Delete what was once summed of all sessions behind *after*, up to *to*: some may be gone."""
    for statement in _FORGET_ALL:
        link.run(statement, after=after, to=to)


def make(link: Link, parts: Sequence[str], until: datetime) -> None:
    """Sum what sessions used before *until*, whatever was summed of them. An empty id stands for no session."""
    if not parts:
        return
    totals.take_away(link, parts)
    for statement in _FORGET:
        link.run(statement, parts=list(parts))
    if named := [part for part in parts if part]:
        link.run(_MAKE, parts=named, until=until)
    if "" in parts:
        link.run(_MAKE_NAMELESS, until=until)
    link.run(_SUM_UP, parts=list(parts))
    totals.add(link, parts)


def end(link: Link, since: datetime, until: datetime) -> datetime | None:
    """Where the lines end that one transaction adds; None if those up to *until* are few enough."""
    (found,) = link.only(_END, since=since, until=until, lines=LINES_AT_ONCE)
    moment: datetime | None = link.dialect.time(found)
    return moment


def add(link: Link, since: datetime, until: datetime) -> None:
    """Add what was used from *since* to *until* to the sums of the sessions that used it."""
    period: dict[str, Any] = {"since": since, "until": until}
    if parts := [part for (part,) in link.all(_USED, **period)]:
        totals.take_away(link, parts)
        for statement in (_ADD_POSTGRESQL,) if link.dialect.name == "postgresql" else _ADD_SQLITE:
            link.run(statement, parts=parts, **period)
        link.run(_FORGET[0], parts=parts)
        link.run(_SUM_UP, parts=parts)
        totals.add(link, parts)
