"""Sums that the sweep keeps: their columns, how they are made of lines, and how the reports read them."""

from collections.abc import Sequence

from statestore import schema
from statestore.engine.sql_parts import each
from statestore.repositories.usage import latencies

OF_SESSIONS = ("session", "use")
"""The kinds of sums of whole sessions: in all, and by what was used."""

KEYS = ("user_id", "agent_name", "provider_name", "model", "tool_name")
MEASURES = (
    *schema.USAGE_COUNTS,
    *("cost_usd", "cost_fraction", "duration_us", "timed_entries"),
    *schema.LATENCY_COLUMNS,
)
OF_PARTS = "namespace = :namespace AND kind = '{}' AND part $in(:parts)"
COLUMNS = ("part", *KEYS, "first_day", "last_day", *MEASURES)

DAYS_BY: dict[str, tuple[str, ...]] = {
    "day": (),
    "user": ("user_id",),
    "agent": ("agent_name",),
    "model": ("provider_name", "model"),
    "tool": ("tool_name",),
}
"""What sums of days are by, by their `kind`."""

TIMES = {"history_entries": "created_at", "usage_records": "created_at", "usage_ledger": "bucket_at"}
"""The tables of what was used, with the columns of their times."""

MICROSECONDS = "CAST(round(duration_ms * 1000) AS bigint)"

_COST_POSTGRESQL = "cost_usd, CAST(NULL AS bigint) AS cost_fraction"
# Whole dollars and ten-billionths of one: a sum of floats would be off in the last digits.
_COST_SQLITE = (
    "CAST(cost_usd AS INTEGER) AS cost_usd,"
    " CAST(round((cost_usd - CAST(cost_usd AS INTEGER)) * 1e10) AS INTEGER) AS cost_fraction"
)
_LINE = f"""coalesce(session_id, '') AS part, {", ".join(KEYS)}, day AS first_day, day AS last_day,
        {", ".join(schema.USAGE_COUNTS)}, {{cost}}, {MICROSECONDS} AS duration_us,
        CASE WHEN latency_ms IS NOT NULL THEN 1 ELSE 0 END AS timed_entries, {latencies.COUNTED}"""

# A sum never leaves 64 bits, whatever callers claim to have used.
_LIMITED = f"CAST(least(sum({{0}}), {2**63 - 1}) AS bigint) AS {{0}}"
# Nor do counts of entries; these may be NULL, which `least` passes over.
_SUMS_POSTGRESQL = ", ".join(
    (
        *(_LIMITED.format(name) for name in (*schema.USAGE_COUNTS, "duration_us", "timed_entries")),
        "sum(cost_usd) AS cost_usd, CAST(NULL AS bigint) AS cost_fraction",
        *(f"CAST(sum({name}) AS bigint) AS {name}" for name in schema.LATENCY_COLUMNS),
    )
)
_SUMS_SQLITE = each("sum({0}) AS {0}", MEASURES)
_OF_SESSION = ("user_id", "agent_name")


def lines(dialect: str, which: str) -> str:
    """Lines with the columns of sums. *which* is the condition for them."""
    return f"SELECT {_line(dialect)}\n    FROM $usage_lines WHERE namespace = :namespace AND {which}"


def _line(dialect: str) -> str:
    return _LINE.format(cost=_COST_POSTGRESQL if dialect == "postgresql" else _COST_SQLITE)


def _summed(dialect: str, source: str, keys: Sequence[str]) -> str:
    sums = _SUMS_POSTGRESQL if dialect == "postgresql" else _SUMS_SQLITE
    listed = ", ".join(keys)
    return f"""
    SELECT row_number() OVER (PARTITION BY part ORDER BY {listed}) AS line, s.* FROM (
        SELECT part, {listed}, min(first_day) AS first_day, max(last_day) AS last_day, {sums}
        FROM ({source}) AS l GROUP BY part, {listed}) AS s"""


def insert_uses(dialect: str, source: str, line: str = "line") -> str:
    """The statement that writes what sessions used of what, from *source*: lines or other sums."""
    columns = ", ".join(COLUMNS)
    return f"""
    INSERT INTO $usage_rollup (namespace, kind, line, sessions, {columns})
    SELECT :namespace, 'use', {line}, CASE WHEN part = '' THEN 0 ELSE 1 END, {columns}
    FROM ({_summed(dialect, source, KEYS)}) AS n"""


def insert_sessions(dialect: str) -> str:
    """The statement that writes what sessions used in all, from what is written of their uses."""
    columns = ", ".join(name for name in COLUMNS if name not in KEYS or name in _OF_SESSION)
    source = f"SELECT {', '.join(COLUMNS)} FROM $usage_rollup WHERE {OF_PARTS.format('use')}"
    return f"""
    INSERT INTO $usage_rollup (namespace, kind, line, sessions, {columns})
    SELECT :namespace, 'session', line, CASE WHEN part = '' THEN 0 ELSE 1 END, {columns}
    FROM ({_summed(dialect, source, _OF_SESSION)}) AS n"""


_DAY_COLUMNS = (
    *("sessions", *schema.USAGE_COUNTS, "cost_usd", "cost_fraction", "duration_us", "timed_entries"),
    *("latency_p50_ms", "latency_p95_ms"),
)
_DAY_POSTGRESQL = ", ".join(
    (
        "count(DISTINCT session_id) AS sessions",
        *(_LIMITED.format(name) for name in schema.USAGE_COUNTS),
        "sum(cost_usd) AS cost_usd, CAST(NULL AS bigint) AS cost_fraction",
        f"CAST(least(sum({MICROSECONDS}), {2**63 - 1}) AS bigint) AS duration_us, count(latency_ms) AS timed_entries",
        *(
            f"CAST(round(CAST({percentile} AS numeric), 6) AS double precision) AS {name}"
            for name, percentile in zip(_DAY_COLUMNS[-2:], latencies.EXACT_POSTGRESQL, strict=True)
        ),
    )
)
_DAY_SQLITE = ", ".join(
    (
        "count(DISTINCT session_id) AS sessions",
        *(f"sum({name}) AS {name}" for name in schema.USAGE_COUNTS),
        "sum(CAST(cost_usd AS INTEGER)) AS cost_usd",
        "sum(CAST(round((cost_usd - CAST(cost_usd AS INTEGER)) * 1e10) AS INTEGER)) AS cost_fraction",
        f"sum({MICROSECONDS}) AS duration_us, coalesce(max(timed), 0) AS timed_entries",
        *(
            f"round({percentile}, 6) AS {name}"
            for name, percentile in zip(_DAY_COLUMNS[-2:], latencies.EXACT_SQLITE, strict=True)
        ),
    )
)


def insert_day(dialect: str, kind: str, keys: Sequence[str]) -> str:
    """The statement that writes the sums of a day: what its view of *kind* shows, a row for each of *keys*."""
    listed = ", ".join(keys)
    named = f"{listed}, " if keys else ""
    lines = "SELECT * FROM $usage_lines WHERE namespace = :namespace AND at >= :since AND at < :until"
    if dialect == "sqlite":
        partition = f"PARTITION BY {listed}" if keys else ""
        lines = f"""SELECT *, count(latency_ms) OVER ({partition}) AS timed,
            row_number() OVER ({partition} ORDER BY latency_ms IS NULL, latency_ms) AS place FROM ({lines})"""
    return f"""
    INSERT INTO $usage_rollup (namespace, kind, part, line, first_day, last_day, {named}{", ".join(_DAY_COLUMNS)})
    SELECT :namespace, '{kind}', :part, row_number() OVER ({f"ORDER BY {listed}" if keys else ""}), :day, :day,
        {named}{", ".join(_DAY_COLUMNS)}
    FROM (SELECT {named}{_DAY_POSTGRESQL if dialect == "postgresql" else _DAY_SQLITE}
        FROM ({lines}) AS l {f"GROUP BY {listed}" if keys else ""} HAVING count(*) > 0) AS s"""


def _if(dialect: str, condition: str) -> str:
    """At the end of a query of `usage_lines`: what keeps SQLite from going through all of them for nothing.

    PostgreSQL looks at a condition that no row has a part in first.
    """
    return f" LIMIT CASE WHEN {condition} THEN -1 ELSE 0 END" if dialect == "sqlite" else ""


def unless_summed(dialect: str, lines: str, is_summed: str) -> str:
    """A source of lines that has none if there are sums."""
    if dialect == "sqlite":
        return f"(SELECT * FROM {lines}{_if(dialect, f'NOT {is_summed}')}) AS l"
    return f"{lines} AND NOT {is_summed}"


STATE = "SELECT 1 FROM $usage_rollup_state AS t WHERE t.namespace = :namespace AND t.rolled_until IS NOT NULL"
_UNTIL = "(SELECT t.rolled_until FROM $usage_rollup_state AS t WHERE t.namespace = :namespace)"
CHANGED = "SELECT c.part FROM $usage_rollup_changes AS c WHERE c.namespace = :namespace AND c.kind = 'session'"
# With an upper bound that is not a constant either, PostgreSQL expects a short time and takes the index.
_TAIL_POSTGRESQL = f"at >= {_UNTIL} AND at < (SELECT TIMESTAMPTZ 'infinity')"
_OF_CHANGED = {"postgresql": f"= ANY (ARRAY({CHANGED}))", "sqlite": f"IN ({CHANGED})"}


def tail(dialect: str) -> str:
    """The condition for lines that came after what is summed."""
    return _TAIL_POSTGRESQL if dialect == "postgresql" else f"at >= {_UNTIL}"


_UNCHANGED = f"NOT EXISTS ({CHANGED} AND c.part = r.part)"


def sessions(dialect: str, filters: Sequence[str], kind: str, kept: str = _UNCHANGED) -> str:
    """What was used, with the columns of sums: of each session its sums, and the lines that are not in them.

    Nothing if nothing was summed. *filters* are conditions on the columns of `usage_lines`. *kind* is `session` if
    only users and agents matter, else `use`. *kept* is the condition for sums that are read: those of sessions that
    have not changed.
    """
    filtered = "".join(f" AND {condition}" for condition in filters)
    if_changed = _if(dialect, f"EXISTS ({CHANGED})")
    raw = [
        lines(dialect, f"{which}{filtered}{condition}")
        for which, condition in (
            (tail(dialect), ""),
            (f"at < {_UNTIL} AND session_id {_OF_CHANGED[dialect]}", if_changed),
            (f"at < {_UNTIL} AND session_id IS NULL AND EXISTS ({CHANGED} AND c.part = '')", if_changed),
        )
    ]
    return f"""
        SELECT nullif(session_id, '') AS session_id, {", ".join(COLUMNS[1:])} FROM (
            SELECT part AS session_id, {", ".join(COLUMNS[1:])} FROM $usage_rollup AS r
            WHERE namespace = :namespace AND kind = '{kind}' AND EXISTS ({STATE}) AND {kept}) AS kept
        WHERE true{filtered}
        UNION ALL """ + " UNION ALL ".join(
        f"SELECT nullif(part, '') AS session_id, {', '.join(COLUMNS[1:])} FROM ({one}) AS found" for one in raw
    )


def is_summed(within: str) -> str:
    """The condition that there are sums of one of several namespaces."""
    return f"EXISTS (SELECT 1 FROM $usage_rollup_state WHERE {within} AND rolled_until IS NOT NULL)"


_STATE_OF = "FROM $usage_rollup_state AS t WHERE t.namespace = {}.namespace AND t.rolled_until IS NOT NULL"
_CHANGED_OF = "SELECT 1 FROM $usage_rollup_changes AS c WHERE c.namespace = {0}.namespace AND c.kind = 'session'"
_UNTIL_OF_LINE = f"(SELECT t.rolled_until {_STATE_OF.format('l')})"
# Each change is looked up by itself; a view of several tables takes nothing from a join.
_CHANGED_POSTGRESQL = """(
        SELECT DISTINCT t.namespace AS name, c.part AS changed, t.rolled_until AS ends
        FROM (SELECT * FROM $usage_rollup_state WHERE {within} AND rolled_until IS NOT NULL) AS t
        JOIN $usage_rollup_changes AS c ON c.namespace = t.namespace AND c.kind = 'session') AS o
    CROSS JOIN LATERAL (
        SELECT * FROM $usage_lines AS u
        WHERE u.namespace = o.name AND u.session_id = o.changed AND u.at < o.ends AND o.changed <> ''
        UNION ALL
        SELECT * FROM $usage_lines AS u
        WHERE u.namespace = o.name AND u.session_id IS NULL AND u.at < o.ends AND o.changed = '' OFFSET 0) AS l
    WHERE true"""
_CHANGED_SQLITE = (
    f"""$usage_lines AS l WHERE {{within}} AND at < {_UNTIL_OF_LINE} AND (namespace, session_id) IN (
        SELECT namespace, part FROM $usage_rollup_changes WHERE kind = 'session' AND {{within}})""",
    f"""$usage_lines AS l WHERE {{within}} AND at < {_UNTIL_OF_LINE} AND session_id IS NULL
        AND EXISTS ({_CHANGED_OF.format("l")} AND c.part = '')""",
)


def sessions_of_several(dialect: str, filters: Sequence[str], kind: str, within: str) -> str:
    """As `sessions`, of the namespaces *within*, which is a condition; with the namespace of each row.

    Nothing if nothing was summed of any of them.

    If some are summed and others are not, the lines of the others are given as they are. *filters* may call a line `l`.
    """
    filtered = "".join(f" AND {condition}" for condition in filters)
    # What follows the sums of days has all that follows those of sessions, which are never behind.
    after = f"(at >= {_UNTIL_OF_LINE} OR {_UNTIL_OF_LINE} IS NULL)"
    tail = f"$usage_unsummed_lines AS l WHERE {within} AND {is_summed(within)} AND {after}"
    changed = (_CHANGED_POSTGRESQL,) if dialect == "postgresql" else _CHANGED_SQLITE
    if_changed = _if(dialect, f"EXISTS (SELECT 1 FROM $usage_rollup_changes WHERE kind = 'session' AND {within})")
    raw = [f"{tail}{filtered}", *(f"{one.format(within=within)}{filtered}{if_changed}" for one in changed)]
    columns = ", ".join(COLUMNS[1:])
    return f"""
        SELECT namespace, nullif(session_id, '') AS session_id, {columns} FROM (
            SELECT namespace, part AS session_id, {columns} FROM $usage_rollup AS r
            WHERE {within} AND kind = '{kind}' AND EXISTS (SELECT 1 {_STATE_OF.format("r")})
                AND NOT EXISTS ({_CHANGED_OF.format("r")} AND c.part = r.part)) AS l
        WHERE true{filtered}
        UNION ALL """ + " UNION ALL ".join(
        f"SELECT namespace, nullif(part, '') AS session_id, {columns}"
        f" FROM (SELECT l.namespace, {_line(dialect)} FROM {one}) AS found"
        for one in raw
    )


_OF_NAMESPACE = "$usage_rollup_state AS t WHERE t.namespace = :namespace"
_DAYS = f"SELECT t.days_until FROM {_OF_NAMESPACE}"
_CHANGED_DAYS = "$usage_rollup_changes AS c WHERE c.namespace = :namespace AND c.kind = 'day'"
_MIDNIGHT = {"postgresql": "(CAST({} AS timestamp) AT TIME ZONE 'UTC')", "sqlite": "({} || 'T00:00:00.000000Z')"}


def unsummed(dialect: str, where: str) -> str:
    """The lines of days that are not summed, or have changed since. *where* is a condition on `usage_lines`."""
    midnight = _MIDNIGHT[dialect]
    until = f"coalesce((SELECT {midnight.format('t.days_until')} FROM {_OF_NAMESPACE}), :since)"
    tail, day, following = f"at >= {until}", "{}", "date({}, '+1 day')"
    if dialect == "postgresql":
        until = until.replace(":since", "CAST(:since AS timestamptz)")
        tail = f"at >= {until} AND at < (SELECT TIMESTAMPTZ 'infinity')"
        day, following = "CAST({} AS date)", "CAST({} AS date) + 1"
    ends = [
        f"(SELECT {midnight.format(end)} FROM {_CHANGED_DAYS})"
        for end in (day.format("min(c.part)"), following.format("max(c.part)"))
    ]
    return f"""(
        SELECT * FROM $usage_lines WHERE {where} AND {tail}
        UNION ALL
        SELECT * FROM $usage_lines WHERE {where} AND at >= {ends[0]} AND at < {ends[1]} AND at < {until}
            AND day IN (SELECT {day.format("c.part")} FROM {_CHANGED_DAYS})) AS unsummed"""


def days(dialect: str, kind: str) -> str:
    """What follows the measures of unsummed lines by day: those of the days that are summed."""
    keys = "".join(f"{key}, " for key in DAYS_BY[kind])
    fraction = "0" if dialect == "postgresql" else "r.cost_fraction"
    return f"""
        UNION ALL
        SELECT r.first_day, {keys}r.sessions, {each("r.{0}", schema.USAGE_COUNTS)}, r.duration_us, r.timed_entries,
            r.latency_p50_ms, r.latency_p95_ms, r.cost_usd, {fraction}
        FROM $usage_rollup AS r
        WHERE r.namespace = :namespace AND r.kind = '{kind}' AND r.part >= :from_day AND r.part < :to_day
            AND r.first_day < ({_DAYS})
            AND NOT EXISTS (SELECT 1 FROM {_CHANGED_DAYS} AND c.part = r.part)"""
