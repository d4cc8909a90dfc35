"""Deleting what has expired: one batch of it at a time, each in a short transaction of its own.

Several workers may do so at once. A batch takes rows that nobody else holds (SKIP LOCKED; SQLite has one writer), looks
again under the lock whether they are still due, and is bounded in rows: a session that is larger than a batch goes in
slices, from its front. What has expired can never be revived, so a slice needs no mark, and a worker that dies leaves
the rest to the next. Idle sessions are made to expire first, which is one update; from then on they are like the others.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from statestore import checks
from statestore.repositories import ledger, segments
from statestore.repositories.base import Repository, reads, writes
from statestore.repositories.usage_periods import EARLIEST
from statestore.sql import Row, Statement
from statestore.usage_values import SweepKind, Swept

_MAX_IDLE = "max_idle"


@dataclass(slots=True)
class Batch:
    """What one step has done.

    `after` is where the next one goes on, None where nothing more was found. `left` says that something was due but
    held by somebody else. `taken` is how many rows the step has touched.
    """

    kinds: dict[SweepKind, Swept] = field(default_factory=dict)
    after: tuple[Any, ...] | None = None
    left: bool = False

    def add(self, kind: SweepKind, rows: int, size: int | None) -> None:
        if rows:
            self.kinds[kind] = self.kinds.get(kind, Swept()) + Swept(rows, int(size or 0))


def _sized(sql: str) -> Statement:
    """A statement in which `{bytes:x}` is the size of a text or of JSON in UTF-8. SQLite 3.40 has no octet_length."""
    return Statement(
        postgresql=_replace(sql, "coalesce(octet_length(CAST(%s AS text)), 0)"),
        sqlite=_replace(sql, "coalesce(length(CAST(%s AS blob)), 0)"),
    )


def _replace(sql: str, size: str) -> str:
    for column in _MEASURED:
        sql = sql.replace(f"{{bytes:{column}}}", size % column)
    return sql


_MEASURED = ("s.title", "s.instructions", "s.metadata", "e.value", "m.content", "h.metadata", "value", "metadata")

# What an idle session that was ended by the retention policy is known by: no caller can give such a TTL.
_ENDED = "s.ttl = CAST(:no_time AS interval)"

_IDLE = """s.active_hour <= :idle_since AND s.last_activity_at <= :idle_since AND {live}
        AND (s.lease_until IS NULL OR s.lease_until <= {now})"""

_NOW_AND_SETTING = Statement("""
    SELECT {now}, (SELECT value FROM {store_settings} WHERE namespace = :namespace AND name = 'max_idle')""")

_END_IDLE = Statement(
    postgresql=f"""
    UPDATE {{sessions}} AS s SET ttl = CAST(:no_time AS interval), expires_at = {{now}}
    FROM (SELECT s.session_id FROM {{sessions}} AS s WHERE s.namespace = :namespace AND {_IDLE}
        ORDER BY s.active_hour LIMIT :limit FOR NO KEY UPDATE OF s SKIP LOCKED) AS idle
    WHERE s.namespace = :namespace AND s.session_id = idle.session_id AND {_IDLE}""",
    sqlite=f"""
    UPDATE {{sessions}} SET ttl = :no_time, expires_at = {{now}} WHERE rowid IN (
        SELECT s.rowid FROM {{sessions}} AS s WHERE s.namespace = :namespace AND {_IDLE}
        ORDER BY s.active_hour LIMIT :limit)""",
)

_DUE = """
    SELECT s.expires_at, s.session_id FROM {sessions} AS s
    WHERE s.namespace = :namespace AND s.expires_at <= {now}
        AND (s.expires_at, s.session_id) > (%s, :after_id)
    ORDER BY s.expires_at, s.session_id LIMIT :limit"""
_LOCK_DUE = Statement(
    postgresql=_DUE % "CAST(:after_at AS timestamptz)" + " FOR UPDATE OF s SKIP LOCKED", sqlite=_DUE % ":after_at"
)

# One row for each session of the batch: what would be deleted with it, and how large that is.
_WEIGH = """
    SELECT s.session_id, s.first_seq, s.next_seq, {ended},
        s.next_seq - s.first_seq - coalesce((SELECT sum(g.to_seq - g.from_seq + 1) FROM {session_segments} AS g
            WHERE g.namespace = s.namespace AND g.session_id = s.session_id), 0),
        (SELECT count(*) FROM {state_entries} AS e WHERE e.namespace = s.namespace AND e.session_id = s.session_id)
        + (SELECT count(*) FROM {summaries} AS m WHERE m.namespace = s.namespace AND m.session_id = s.session_id),
        {bytes:s.title} + {bytes:s.instructions} + {bytes:s.metadata}
        + coalesce((SELECT sum({bytes:e.value}) FROM {state_entries} AS e
            WHERE e.namespace = s.namespace AND e.session_id = s.session_id), 0)
        + coalesce((SELECT sum({bytes:m.content}) FROM {summaries} AS m
            WHERE m.namespace = s.namespace AND m.session_id = s.session_id), 0)
    FROM {sessions} AS s WHERE s.namespace = :namespace AND s.session_id {ids}""".replace("{ended}", _ENDED)
_WEIGH_BATCH = Statement(
    postgresql=_replace(_WEIGH, "coalesce(octet_length(CAST(%s AS text)), 0)").replace("{ids}", "= ANY (:session_ids)"),
    sqlite=_replace(_WEIGH, "coalesce(length(CAST(%s AS blob)), 0)")
    .replace("{ids}", "IN (SELECT value FROM json_each(:session_ids))")
    .replace("CAST(:no_time AS interval)", ":no_time"),
)


def _of_sessions(sql: str) -> Statement:
    """A statement in which `{ids}` is a condition on some session ids."""
    return Statement(
        postgresql=sql.replace("{ids}", "= ANY (:session_ids)"),
        sqlite=sql.replace("{ids}", "IN (SELECT value FROM json_each(:session_ids))"),
    )


_VIEWERS = _of_sessions("""
    SELECT DISTINCT g.owner_session_id, g.session_id FROM {session_segments} AS g
    WHERE g.namespace = :namespace AND g.owner_session_id {ids}""")

_LOCK_VIEWERS = Statement(
    postgresql="""
    SELECT s.session_id FROM {sessions} AS s WHERE s.namespace = :namespace AND s.session_id = ANY (:session_ids)
    ORDER BY s.session_id FOR NO KEY UPDATE OF s SKIP LOCKED"""
)

_SIZE_OF_ENTRIES = "content_bytes + {bytes:metadata}"
_DELETE_ENTRIES = Statement(
    postgresql=_replace(
        f"""
    WITH gone AS (
        DELETE FROM {{history_entries}} WHERE namespace = :namespace AND session_id = ANY (:session_ids)
        RETURNING {_SIZE_OF_ENTRIES} AS size)
    SELECT count(*), sum(size) FROM gone""",
        "coalesce(octet_length(CAST(%s AS text)), 0)",
    ),
    sqlite=_replace(
        f"""
    DELETE FROM {{history_entries}} WHERE namespace = :namespace
        AND session_id IN (SELECT value FROM json_each(:session_ids)) RETURNING {_SIZE_OF_ENTRIES}""",
        "coalesce(length(CAST(%s AS blob)), 0)",
    ),
)
_SIZE_OF_RANGE = _sized("""
    SELECT count(*), sum(h.content_bytes + {bytes:h.metadata}) FROM {history_entries} AS h
    WHERE h.namespace = :namespace AND h.session_id = :session_id AND h.seq BETWEEN :from_seq AND :to_seq
        AND NOT EXISTS (SELECT 1 FROM {session_segments} AS g WHERE g.namespace = h.namespace
            AND g.owner_session_id = h.session_id AND h.seq BETWEEN g.from_seq AND g.to_seq)""")

# State, summaries and segments go with it. That it is still due was seen under its lock, and is asked again.
_DELETE_SESSIONS = _of_sessions("""
    DELETE FROM {sessions} WHERE namespace = :namespace AND session_id {ids} AND expires_at <= {now}""")

_SET_FIRST = Statement("""
    UPDATE {sessions} SET first_seq = :first_seq WHERE namespace = :namespace AND session_id = :session_id""")

_DELETE_SOME_STATE = _sized("""
    DELETE FROM {state_entries} WHERE namespace = :namespace AND session_id = :session_id AND key IN (
        SELECT e.key FROM {state_entries} AS e WHERE e.namespace = :namespace AND e.session_id = :session_id
        ORDER BY e.key LIMIT :limit)""")
_DELETE_SOME_SUMMARIES = Statement("""
    DELETE FROM {summaries} WHERE namespace = :namespace AND session_id = :session_id AND start_seq IN (
        SELECT m.start_seq FROM {summaries} AS m WHERE m.namespace = :namespace AND m.session_id = :session_id
        ORDER BY m.start_seq LIMIT :limit)""")

_DELETE_STATE = Statement(
    postgresql=_replace(
        """
    WITH due AS (
        SELECT e.session_id, e.key FROM {state_entries} AS e WHERE e.namespace = :namespace AND e.expires_at <= {now}
        ORDER BY e.expires_at LIMIT :limit FOR UPDATE OF e SKIP LOCKED), gone AS (
        DELETE FROM {state_entries} AS e USING due WHERE e.namespace = :namespace
            AND e.session_id = due.session_id AND e.key = due.key AND e.expires_at <= {now}
        RETURNING {bytes:e.value} AS size)
    SELECT count(*), sum(size) FROM gone""",
        "coalesce(octet_length(CAST(%s AS text)), 0)",
    ),
    sqlite=_replace(
        """
    DELETE FROM {state_entries} WHERE rowid IN (
        SELECT e.rowid FROM {state_entries} AS e WHERE e.namespace = :namespace AND e.expires_at <= {now}
        ORDER BY e.expires_at LIMIT :limit) RETURNING {bytes:value}""",
        "coalesce(length(CAST(%s AS blob)), 0)",
    ),
)

# Sessions in the order of their ids, and of each what is stored beyond its ends: no session sees that.
_UNSEEN_PAGE = Statement("""
    SELECT s.session_id FROM {sessions} AS s WHERE s.namespace = :namespace AND s.session_id > :after_id
    ORDER BY s.session_id LIMIT :limit""")
_UNSEEN = _sized("""
    SELECT h.session_id, h.seq, h.content_bytes + {bytes:h.metadata} FROM {sessions} AS s
    JOIN {history_entries} AS h ON h.namespace = s.namespace AND h.session_id = s.session_id AND h.seq < s.first_seq
    WHERE s.namespace = :namespace AND s.session_id > :after_id AND s.session_id <= :last_id
    UNION ALL
    SELECT h.session_id, h.seq, h.content_bytes + {bytes:h.metadata} FROM {sessions} AS s
    JOIN {history_entries} AS h ON h.namespace = s.namespace AND h.session_id = s.session_id AND h.seq >= s.next_seq
    WHERE s.namespace = :namespace AND s.session_id > :after_id AND s.session_id <= :last_id""")
