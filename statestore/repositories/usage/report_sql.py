"""The statements behind the usage reports."""

import re
from collections.abc import Sequence
from functools import lru_cache

from statestore import schema
from statestore.engine.columns import Columns, fields_of
from statestore.engine.sql import Statement
from statestore.engine.sql_parts import each
from statestore.repositories.usage import latencies, rolled, totals
from statestore.repositories.usage.ledger import COUNTS
from statestore.schema.column_types import Day, UtcTime
from statestore.values.usage import CacheDayUsage, SessionDescent, StorageUsage

_MEASURES = ("sessions", *COUNTS, "duration_us", "timed_entries", "latency_p50", "latency_p95", "cost", "cost_fraction")

# As the views have it.
_MEASURED_POSTGRESQL = ", ".join(
    (
        "count(DISTINCT session_id) AS sessions",
        *(f"CAST(coalesce(sum({name}), 0) AS bigint) AS {name}" for name in COUNTS),
        f"coalesce(sum({rolled.MICROSECONDS}), 0) AS duration_us, count(latency_ms) AS timed_entries",
        "{} AS latency_p50, {} AS latency_p95".format(*latencies.EXACT_POSTGRESQL),
        "sum(cost_usd) AS cost, 0 AS cost_fraction",
    )
)
_MEASURED_SQLITE = ", ".join(
    (
        "count(DISTINCT session_id) AS sessions",
        *(f"coalesce(sum({name}), 0) AS {name}" for name in COUNTS),
        f"coalesce(sum({rolled.MICROSECONDS}), 0) AS duration_us, coalesce(max(timed), 0) AS timed_entries",
        "{} AS latency_p50, {} AS latency_p95".format(*latencies.EXACT_SQLITE),
        # Whole dollars and whole ten-billionths of one: exact, where a float sum of the two would not be.
        "sum(CAST(cost_usd AS INTEGER)) AS cost,"
        " sum(CAST(round((cost_usd - CAST(cost_usd AS INTEGER)) * 1e10) AS INTEGER)) AS cost_fraction",
    )
)
_NO_LATENCIES = each("CAST(NULL AS bigint) AS {0}", schema.LATENCY_COLUMNS)


def _added_up(dialect: str, sessions: str, cost: str) -> str:
    return ", ".join(
        (
            f"{sessions} AS sessions",
            *(f"CAST(coalesce(sum({name}), 0) AS bigint) AS {name}" for name in COUNTS),
            "coalesce(sum(duration_us), 0) AS duration_us",
            "CAST(coalesce(sum(timed_entries), 0) AS bigint) AS timed_entries",
            "CAST(NULL AS double precision) AS latency_p50, CAST(NULL AS double precision) AS latency_p95",
            f"{cost} AS cost, " + ("0" if dialect == "postgresql" else "sum(cost_fraction)") + " AS cost_fraction",
            *(f"CAST(sum({name}) AS bigint) AS {name}" for name in schema.LATENCY_COLUMNS),
        )
    )


# From the sums of sessions, and from totals, which tell how many sessions there are and how many costs are known.
_OF_SESSIONS = {one: _added_up(one, "count(DISTINCT session_id)", "sum(cost_usd)") for one in ("postgresql", "sqlite")}
_OF_TOTALS = {
    one: _added_up(
        one, "CAST(coalesce(sum(sessions), 0) AS bigint)", "CASE WHEN sum(priced) > 0 THEN sum(cost_usd) END"
    )
    for one in ("postgresql", "sqlite")
}
HEAVIEST = "cost IS NULL, round(cost + cost_fraction / 1e10, 10) DESC, input_tokens + output_tokens DESC, entries DESC"

# Both ends are found in an index. A minute may lie before the first entry, never after the last.
_TIMES = {"$history_entries": "created_at", "$usage_ledger": "bucket_at", "$usage_records": "created_at"}


OWN = "namespace = :namespace"
"""The condition that a line is of the store's own namespace."""


@lru_cache(maxsize=16)
def span(within: str) -> Statement:
    """The first and the last time of each source."""
    ends = (
        f"(SELECT {end}({time}) FROM {table} WHERE {within})"
        for end in ("min", "max")
        for table, time in _TIMES.items()
    )
    return Statement(f"SELECT {', '.join(ends)}")


CACHE_DAY = Columns(None, *fields_of(CacheDayUsage), types={"day": Day})
_CACHE_COUNTS = ("hits", "misses", "sets", "evictions", "expirations", "invalidations")


@lru_cache(maxsize=16)
def cache_by_day(within: str) -> Statement:
    """What happened in the caches of namespaces, together."""
    if within == OWN:
        selected, grouped = CACHE_DAY.select(), ""
    else:
        sums = {name: f"CAST(sum({name}) AS bigint)" for name in _CACHE_COUNTS}
        rate = "CAST(sum(hits) AS double precision) / nullif(sum(hits) + sum(misses), 0)"
        selected, grouped = CACHE_DAY.select(**sums, hit_rate=rate), "GROUP BY day, agent_name"
    return Statement(f"""
    SELECT {selected}
    FROM $cache_usage_by_day WHERE {within} AND day >= :since AND day < :until {grouped}
    ORDER BY day, agent_name IS NOT NULL, agent_name""")


STORED = Columns(None, *fields_of(StorageUsage))


@lru_cache(maxsize=16)
def storage(within: str) -> Statement:
    """What is stored in namespaces, together."""
    sums = {name: f"CAST(sum({name}) AS bigint)" for name in ("row_count", "bytes")}
    selected, grouped = (
        (STORED.select(), "") if within == OWN else (STORED.select(**sums), "GROUP BY table_name, user_id")
    )
    return Statement(f"""
    SELECT {selected} FROM $storage_usage
    WHERE {within} {grouped}
    ORDER BY table_name, user_id IS NOT NULL, user_id""")


DESCENT = Columns(None, *fields_of(SessionDescent), types={"created_at": UtcTime})
# The view `session_lineage` with the namespace in each of its steps: a distributed database walks on one server only.
_DEPTH = """CASE WHEN s.parent_session_id IS NULL THEN 0 ELSE (
        WITH RECURSIVE up (session_id, parent_session_id, created_at) AS (
            SELECT s.session_id, s.parent_session_id, s.created_at
            UNION
            SELECT p.session_id, p.parent_session_id, p.created_at FROM up
            JOIN $sessions AS p ON p.namespace = :namespace AND p.session_id = up.parent_session_id
                AND p.created_at <= up.created_at)
        SELECT count(up.parent_session_id) FROM up) END"""
_ITS_FORKS = """(SELECT count(*) FROM $sessions AS f
        WHERE f.namespace = :namespace AND f.parent_session_id = s.session_id AND f.created_at >= s.created_at
            AND (f.expires_at IS NULL OR f.expires_at > $now))"""
_OWN_ENTRIES = """s.next_seq - s.first_seq - CAST(coalesce((
        SELECT sum(g.to_seq - g.from_seq + 1) FROM $session_segments AS g
        WHERE g.namespace = :namespace AND g.session_id = s.session_id), 0) AS bigint)"""
_DESCENT = DESCENT.select(
    "s", depth=_DEPTH, forks=_ITS_FORKS, entries="s.next_seq - s.first_seq", own_entries=_OWN_ENTRIES
)
_LINEAGE = f"""
    SELECT {_DESCENT} FROM $sessions AS s
    WHERE s.namespace = :namespace AND (s.expires_at IS NULL OR s.expires_at > $now)%s
    ORDER BY s.created_at, s.session_id"""
LINEAGE = Statement(_LINEAGE % "")
LINEAGE_OF_ROOT = Statement(_LINEAGE % " AND s.root_session_id = :root")


WITH_PARTS = "session_id_with_parts"
"""The filter for a session and what belongs to it."""
_WITH_PARTS = f"""(session_id = :{WITH_PARTS} OR session_id IN (SELECT p.session_id FROM $sessions AS p
            WHERE p.namespace = :namespace AND p.belongs_to = :{WITH_PARTS}))"""
_WITH_PARTS_OF_SEVERAL = f"""(session_id = :{WITH_PARTS} OR EXISTS (SELECT 1 FROM $sessions AS p
            WHERE p.namespace = l.namespace AND p.session_id = l.session_id AND p.belongs_to = :{WITH_PARTS}))"""
# A session is one of its namespace; without one there is nothing to count.
_SESSIONS, _SESSIONS_OF_SEVERAL = "DISTINCT session_id", "DISTINCT length(namespace) || ':' || namespace || session_id"


@lru_cache(maxsize=64)
def columns(keys: tuple[str, ...], ends: bool, summed: str) -> Columns:
    """The columns of `measured`."""
    days = dict.fromkeys(("local_day", "first_day", "last_day"), Day)
    latencies = schema.LATENCY_COLUMNS if summed in rolled.OF_SESSIONS else ()
    return Columns(None, *keys, *(("first_day", "last_day") if ends else ()), *_MEASURES, *latencies, types=days)


@lru_cache(maxsize=256)
def measured(
    keys: tuple[str, ...],
    filters: tuple[str, ...],
    changes: int,
    order: str,
    ends: bool,
    limited: bool,
    summed: str = "",
    within: str = OWN,
) -> Statement:
    """The measures of `usage_lines` for each of *keys*, which are columns of it or parts of the local time.

    *summed* says of which sums, if there are any: those of sessions, for all times and by no part of the time, which
    are `session` or `use`; or those of days by a key of `rolled.DAYS_BY`, for whole days of UTC and without filters,
    of one namespace only. *within* says of which namespaces.
    """
    assert within == OWN or summed not in rolled.DAYS_BY
    is_summed = f"EXISTS ({rolled.STATE})" if within == OWN else rolled.is_summed(within)
    with_parts = _WITH_PARTS if within == OWN else _WITH_PARTS_OF_SEVERAL
    found = [with_parts if name == WITH_PARTS else f"{name} = :{name}" for name in filters]
    where = " AND ".join([within, "at >= :since", "at < :until", *found])
    source = dict.fromkeys(("postgresql", "sqlite"), f"$usage_lines AS l WHERE {where}")
    for dialect, lines in source.items():
        if summed in rolled.DAYS_BY:
            source[dialect] = rolled.unsummed(dialect, where)
        elif summed:
            source[dialect] = rolled.unless_summed(dialect, lines, is_summed)
    computed = [*keys, "local_day"] if ends else keys
    selected = "".join(f"{key}, " for key in keys)
    if ends:
        selected += "min(local_day) AS first_day, max(local_day) AS last_day, "
    grouped = f"GROUP BY {', '.join(keys)}" if keys else ""
    partition = f"PARTITION BY {', '.join(keys)}" if keys else ""
    postgresql, sqlite = _local_time(changes)
    days_postgresql = _parts(computed, local_day=f"CAST({postgresql} AS date)",
        weekday=f"CAST(extract(isodow FROM {postgresql}) AS integer) - 1",
        hour=f"CAST(extract(hour FROM {postgresql}) AS integer)")  # fmt: skip
    days_sqlite = _parts(computed, local_day=f"date({sqlite})",
        weekday=f"(strftime('%w', {sqlite}) + 6) % 7",
        hour=f"CAST(strftime('%H', {sqlite}) AS INTEGER)")  # fmt: skip
    counted = (_SESSIONS, _SESSIONS if within == OWN else _SESSIONS_OF_SEVERAL)
    tail = f"SELECT * FROM measured{f' ORDER BY {order}' if order else ''}{' LIMIT :limit' if limited else ''}"
    ctes = {
        "postgresql": f"""
    WITH lines AS (SELECT *{days_postgresql} FROM {source["postgresql"]}),
    measured AS (SELECT {selected}{_MEASURED_POSTGRESQL.replace(*counted)}""",
        "sqlite": f"""
    WITH lines AS (SELECT *{days_sqlite} FROM {source["sqlite"]}),
    placed AS (SELECT *, count(latency_ms) OVER ({partition}) AS timed,
        row_number() OVER ({partition} ORDER BY latency_ms IS NULL, latency_ms) AS place FROM lines),
    measured AS (SELECT {selected}{_MEASURED_SQLITE.replace(*counted)}""",
    }
    made = {}
    for dialect, begun in ctes.items():
        lines = "lines" if dialect == "postgresql" else "placed"
        if summed in rolled.OF_SESSIONS:
            # Without keys there is a row even of nothing.
            gates = ("", "") if keys else (f"HAVING NOT {is_summed}", f"HAVING {is_summed}")
            if within == OWN and not found and keys in totals.BY.values():
                begun = begun.replace("measured AS", f"{totals.affected(dialect)},\n    measured AS", 1)
                sums, summing = totals.summands(dialect, keys), _OF_TOTALS[dialect]
                gates = (gates[0], "HAVING sum(present) > 0" if keys else gates[1])
            elif within == OWN:
                sums, summing = rolled.sessions(dialect, found, summed), _OF_SESSIONS[dialect]
            else:
                sums, summing = rolled.sessions_of_several(dialect, found, summed, within), _OF_SESSIONS[dialect]
            rest = f"""{_NO_LATENCIES}
        FROM {lines} {grouped} {gates[0]}
        UNION ALL
        SELECT {_of_sums(selected)}{summing.replace(*counted)}
        FROM ({sums}) AS sums {grouped} {gates[1]}"""
            made[dialect] = f"{begun}, {rest})\n    {tail}"
        else:
            rest = f"{rolled.days(dialect, summed)}" if summed else ""
            made[dialect] = f"{begun} FROM {lines} {grouped}{rest})\n    {tail}"
    return Statement(**made)


def _of_sums(selected: str) -> str:
    return selected.replace("min(local_day)", "min(first_day)").replace("max(local_day)", "max(last_day)")


def _parts(keys: Sequence[str], **expressions: str) -> str:
    return "".join(f", {expressions[key]} AS {key}" for key in keys if key in expressions)


def _local_time(changes: int) -> tuple[str, str]:
    """The time of a line on the clocks of the time zone, for PostgreSQL and for SQLite."""
    cases = " ".join(f"WHEN at < :change_{index} THEN :offset_{index}" for index in range(changes))
    sqlite = f"CASE {cases} ELSE :offset_{changes} END" if changes else ":offset_0"
    postgresql = re.sub(r":change_\d+", r"CAST(\g<0> AS timestamptz)", sqlite)
    postgresql = re.sub(r":offset_\d+", r"CAST(\g<0> AS interval)", postgresql)
    # SQLite rounds fractions of a second, the last of a day into the next.
    return f"((at + {postgresql}) AT TIME ZONE 'UTC')", f"substr(at, 1, 19), {sqlite}"
