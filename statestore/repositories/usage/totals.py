"""Sums of sums: what the sessions of a namespace used together, in all and by what reports are by most often.

A report of all times reads these few rows, however many sessions there are. The sweep adds what it writes of a session,
and takes away what was written of it before; sessions that have changed since are taken away by the report.
"""

from collections.abc import Sequence

from statestore.engine.sql_parts import each
from statestore.repositories.usage import rolled
from statestore.schema import USAGE_COUNTS

BY: dict[str, tuple[str, ...]] = {
    "of_all": (),
    "of_user": ("user_id",),
    "of_agent": ("agent_name",),
    "of_model": ("provider_name", "model"),
    "of_tool": ("tool_name",),
}
"""What the sums are by, by their `kind`. What was used without a session is not in them, and read by itself."""

# Durations may add up to more than 64 bits.
_SUMMED = tuple(name for name in rolled.MEASURES if name != "duration_us")
_MEASURES = ("sessions", *_SUMMED, "total_duration_us", "priced")
_MOST = 2**63 - 1
_SAME = {"postgresql": "IS NOT DISTINCT FROM", "sqlite": "IS"}
_COLUMNS = ("kind", "part", "line", *rolled.KEYS, "first_day", "last_day", "duration_us", *_MEASURES)


def kind_of_sessions(keys: Sequence[str]) -> str:
    """The kind of the sums of sessions that are by these, too."""
    return "session" if {*keys} <= {"user_id", "agent_name"} else "use"


def _sums(sign: str = "", session: str = "part") -> str:
    return f"""{sign}count(DISTINCT r.{session}) AS sessions, {each(sign + "sum(r.{0}) AS {0}", _SUMMED)},
            {sign}sum(r.duration_us) AS total_duration_us, {sign}count(r.cost_usd) AS priced"""


def _delta() -> str:
    """What is written of some sessions, together."""
    found = []
    for kind, keys in BY.items():
        named = ", ".join(f"{f'r.{key}' if key in keys else 'CAST(NULL AS varchar)'} AS {key}" for key in rolled.KEYS)
        part = f"coalesce(r.{keys[-1]}, '')" if keys else "''"
        grouped = f"GROUP BY {each('r.{0}', keys)}" if keys else "HAVING count(*) > 0"
        found.append(f"""
        SELECT '{kind}' AS kind, {part} AS part, {named}, {_sums()}
        FROM $usage_rollup AS r
        WHERE r.namespace = :namespace AND r.kind = '{kind_of_sessions(keys)}' AND r.part $in(:parts) AND r.part <> ''
        {grouped}""")
    return " UNION ALL ".join(found)


def _is_same(dialect: str, table: str) -> str:
    same = " AND ".join(f"{table}.{key} {_SAME[dialect]} d.{key}" for key in rolled.KEYS)
    if dialect == "postgresql":
        # So that those rows are looked up in the index, whatever is thought of the number of others.
        same += f" AND {table}.kind IN {tuple(BY)} AND {table}.part = ANY (ARRAY(SELECT e.part FROM delta AS e))"
    return f"{table}.namespace = :namespace AND {table}.kind = d.kind AND {table}.part = d.part AND {same}"


def _limited(dialect: str, name: str, value: str) -> str:
    """On PostgreSQL a sum never leaves 64 bits, whatever callers claim to have used."""
    if dialect == "sqlite" or name not in USAGE_COUNTS:
        return value
    return f"CAST(least(greatest({value}, -{_MOST}), {_MOST}) AS bigint)"


def _changed(dialect: str, sign: str) -> str:
    return ", ".join(
        f"{name} = {_limited(dialect, name, f'coalesce(t.{name}, 0) {sign} coalesce(d.{name}, 0)')}"
        for name in _MEASURES
    )


def _update(dialect: str, sign: str, delta: str) -> str:
    return f"""UPDATE $usage_rollup AS t SET {_changed(dialect, sign)}
    FROM {delta} AS d WHERE {_is_same(dialect, "t")}"""


def _insert(dialect: str, delta: str) -> str:
    """Of those that there are none of yet."""
    # These have to be given, and are not asked for.
    day = "DATE '1970-01-01'" if dialect == "postgresql" else "'1970-01-01'"
    values = ", ".join(_limited(dialect, name, f"d.{name}") for name in _MEASURES)
    return f"""INSERT INTO $usage_rollup (namespace, {", ".join(_COLUMNS)})
    SELECT :namespace, d.kind, d.part, coalesce((SELECT max(o.line) FROM $usage_rollup AS o
            WHERE o.namespace = :namespace AND o.kind = d.kind AND o.part = d.part), 0)
        + row_number() OVER (PARTITION BY d.kind, d.part ORDER BY {each("d.{0}", rolled.KEYS)}),
        {each("d.{0}", rolled.KEYS)}, {day}, {day}, 0, {values}
    FROM {delta} AS d WHERE NOT EXISTS (SELECT 1 FROM $usage_rollup AS t WHERE {_is_same(dialect, "t")})"""


def add(dialect: str) -> list[str]:
    """The statements that add what is written of the sessions `:parts`."""
    if dialect == "sqlite":
        delta = f"({_delta()})"
        return [_update(dialect, "+", delta), _insert(dialect, delta)]
    # The insert sees the table as it was before the update.
    return [
        f"""
    WITH delta AS MATERIALIZED ({_delta()}),
    updated AS ({_update(dialect, "+", "delta")})
    {_insert(dialect, "delta")}"""
    ]


def take_away(dialect: str) -> list[str]:
    """The statements that take away what is written of the sessions `:parts`, and rows of which nothing is left."""
    if dialect == "sqlite":
        delta = f"({_delta()})"
        gone = f"""
    DELETE FROM $usage_rollup WHERE namespace = :namespace AND sessions = 0
        AND (kind, part) IN (SELECT d.kind, d.part FROM {delta} AS d)"""
        return [_update(dialect, "-", delta), gone]
    return [
        f"""
    WITH delta AS MATERIALIZED ({_delta()}),
    gone AS (DELETE FROM $usage_rollup AS t USING delta AS d
        WHERE {_is_same(dialect, "t")} AND t.sessions <= d.sessions)
    {_update(dialect, "-", "delta")} AND t.sessions > d.sessions"""
    ]


CLEAR = f"DELETE FROM $usage_rollup WHERE namespace = :namespace AND kind IN {tuple(BY)}"


def affected(dialect: str) -> str:
    """The sessions of which the sums are not all that there is, and '' for none, as a common table expression.

    Those that have `changed` are known by themselves: however many there are, none is looked for among the others.
    """
    return f"""affected AS MATERIALIZED (
        SELECT u.part, max(u.changed) AS changed FROM (
            SELECT part, 1 AS changed FROM ({rolled.CHANGED}) AS c
            UNION ALL SELECT coalesce(session_id, ''), 0
            FROM $usage_lines WHERE namespace = :namespace AND {rolled.tail(dialect)}
            UNION ALL SELECT '', 0) AS u GROUP BY u.part)"""


def _of_affected(dialect: str, which: str = "") -> str:
    parts = f"SELECT a.part FROM affected AS a{which}"
    return f"part = ANY (ARRAY({parts}))" if dialect == "postgresql" else f"part IN ({parts})"


def summands(dialect: str, keys: Sequence[str]) -> str:
    """What was used by *keys*, to be added up: the totals, less the sums of `affected`, and what these are now.

    A row has a positive or negative number of what it consists of, `present`. There is nothing of a key whose numbers
    add up to zero.
    """
    named = "".join(f"{key}, " for key in keys)
    grouped = f"GROUP BY {', '.join(keys)}" if keys else ""
    [kind] = [kind for kind, by in BY.items() if by == tuple(keys)]
    totals = ", ".join(
        "total_duration_us AS duration_us" if name == "total_duration_us" else name for name in _MEASURES
    )
    written = kind_of_sessions(keys)
    now = rolled.sessions(dialect, (), written, _of_affected(dialect, " WHERE a.changed = 0"))
    return f"""
        SELECT {named}sessions AS present, {totals}
        FROM $usage_rollup WHERE namespace = :namespace AND kind = '{kind}' AND EXISTS ({rolled.STATE})
        UNION ALL
        SELECT {named}-count(DISTINCT r.part) AS present, {_sums("-")}
        FROM $usage_rollup AS r
        WHERE namespace = :namespace AND kind = '{written}' AND {_of_affected(dialect)} AND part <> ''
            AND EXISTS ({rolled.STATE}) {grouped}
        UNION ALL
        SELECT {named}count(*) AS present, {_sums(session="session_id")}
        FROM ({now}) AS r {grouped}"""
