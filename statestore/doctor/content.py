"""Checks of what is in the tables: what is due, what belongs to nobody, what is missing, what has no price.

They look at indexes where they can. What would read a large table as a whole is left out unless `thorough` is set, and
the finding says so.
"""

import shlex
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from statestore.doctor.checks import check, found, mendable, some
from statestore.doctor.findings import Finding
from statestore.doctor.patient import Patient

OVERDUE = timedelta(hours=1)
"""How long after it has expired a row may wait for a sweep."""
FOREVER = timedelta(days=365)
"""Without a policy, sessions that were not used for so long are probably kept by mistake."""
RECENT = timedelta(days=7)
LARGE_TABLE = 200_000
NEWEST = 1_000
_MOST_NAMESPACES = 1_000

# From one namespace to the next in an index: there are few of them, and many rows of each.
_NAMESPACES = f"""
    WITH RECURSIVE walk(name) AS (
        SELECT min(namespace) FROM {{s}}%(table)s
        UNION ALL
        SELECT (SELECT min(t.namespace) FROM {{s}}%(table)s AS t WHERE t.namespace > walk.name) FROM walk
        WHERE walk.name IS NOT NULL),
    names AS (SELECT name FROM walk WHERE name IS NOT NULL LIMIT {_MOST_NAMESPACES})"""

_EXPIRE = {
    "sessions": "expires_at",
    "state_entries": "expires_at",
    "shared_state": "expires_at",
    "cache_entries": "keep_until",
}


@check("sweep", needs=tuple(_EXPIRE))
def sweep(patient: Patient) -> Iterator[Finding]:
    """How long the oldest of what has expired waits for a sweep."""
    late: list[tuple[timedelta, str]] = []
    for table, column in _EXPIRE.items():
        sql = f"""{_NAMESPACES % {"table": table}}
            SELECT min(due) FROM (SELECT (
                SELECT min(t.{column}) FROM {{s}}{table} AS t WHERE t.namespace = names.name AND t.{column} IS NOT NULL)
                AS due FROM names) AS oldest"""
        [due] = patient.one(sql)
        if due is not None and patient.now() - patient.from_time(due) > OVERDUE:
            late.append((patient.now() - patient.from_time(due), table))
    if late:
        longest, table = max(late)
        what = f"what has expired waits for a sweep, {table} for {_shown(longest)}; run one now, and then always"
        yield found("sweep", "warn", what, patient.command("sweep --all-namespaces"))
    else:
        yield found("sweep", "ok", "nothing is due")


def _shown(duration: timedelta) -> str:
    hours = duration // timedelta(hours=1)
    return f"{hours // 24} days" if hours >= 48 else f"{hours} hours"


@check("retention", needs=("sessions", "store_settings"))
def retention(patient: Patient) -> Iterator[Finding]:
    """Whether sessions that nobody uses are kept without anybody having decided so."""
    rows = patient.rows(
        "SELECT DISTINCT namespace FROM (SELECT namespace FROM {s}sessions AS s WHERE s.active_hour < :before"
        " AND s.expires_at IS NULL AND NOT EXISTS (SELECT 1 FROM {s}store_settings AS t"
        " WHERE t.namespace = s.namespace AND t.name = 'max_idle') LIMIT 1000) AS kept ORDER BY 1 LIMIT 10",
        before=patient.time(patient.now() - FOREVER),
    )
    for (namespace,) in rows:
        what = (
            f"namespace {namespace!r} has sessions idle for more than a year and no retention; how long may they stay?"
        )
        yield found("retention", "warn", what, patient.command(f"retention --max-idle 365d{patient.within(namespace)}"))
    if not rows:
        yield found("retention", "ok", "no session is kept for years without a retention rule")


@check("prices", needs=("history_entries", "model_prices"))
def prices(patient: Patient) -> Iterator[Finding]:
    """Models that were called in the last days, and whose price is not known."""
    sql = f"""{_NAMESPACES % {"table": "history_entries"}}
        SELECT namespace, model, count(*) AS calls FROM (
            SELECT h.namespace, coalesce(h.response_model, h.request_model) AS model
            FROM names JOIN {{s}}history_entries AS h ON h.namespace = names.name AND h.created_at >= :since
            WHERE h.cost_usd IS NULL AND h.input_tokens IS NOT NULL AND h.output_tokens IS NOT NULL LIMIT 100000)
            AS calls WHERE model IS NOT NULL GROUP BY namespace, model ORDER BY 3 DESC, 1, 2 LIMIT 10"""
    rows = patient.rows(sql, since=patient.time(patient.now() - RECENT))
    known = {model for (model,) in patient.rows("SELECT DISTINCT model FROM {s}model_prices")}
    for namespace in dict.fromkeys(row.namespace for row in rows):
        calls = [row for row in rows if row.namespace == namespace]
        of_them = patient.of_namespace(namespace)
        models = [f"{row.model} ({row.calls:,} {'call' if row.calls == 1 else 'calls'})" for row in calls]
        what = f"no cost{of_them}: {some(models)}"
        unknown = [row.model for row in calls if row.model not in known]
        if not unknown:
            remedy = patient.command(f"prices apply{patient.within(namespace)}")
        elif not known:
            remedy = patient.command(f"prices sync --apply{patient.within(namespace)}")
        else:
            remedy = None
            words = f"prices set {shlex.quote(unknown[0])} --input USD --output USD{patient.within(namespace)}"
            what += f"; set a price, in USD for a million tokens: {patient.command(words)}, then: prices apply"
        yield found("prices", "warn", what, remedy)
    if not rows:
        yield found("prices", "ok", "every call of the last week has a cost")


# What refers to a session, children first.
_OWNED = ("session_list_items", "session_lists", "state_entries", "summaries", "session_segments")
_NO_SESSION = """NOT EXISTS (SELECT 1 FROM {s}sessions AS s
    WHERE s.namespace = t.namespace AND s.session_id = t.session_id)"""


@check("orphans", needs=("sessions", "history_entries", *_OWNED))
def orphans(patient: Patient) -> Iterator[Finding]:
    """Rows of sessions that do not exist, which foreign keys prevent if nobody switches them off."""
    large = [table for table in ("history_entries", *_OWNED) if _rows_of(patient, table) > LARGE_TABLE]
    left_out = [] if patient.thorough else large
    without = [
        table for table in ("history_entries", *_OWNED)
        if table not in left_out and patient.rows(f"SELECT 1 FROM {{s}}{table} AS t WHERE {_NO_SESSION} LIMIT 1")
    ]  # fmt: skip
    if without:
        what = f"rows without their session in {some(without)}; --fix recreates the missing sessions, with status dead"
        yield mendable(patient, "orphans", "fail", f"{what}, and deletes the rest", _adopting(patient))
    elif left_out:
        hint = patient.command("doctor --check orphans --thorough")
        yield found("orphans", "ok", f"skipped for {some(left_out)}, which would be read as a whole", hint)
    else:
        yield found("orphans", "ok", "every row has its session")


def _adopting(patient: Patient) -> list[str]:
    """Entries tell what was said and what it cost: their sessions come back, so that they can be read, or swept."""
    hour = "date_trunc('hour', max(t.created_at), 'UTC')"
    if not patient.on_postgresql:
        hour = "substr(max(t.created_at), 1, 13) || ':00:00.000000Z'"
    again = f"""INSERT INTO {{s}}sessions (namespace, session_id, title, status, root_session_id, first_seq, next_seq,
            last_turn, created_at, last_activity_at, active_hour)
        SELECT t.namespace, t.session_id, 'recovered by statestore doctor', 'dead', t.session_id, min(t.seq),
            max(t.seq) + 1, max(t.turn), min(t.created_at), max(t.created_at), {hour}
        FROM {{s}}history_entries AS t WHERE {_NO_SESSION} GROUP BY t.namespace, t.session_id"""
    lines = [again, *(f"DELETE FROM {{s}}{table} AS t WHERE {_NO_SESSION}" for table in _OWNED)]
    return [" ".join(line.replace("{s}", patient.prefix).split()) for line in lines]


def _rows_of(patient: Patient, table: str) -> int:
    """About how many rows a table has, without reading it."""
    if patient.on_postgresql:
        sql = """WITH RECURSIVE parts(oid) AS (SELECT CAST(to_regclass(:name) AS oid)
                UNION ALL SELECT i.inhrelid FROM pg_inherits AS i JOIN parts ON parts.oid = i.inhparent)
            SELECT coalesce(sum(greatest(c.reltuples, pg_relation_size(c.oid) / 8192)), 0)
            FROM parts JOIN pg_class AS c ON c.oid = parts.oid AND c.relkind = 'r'"""
        [rows] = patient.one(sql, name=f"{patient.prefix}{table}")
    else:
        [rows] = patient.one(f"SELECT coalesce(max(rowid), 0) FROM {{s}}{table}")
    return int(rows)


@check("positions", needs=("sessions", "history_entries", "session_segments"))
def positions(patient: Patient) -> Iterator[Finding]:
    """Whether the newest sessions have all their entries, and none that no session sees."""
    visible = "h.namespace = s.namespace AND h.seq >= s.first_seq AND h.seq < s.next_seq"
    rows = patient.rows(f"""
        SELECT s.namespace, s.session_id, s.next_seq - s.first_seq
            - (SELECT count(*) FROM {{s}}history_entries AS h WHERE h.session_id = s.session_id AND {visible})
            - (SELECT count(*) FROM {{s}}session_segments AS g JOIN {{s}}history_entries AS h
                ON h.namespace = g.namespace AND h.session_id = g.owner_session_id
                AND h.seq BETWEEN g.from_seq AND g.to_seq
                WHERE g.namespace = s.namespace AND g.session_id = s.session_id AND {visible}) AS gone,
            (SELECT count(*) FROM (SELECT 1 FROM {{s}}history_entries AS h WHERE h.namespace = s.namespace
                AND h.session_id = s.session_id AND h.seq >= s.next_seq AND NOT EXISTS (
                    SELECT 1 FROM {{s}}session_segments AS g WHERE g.namespace = s.namespace
                        AND g.owner_session_id = s.session_id AND h.seq BETWEEN g.from_seq AND g.to_seq)
                LIMIT 1) AS one) AS beyond
        FROM (SELECT * FROM {{s}}sessions ORDER BY active_hour DESC LIMIT {NEWEST}) AS s""")
    gaps = [row for row in rows if row.gone]
    beyond = [row for row in rows if row.beyond]
    if gaps:
        verb = "lacks" if len(gaps) == 1 else "lack"
        what = f"{len(gaps)} of the {len(rows):,} newest sessions {verb} entries that somebody deleted by SQL"
        yield found("positions", "fail", f"{what}: {_gap(patient, gaps[0])}")
    if beyond:
        what = f"{len(beyond)} of the {len(rows):,} newest sessions have entries behind their end, which nobody sees"
        yield found("positions", "warn", what, patient.command("sweep --all-namespaces"))
    if not gaps and not beyond:
        yield found("positions", "ok", f"no gap in the {len(rows):,} newest sessions")


def _gap(patient: Patient, session: Any) -> str:
    """Where the first gap of a session is, and what can be done about it."""
    rows = patient.rows(
        """
        SELECT s.first_seq, before + 1 AS first, seq - 1 AS last FROM {s}sessions AS s, (
            SELECT seq, lag(seq, 1, 0) OVER (ORDER BY seq) AS before FROM (
                SELECT first_seq - 1 AS seq FROM {s}sessions WHERE namespace = :namespace AND session_id = :id
                UNION SELECT next_seq FROM {s}sessions WHERE namespace = :namespace AND session_id = :id
                UNION SELECT seq FROM {s}history_entries WHERE namespace = :namespace AND session_id = :id
                UNION SELECT h.seq FROM {s}session_segments AS g JOIN {s}history_entries AS h
                    ON h.namespace = g.namespace AND h.session_id = g.owner_session_id
                    AND h.seq BETWEEN g.from_seq AND g.to_seq
                    WHERE g.namespace = :namespace AND g.session_id = :id) AS there) AS found
        WHERE s.namespace = :namespace AND s.session_id = :id
            AND seq > before + 1 AND before + 1 >= s.first_seq AND seq <= s.next_seq
        ORDER BY seq LIMIT 1""",
        namespace=session.namespace, id=session.session_id,
    )  # fmt: skip
    name = f"session {session.session_id!r}{patient.of_namespace(session.namespace)}"
    if not rows:  # Somebody has written meanwhile.
        return f"{name} lacks {session.gone:,}"
    [gap] = rows
    where = f"position {gap.first}" if gap.first == gap.last else f"positions {gap.first} to {gap.last}"
    what = f"{name} has no {where}. All else can be read. Restore it from a backup (see docs/doctor.md)"
    if gap.first == gap.first_seq:
        return what
    words = f"fork {shlex.quote(session.session_id)} --at-seq {gap.first - 1}{patient.within(session.namespace)}"
    return f"{what}, or go on from before the gap: {patient.command(words)}"
