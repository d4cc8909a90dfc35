"""Add sums of what was used: of whole sessions and of whole days, which the sweep keeps up to a watermark.

What changes them afterwards, an entry that comes late or one that is edited or deleted, is noted by triggers in the
transaction that does so. So the notes are complete whatever code or person makes the change, code of 0005 included, and
an append of now pays for a comparison of two times.
"""

import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

# Only more is there. Code of 0005 does not keep the sums, and its changes are noted like all others.
oldest_code = "0005"

KEY = sa.String(512).with_variant(sa.String(512, collation="C"), "postgresql")
NAME = sa.String(512)
TIME = sa.DateTime(timezone=True).with_variant(sa.String(27), "sqlite")
DAY = sa.Date().with_variant(sa.String(10), "sqlite")
MONEY_SUM = sa.Numeric(30, 10).with_variant(sa.Float(), "sqlite")

COUNTS = (
    "entries",
    "turns",
    "model_calls",
    "tool_calls",
    "errors",
    "input_tokens",
    "output_tokens",
    "cache_read_input_tokens",
    "cache_write_input_tokens",
    "reasoning_output_tokens",
    "unpriced_calls",
    "content_bytes",
)
LATENCIES = tuple(f"latency_{number:02}" for number in range(48))

# The columns of usage_lines, but for the first.
LINE = (
    *("at", "day", "session_id", "user_id", "agent_name", "provider_name", "model", "tool_name"),
    *COUNTS[:10],
    *("cost_usd", "unpriced_calls", "duration_ms", "content_bytes", "latency_ms"),
)

# The views of days: where each was last defined, what its rows are by, and which rows of the sums it shows.
DAILY = {
    "usage_by_day": ("0003_views", (), "day"),
    "usage_by_user": ("0003_views", ("user_id",), "user"),
    "usage_by_agent": ("0003_views", ("agent_name",), "agent"),
    "usage_by_model": ("0003_views", ("provider_name", "model"), "model"),
    "usage_by_tool": ("0003_views", ("tool_name",), "tool"),
}

# The tables of what was used, and the columns with their times.
SOURCES = {"history_entries": "created_at", "usage_records": "created_at", "usage_ledger": "bucket_at"}


def upgrade() -> None:
    create_table(
        "usage_rollup",
        sa.Column("namespace", KEY, nullable=False),
        sa.Column("kind", sa.String(8), nullable=False),
        sa.Column("part", KEY, nullable=False),
        sa.Column("line", sa.Integer(), nullable=False),
        sa.Column("user_id", KEY),
        sa.Column("agent_name", KEY),
        sa.Column("provider_name", NAME),
        sa.Column("model", NAME),
        sa.Column("tool_name", NAME),
        sa.Column("first_day", DAY, nullable=False),
        sa.Column("last_day", DAY, nullable=False),
        sa.Column("sessions", sa.BigInteger(), nullable=False),
        *(sa.Column(name, sa.BigInteger(), nullable=False) for name in COUNTS),
        sa.Column("cost_usd", MONEY_SUM),
        sa.Column("cost_fraction", sa.BigInteger()),
        sa.Column("duration_us", sa.BigInteger(), nullable=False),
        sa.Column("timed_entries", sa.BigInteger(), nullable=False),
        sa.Column("latency_p50_ms", sa.Float()),
        sa.Column("latency_p95_ms", sa.Float()),
        *(sa.Column(name, sa.BigInteger()) for name in LATENCIES),
        sa.PrimaryKeyConstraint("namespace", "kind", "part", "line", name=op.f("pk_usage_rollup")),
    )
    create_index("usage_rollup", "user_id", "namespace", "kind")
    create_table(
        "usage_rollup_changes",
        sa.Column("namespace", KEY, nullable=False),
        sa.Column("kind", sa.String(8), nullable=False),
        sa.Column("part", KEY, nullable=False),
        sa.Column("change_id", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("namespace", "kind", "part", "change_id", name=op.f("pk_usage_rollup_changes")),
    )
    create_table(
        "usage_rollup_state",
        sa.Column("namespace", KEY, nullable=False),
        sa.Column("announced_until", TIME, nullable=False),
        sa.Column("fence", sa.BigInteger()),
        sa.Column("filled_to", KEY, nullable=False, server_default=""),
        sa.Column("rolled_until", TIME),
        sa.Column("days_until", DAY),
        sa.PrimaryKeyConstraint("namespace", name=op.f("pk_usage_rollup_state")),
    )
    execute(unsummed_lines())
    if on_postgresql():
        execute(comments())
        execute(same_grants())
    for view in DAILY:
        replace_view(view, daily(view))
    # Last, since on PostgreSQL nobody writes to the tables from here until the transaction ends.
    for statement in triggers_postgresql() if on_postgresql() else triggers_sqlite():
        execute(statement)


def downgrade() -> None:
    """Drop the sums, which are made of what is there. No data is lost."""
    schema = op.get_context().version_table_schema
    if on_postgresql():
        for table in ("sessions", *SOURCES):
            for event in ("insert", "update", "delete", "truncate"):
                execute(f"DROP TRIGGER IF EXISTS usage_rollup_{event} ON {prefix()}{table}")
        for name in ("late", "sessions", "truncated", *SOURCES):
            execute(f"DROP FUNCTION IF EXISTS {prefix()}usage_rollup_note_{name}()")
    else:
        for trigger in triggers_sqlite():
            execute(f"DROP TRIGGER {trigger.split()[2]}")
    for view, (file, _, _) in DAILY.items():
        replace_view(view, statement(file, view))
    execute(f"DROP VIEW {prefix()}usage_unsummed_lines")
    for table in ("usage_rollup_state", "usage_rollup_changes", "usage_rollup"):
        op.drop_table(table, schema=schema)


def daily(view: str) -> str:
    """The view: the days that are summed, and as it was before the lines of the others."""
    file, keys, kind = DAILY[view]
    _, _, before = statement(file, view).partition(" AS\n")
    lines = f"FROM {prefix()}usage_lines"
    assert before.count(lines) == 1, before
    columns = ", ".join(
        [
            "r.namespace, r.first_day AS day",
            *(f"r.{key}" for key in keys),
            f"r.sessions, {each('r.{0}', COUNTS[:10])}",
            "r.cost_usd" if on_postgresql() else "round(r.cost_usd + r.cost_fraction / 1e10, 10) AS cost_usd",
            "r.unpriced_calls, r.duration_us / CAST(1000 AS double precision) AS duration_ms, r.content_bytes",
            "r.timed_entries, r.latency_p50_ms, r.latency_p95_ms",
        ]
    )
    return f"""CREATE VIEW {prefix()}{view} AS
    SELECT {columns}
      FROM {prefix()}usage_rollup AS r JOIN {prefix()}usage_rollup_state AS t ON t.namespace = r.namespace
     WHERE r.kind = '{kind}' AND r.first_day < t.days_until
       AND NOT EXISTS (SELECT 1 FROM {prefix()}usage_rollup_changes AS c
            WHERE c.namespace = r.namespace AND c.kind = 'day' AND c.part = r.part)
     UNION ALL
{before.replace(lines, f"FROM {prefix()}usage_unsummed_lines")}"""


# Notes of changes. A transaction that notes a session or a day has a row of its own for it, and so waits for nobody.

SECURITY = "WITH (security_invoker = true) "
TRANSACTION = "CAST(CAST(pg_current_xact_id() AS text) AS bigint)"
LATE = "created_at < clock_timestamp() - interval '5 minutes'"


def triggers_postgresql() -> Iterator[str]:
    """A function for each table, which its triggers call; with the rights of who owns the tables.

    What comes at its time is not looked at, if it is inserted: the sums stay behind the clock by more than that. A
    transaction of an isolation in which it may not see what was announced meanwhile notes all that comes late.
    """
    into = f"INSERT INTO {prefix()}usage_rollup_changes (namespace, kind, part, change_id)"
    any_time = "current_setting('transaction_isolation') <> 'read committed'"
    announced = (
        f"EXISTS (SELECT 1 FROM {prefix()}usage_rollup_state AS t"
        " WHERE t.namespace = {0}.namespace AND t.announced_until > {0}.{1})"
    )
    parts = "('session', coalesce({0}.session_id, '')), ('day', to_char({0}.{1} AT TIME ZONE 'UTC', 'YYYY-MM-DD'))"
    late = f"""
        IF {any_time} OR {announced.format("NEW", "created_at")} THEN
            {into} SELECT NEW.namespace, v.kind, v.part, {TRANSACTION}
            FROM (VALUES {parts.format("NEW", "created_at")}) AS v (kind, part) ON CONFLICT DO NOTHING;
        END IF;"""
    yield from function("late", late)
    # Of all namespaces: what was in the table is not told. All is summed anew, and until then read from the entries.
    yield from function("truncated", f"\n        DELETE FROM {prefix()}usage_rollup_state;")
    for table, at in SOURCES.items():
        yield f"""CREATE TRIGGER usage_rollup_truncate AFTER TRUNCATE ON {prefix()}{table}
            FOR EACH STATEMENT EXECUTE FUNCTION {prefix()}usage_rollup_note_truncated()"""
        note = f"""{into}
            SELECT DISTINCT c.namespace, v.kind, v.part, {TRANSACTION}
            FROM {{0}} AS c CROSS JOIN LATERAL (VALUES {parts.format("c", at)}) AS v (kind, part)
            WHERE {any_time} OR {announced.format("c", at)} ON CONFLICT DO NOTHING;"""
        names = f"SELECT namespace, session_id, {at} FROM changed"
        yield from function(
            table,
            f"""
        IF TG_OP = 'INSERT' THEN {note.format("changed_new")}
        ELSIF TG_OP = 'DELETE' THEN {note.format("changed_old")}
        ELSE {note.format(f"({names}_old UNION {names}_new)")}
        END IF;""",
        )
        if at == "created_at":
            yield f"""CREATE TRIGGER usage_rollup_insert AFTER INSERT ON {prefix()}{table}
                FOR EACH ROW WHEN (NEW.{LATE}) EXECUTE FUNCTION {prefix()}usage_rollup_note_late()"""
        events = {"update": "OLD TABLE AS changed_old NEW TABLE AS changed_new", "delete": "OLD TABLE AS changed_old"}
        if at != "created_at":
            events["insert"] = "NEW TABLE AS changed_new"
        for event, tables in events.items():
            yield f"""CREATE TRIGGER usage_rollup_{event} AFTER {event.upper()} ON {prefix()}{table}
                REFERENCING {tables} FOR EACH STATEMENT EXECUTE FUNCTION {prefix()}usage_rollup_note_{table}()"""
    yield from function(
        "sessions",
        f"""
        {into}
        SELECT NEW.namespace, 'session', NEW.session_id, {TRANSACTION}
        UNION SELECT NEW.namespace, 'day', to_char(h.created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD'), {TRANSACTION}
        FROM {prefix()}history_entries AS h WHERE h.namespace = NEW.namespace AND h.session_id = NEW.session_id
        ON CONFLICT DO NOTHING;""",
    )
    yield f"""CREATE TRIGGER usage_rollup_update AFTER UPDATE OF user_id, agent_name ON {prefix()}sessions
        FOR EACH ROW WHEN (OLD.user_id IS DISTINCT FROM NEW.user_id OR OLD.agent_name IS DISTINCT FROM NEW.agent_name)
        EXECUTE FUNCTION {prefix()}usage_rollup_note_sessions()"""


def function(name: str, body: str) -> Iterator[str]:
    yield f"""CREATE OR REPLACE FUNCTION {prefix()}usage_rollup_note_{name}() RETURNS trigger
        LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $statestore$
    BEGIN{body}
        RETURN NULL;
    END $statestore$"""
    # Who writes to our tables needs no right to it, but anybody who has it could call it from a table of their own.
    yield f"REVOKE EXECUTE ON FUNCTION {prefix()}usage_rollup_note_{name}() FROM PUBLIC"


def triggers_sqlite() -> Iterator[str]:
    into = "INSERT INTO usage_rollup_changes (namespace, kind, part, change_id)"
    announced = "(SELECT t.announced_until FROM usage_rollup_state AS t WHERE t.namespace = {0}.namespace)"
    for table, at in SOURCES.items():
        for event, sides in {"insert": ("NEW",), "update": ("OLD", "NEW"), "delete": ("OLD",)}.items():
            late = " OR ".join(f"{side}.{at} < {announced.format(side)}" for side in sides)
            notes = "".join(
                f"""
                {into} VALUES ({side}.namespace, 'session', coalesce({side}.session_id, ''), 0),
                    ({side}.namespace, 'day', substr({side}.{at}, 1, 10), 0) ON CONFLICT DO NOTHING;"""
                for side in sides
            )
            yield f"""CREATE TRIGGER usage_rollup_{event}_{table} AFTER {event.upper()} ON {table}
                WHEN {late} BEGIN{notes} END"""
    yield f"""CREATE TRIGGER usage_rollup_update_sessions AFTER UPDATE OF user_id, agent_name ON sessions
        WHEN OLD.user_id IS NOT NEW.user_id OR OLD.agent_name IS NOT NEW.agent_name BEGIN
            {into} SELECT t.namespace, 'session', NEW.session_id, 0 FROM usage_rollup_state AS t
                WHERE t.namespace = NEW.namespace ON CONFLICT DO NOTHING;
            {into} SELECT DISTINCT h.namespace, 'day', substr(h.created_at, 1, 10), 0 FROM history_entries AS h
                WHERE h.namespace = NEW.namespace AND h.session_id = NEW.session_id ON CONFLICT DO NOTHING;
        END"""


def unsummed_lines() -> str:
    """`usage_lines` less what the sums of days have.

    Of each namespace it is what follows its sums, or all of it; and the days that have changed. Each such time is
    looked up by the index on the times.
    """
    s = prefix()
    if on_postgresql():
        day, midnight, following = "CAST({0} AS date)", "(CAST({0} AS timestamp) AT TIME ZONE 'UTC')", "{0} + 1"
        never, last = "TIMESTAMPTZ '-infinity'", "TIMESTAMPTZ 'infinity'"
    else:
        day, midnight, following = "{0}", "({0} || 'T00:00:00.000000Z')", "date({0}, '+1 day')"
        never, last = "''", "'a'"
    tables = ("sessions", "usage_ledger", "usage_records")
    found = " UNION ALL ".join(f"SELECT min(x.namespace) AS name FROM {s}{table} AS x{{0}}" for table in tables)
    times = f"""WITH RECURSIVE namespaces (name) AS (
        SELECT min(f.name) FROM ({found.format("")}) AS f
         UNION ALL
        SELECT (SELECT min(f.name) FROM ({found.format(" WHERE x.namespace > n.name")}) AS f)
          FROM namespaces AS n WHERE n.name IS NOT NULL
    ), times (namespace, since, until) AS (
        SELECT n.name, coalesce({midnight.format("t.days_until")}, {never}), {last}
          FROM namespaces AS n LEFT JOIN {s}usage_rollup_state AS t ON t.namespace = n.name WHERE n.name IS NOT NULL
         UNION ALL
        SELECT DISTINCT c.namespace, {midnight.format(day.format("c.part"))},
               {midnight.format(following.format(day.format("c.part")))}
          FROM {s}usage_rollup_changes AS c JOIN {s}usage_rollup_state AS t ON t.namespace = c.namespace
         WHERE c.kind = 'day' AND {day.format("c.part")} < t.days_until
    )"""
    if on_postgresql():
        columns = ", ".join(f"l.{name}" for name in LINE)
        return f"""CREATE VIEW {s}usage_unsummed_lines {SECURITY}AS
    {times}
    SELECT CAST(o.namespace AS varchar(512)) AS namespace, {columns}
      FROM times AS o CROSS JOIN LATERAL (
            SELECT * FROM {s}usage_lines AS l
             WHERE l.namespace = o.namespace AND l.at >= o.since AND l.at < o.until OFFSET 0) AS l"""
    _, _, lines = statement("0005_views", "usage_lines").partition(" AS\n")
    for alias, (table, at) in zip("hrl", SOURCES.items(), strict=True):
        of_time = f"{alias}.namespace = o.namespace AND {alias}.{at} >= o.since AND {alias}.{at} < o.until"
        lines = lines.replace(f"FROM {table} AS {alias}", f"FROM times AS o CROSS JOIN {table} AS {alias} ON {of_time}")
    return f"CREATE VIEW usage_unsummed_lines AS\n    {times}\n{lines}"


def replace_view(view: str, made: str) -> None:
    """Replaced, not made anew, on PostgreSQL: grants, and views of others that stand on it, stay."""
    if not on_postgresql():
        execute(f"DROP VIEW {prefix()}{view}")
    else:
        start = f"CREATE VIEW {prefix()}{view} "
        made = made.replace(start, start.replace("VIEW", "OR REPLACE VIEW") + SECURITY, 1)
    execute(made)


def statement(file: str, view: str) -> str:
    """The statement that made *view*, from an SQL file beside this one, for this database and schema."""
    path = Path(__file__).with_name(f"{file}_{op.get_context().dialect.name}.sql")
    [found] = [part for part in path.read_text().split(";\n") if f"VIEW {{s}}{view} " in part]
    return found[found.index("CREATE") :].replace("{s}", prefix()).strip()


def each(template: str, names: tuple[str, ...]) -> str:
    return ", ".join(template.format(name) for name in names)


def same_grants() -> str:
    """Whoever may read or write the ledger may do so here, or the views would fail for those who could read them."""
    ledger = literal(f"{prefix()}usage_ledger")
    schema = literal(prefix()).replace("%", "%%")
    grants = "".join(
        f"EXECUTE format('GRANT %s ON {schema}{table} TO %s', granted.privilege_type, granted.name);\n"
        for table in ("usage_rollup", "usage_rollup_changes", "usage_rollup_state", "usage_unsummed_lines")
    )
    return f"""DO $statestore$ DECLARE granted record; BEGIN
    FOR granted IN
        SELECT a.privilege_type,
               CASE WHEN a.grantee = 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END AS name
          FROM pg_class AS c, aclexplode(c.relacl) AS a
         WHERE c.oid = '{ledger}'::regclass AND a.grantee <> c.relowner
           AND a.privilege_type IN ('SELECT', 'INSERT', 'UPDATE', 'DELETE')
    LOOP {grants} END LOOP;
    END $statestore$"""


def comments() -> str:
    """All comments in one statement."""
    folder = Path(__file__).parent
    everywhere = tomllib.loads((folder / "0005_comments.toml").read_text())["everywhere"]
    lines = []
    for name, said in tomllib.loads((folder / "0007_comments.toml").read_text()).items():
        kind = "VIEW" if name == "usage_unsummed_lines" else "TABLE"
        lines.append(f"COMMENT ON {kind} {prefix()}{name} IS '{literal(said.pop('comment'))}';")
        texts = {column: everywhere[column] for column in said.pop("columns").split()} | said
        if (of_latencies := texts.pop("latency_", None)) is not None:
            texts |= dict.fromkeys(LATENCIES, of_latencies)
        for column, text in texts.items():
            lines.append(f"COMMENT ON COLUMN {prefix()}{name}.{column} IS '{literal(text)}';")
    return "DO $statestore$ BEGIN\n{}\nEND $statestore$".format("\n".join(lines))


def literal(text: str) -> str:
    return text.replace("'", "''")


def execute(statement: str) -> None:
    # DDL, not text: a colon in a schema's name is no parameter.
    op.execute(sa.DDL(statement.replace("%", "%%")))


def prefix() -> str:
    schema = op.get_context().version_table_schema
    if not schema:
        return ""
    return '"' + schema.replace('"', '""') + '".'


def create_table(name: str, *parts: Any) -> None:
    op.create_table(name, *parts, schema=op.get_context().version_table_schema)


def create_index(table: str, *columns: str) -> None:
    name = op.f(f"ix_{table}_{'_'.join(columns)}")
    op.create_index(name, table, list(columns), schema=op.get_context().version_table_schema)


def on_postgresql() -> bool:
    return bool(op.get_context().dialect.name == "postgresql")
