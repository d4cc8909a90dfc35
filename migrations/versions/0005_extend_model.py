"""Add parts of sessions, state of users and agents, lists of sessions, and usage of calls that are no entries."""

import tomllib
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

# Code of 0004 forks without writing the row of the source, by which code from here on sees that rows are shared; and it
# would leave behind what belongs to a session that it deletes.
oldest_code = "0005"

KEY = sa.String(512).with_variant(sa.String(512, collation="C"), "postgresql")
NAME = sa.String(512)
JSON = postgresql.JSON().with_variant(sa.Text(), "sqlite")
TIME = sa.DateTime(timezone=True).with_variant(sa.String(27), "sqlite")
MONEY = sa.Numeric(20, 10).with_variant(sa.Float(), "sqlite")

TOKENS = (
    "input_tokens",
    "output_tokens",
    "cache_read_input_tokens",
    "cache_write_input_tokens",
    "reasoning_output_tokens",
)
TABLES = ("shared_state", "session_lists", "session_list_items", "usage_records")

CHANGED_VIEWS = ("usage_lines", "usage_by_session", "storage_usage", "expiry_backlog")
NEW_VIEWS = ("session_history", "session_state")
OTHER_VIEWS = (
    "usage_by_day",
    "usage_by_user",
    "usage_by_agent",
    "usage_by_model",
    "usage_by_tool",
    "cache_usage_by_day",
    "session_lineage",
)

# Sub-agents of Claude Code, which were imported as forks at the beginning of the session that they worked for.
SUB_AGENT = "claude-code/sub-agent"

BELONGS_TO = "ix_sessions_belongs_to_namespace"


def upgrade() -> None:
    schema = op.get_context().version_table_schema
    within = f"{schema}." if schema else ""
    create_table(
        "shared_state",
        sa.Column("namespace", KEY, nullable=False),
        sa.Column("scope", sa.String(16), nullable=False, comment="user or app"),
        sa.Column("owner_id", KEY, nullable=False, comment="The user, or the name of the agent"),
        sa.Column("key", KEY, nullable=False),
        sa.Column("value", JSON, nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False, server_default="1"),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("updated_at", TIME, nullable=False),
        sa.Column("expires_at", TIME),
        sa.PrimaryKeyConstraint("namespace", "scope", "owner_id", "key", name=op.f("pk_shared_state")),
        sa.CheckConstraint("scope IN ('user', 'app')", name=op.f("ck_shared_state_scope")),
        comment="What is remembered by key for a user or an agent, in all sessions",
    )
    create_index("shared_state", "namespace", "expires_at", where="expires_at IS NOT NULL")

    create_table(
        "session_lists",
        sa.Column("namespace", KEY, nullable=False),
        sa.Column("session_id", KEY, nullable=False),
        sa.Column("name", KEY, nullable=False),
        sa.Column("item_count", sa.BigInteger(), nullable=False, server_default="0"),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("updated_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("namespace", "session_id", "name", name=op.f("pk_session_lists")),
        sa.ForeignKeyConstraint(
            ["namespace", "session_id"],
            [f"{within}sessions.namespace", f"{within}sessions.session_id"],
            name=op.f("fk_session_lists_namespace_session_id"),
            ondelete="CASCADE",
        ),
        comment="Named lists of a session, to which items are only appended",
    )
    create_table(
        "session_list_items",
        sa.Column("namespace", KEY, nullable=False),
        sa.Column("session_id", KEY, nullable=False),
        sa.Column("name", KEY, nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False, comment="In the list, from 1"),
        sa.Column("value", JSON, nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("namespace", "session_id", "name", "position", name=op.f("pk_session_list_items")),
        sa.ForeignKeyConstraint(
            ["namespace", "session_id", "name"],
            [f"{within}session_lists.{column}" for column in ("namespace", "session_id", "name")],
            name=op.f("fk_session_list_items_namespace_session_id_name"),
            ondelete="CASCADE",
        ),
        sa.CheckConstraint("position >= 1", name=op.f("ck_session_list_items_position")),
        comment="The items of named lists",
    )

    create_table(
        "usage_records",
        sa.Column("namespace", KEY, nullable=False),
        sa.Column("record_id", KEY, nullable=False, comment="The caller's: recording it again does nothing"),
        sa.Column("session_id", KEY, comment="The session it was for, which may be gone"),
        sa.Column("user_id", KEY),
        sa.Column("agent_name", KEY),
        sa.Column("provider_name", NAME),
        sa.Column("model", NAME),
        sa.Column("tool_name", NAME),
        *(sa.Column(name, sa.BigInteger()) for name in TOKENS),
        sa.Column("cost_usd", MONEY),
        sa.Column("duration_ms", sa.Float()),
        sa.Column("error_type", NAME),
        sa.Column("created_at", TIME, nullable=False, comment="When the call was made"),
        sa.PrimaryKeyConstraint("namespace", "record_id", name=op.f("pk_usage_records")),
        comment="Calls of models and tools that are no entries of a history",
    )
    create_index("usage_records", "namespace", "created_at")
    create_index("usage_records", "session_id", "namespace", where="session_id IS NOT NULL")
    create_index("usage_records", "user_id", "namespace", where="user_id IS NOT NULL")

    for view in CHANGED_VIEWS:
        replace_view(view, "0005_views")
    execute(statement("0005_views", "session_history"))

    # Last, since on PostgreSQL nobody uses a table from here until the transaction ends.
    add_column("sessions", sa.Column("belongs_to", KEY))
    add_column("state_entries", sa.Column("created_at", TIME))
    execute(statement("0005_views", "session_state"))
    if not on_postgresql():
        make_sub_agents_parts()
        create_index("sessions", "belongs_to", "namespace", where="belongs_to IS NOT NULL")
        return
    execute(comments())
    if op.get_context().opts.get("transaction_per_migration"):
        # What looks at each session is done outside the transaction, while all of them can be used. If it fails, the
        # next upgrade begins from the start and finds most of it there already: hence IF NOT EXISTS everywhere.
        with op.get_context().autocommit_block():
            make_sub_agents_parts()
            op.drop_index(op.f(BELONGS_TO), "sessions", schema=schema, if_exists=True, postgresql_concurrently=True)
            create_index(
                "sessions", "belongs_to", "namespace", where="belongs_to IS NOT NULL", postgresql_concurrently=True
            )
    else:
        # In a transaction of the caller's, such as that of a host's migration, which cannot be left.
        make_sub_agents_parts()
        create_index("sessions", "belongs_to", "namespace", where="belongs_to IS NOT NULL")


def downgrade() -> None:
    """Drop what was added: state of users and agents, lists, and recorded calls are lost; parts become forks again.

    Sub-agents that had a TTL of their own before do not get it back. Comments stay.
    """
    schema = op.get_context().version_table_schema
    for view in NEW_VIEWS:
        execute(f"DROP VIEW {prefix()}{view}")
    for view in CHANGED_VIEWS:
        replace_view(view, "0003_views")
    for table in reversed(TABLES):
        op.drop_table(table, schema=schema)
    op.drop_column("state_entries", "created_at", schema=schema)
    op.drop_index(op.f(BELONGS_TO), "sessions", schema=schema)
    op.drop_column("sessions", "belongs_to", schema=schema)


def make_sub_agents_parts() -> None:
    """Let sub-agents that were imported before belong to the session that they worked for, with its end for theirs.

    A sub-agent's own sub-agents belong to the same session: parts have no parts. Found by the index of forks. What has
    expired stays as it is: without its TTL it would come back. So does a sub-agent whose session is gone.
    """
    sessions = f"{prefix()}sessions"
    is_sub_agent = f"agent_name = '{SUB_AGENT}' AND {{0}}parent_session_id IS NOT NULL AND {{0}}forked_at_seq = 0"
    now = "now()" if on_postgresql() else "strftime('%Y-%m-%dT%H:%M:%f000Z', 'now')"
    lives = f"({{0}}expires_at IS NULL OR {{0}}expires_at > {now})"
    # UNION ends the walk also where rows are such that it goes in a circle.
    execute(f"""
        WITH RECURSIVE up (namespace, session_id, ancestor_id) AS (
            SELECT s.namespace, s.session_id, s.parent_session_id FROM {sessions} AS s
             WHERE s.{is_sub_agent.format("s.")}
             UNION
            SELECT up.namespace, up.session_id, p.parent_session_id
              FROM up JOIN {sessions} AS p ON p.namespace = up.namespace AND p.session_id = up.ancestor_id
             WHERE p.{is_sub_agent.format("p.")}
        ), tops (namespace, session_id, top_id) AS (
            SELECT up.namespace, up.session_id, up.ancestor_id
              FROM up JOIN {sessions} AS t ON t.namespace = up.namespace AND t.session_id = up.ancestor_id
             WHERE NOT (coalesce(t.agent_name, '') = '{SUB_AGENT}' AND t.parent_session_id IS NOT NULL
                        AND t.forked_at_seq = 0)
               AND {lives.format("t.")}
        )
        UPDATE {sessions} AS s SET belongs_to = tops.top_id, ttl = NULL, expires_at = NULL
          FROM tops
         WHERE s.namespace = tops.namespace AND s.session_id = tops.session_id AND {lives.format("s.")}""")


def replace_view(view: str, file: str) -> None:
    """Replaced, not made anew, on PostgreSQL: grants, and views of others that stand on it, stay."""
    made = statement(file, view)
    if not on_postgresql():
        execute(f"DROP VIEW {prefix()}{view}")
    elif "OR REPLACE" not in made:
        start = f"CREATE VIEW {prefix()}{view} "
        made = made.replace(start, start.replace("VIEW", "OR REPLACE VIEW") + "WITH (security_invoker = true) ", 1)
    execute(made)


def statement(file: str, view: str) -> str:
    """The statement that makes *view*, from an SQL file beside this one, for this database and schema."""
    path = Path(__file__).with_name(f"{file}_{op.get_context().dialect.name}.sql")
    [found] = [part for part in path.read_text().split(";\n") if f"VIEW {{s}}{view} " in part]
    return found.replace("{s}", prefix()).strip()


def comments() -> str:
    """All comments in one statement, which is one round trip while others wait."""
    relations = tomllib.loads(Path(__file__).with_name("0005_comments.toml").read_text())
    measures, everywhere = relations.pop("measures"), relations.pop("everywhere")
    lines = []
    for name, said in relations.items():
        kind = "VIEW" if name in (*CHANGED_VIEWS, *NEW_VIEWS, *OTHER_VIEWS) else "TABLE"
        lines.append(f"COMMENT ON {kind} {prefix()}{name} IS {literal(said.pop('comment'))};")
        shared = said.pop("columns", "").replace("+", measures).split()
        for column, text in ({column: everywhere[column] for column in shared} | said).items():
            lines.append(f"COMMENT ON COLUMN {prefix()}{name}.{column} IS {literal(text)};")
    return "DO $statestore$ BEGIN\n{}\nEND $statestore$".format("\n".join(lines))


def literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def execute(statement: str) -> None:
    # DDL, not text: a colon in a schema's name is no parameter.
    op.execute(sa.DDL(statement.replace("%", "%%")))


def prefix() -> str:
    schema = op.get_context().version_table_schema
    if not schema:
        return ""
    return '"' + schema.replace('"', '""') + '".'


def create_table(name: str, *parts: Any, comment: str) -> None:
    schema = op.get_context().version_table_schema
    op.create_table(name, *parts, schema=schema, comment=comment, if_not_exists=on_postgresql())


def add_column(table: str, column: sa.Column[Any]) -> None:
    op.add_column(table, column, schema=op.get_context().version_table_schema, if_not_exists=on_postgresql() or None)


def create_index(table: str, *columns: str, where: str | None = None, postgresql_concurrently: bool = False) -> None:
    condition = None if where is None else sa.text(where)
    op.create_index(
        op.f(f"ix_{table}_{'_'.join(columns)}"),
        table,
        list(columns),
        schema=op.get_context().version_table_schema,
        if_not_exists=on_postgresql(),
        postgresql_where=condition,
        postgresql_concurrently=postgresql_concurrently,
        sqlite_where=condition,
    )


def on_postgresql() -> bool:
    return bool(op.get_context().dialect.name == "postgresql")
