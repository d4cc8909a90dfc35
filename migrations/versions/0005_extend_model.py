"""Add parts of sessions, state of users and agents, lists of sessions, and usage of calls that are no entries."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

# It only adds: code of 0004 goes on, and does not see what is new.
oldest_code = "0004"

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


def upgrade() -> None:
    schema = op.get_context().version_table_schema
    within = f"{schema}." if schema else ""
    op.create_table(
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
        schema=schema,
        comment="What is remembered by key for a user or an agent, in all sessions",
    )
    create_index("shared_state", "namespace", "expires_at", where="expires_at IS NOT NULL")

    op.create_table(
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
        schema=schema,
        comment="Named lists of a session, to which items are only appended",
    )
    op.create_table(
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
        schema=schema,
        comment="The items of named lists",
    )

    op.create_table(
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
        schema=schema,
        comment="Calls of models and tools that are no entries of a history",
    )
    create_index("usage_records", "namespace", "created_at")
    create_index("usage_records", "user_id", "namespace", where="user_id IS NOT NULL")

    # Last, since on PostgreSQL nobody uses a table from here until the transaction ends. Building the index takes one
    # look at each session; concurrently it could not be built inside the transaction of a host's migration.
    op.add_column("state_entries", sa.Column("created_at", TIME), schema=schema)
    op.add_column(
        "sessions",
        sa.Column("belongs_to", KEY, comment="The session it is a part of, and expires and is deleted with"),
        schema=schema,
    )
    create_index("sessions", "belongs_to", "namespace", where="belongs_to IS NOT NULL")


def downgrade() -> None:
    """Drop what was added: state of users and agents, lists, and recorded calls are lost; parts become sessions."""
    schema = op.get_context().version_table_schema
    for table in reversed(TABLES):
        op.drop_table(table, schema=schema)
    op.drop_column("state_entries", "created_at", schema=schema)
    op.drop_index(op.f("ix_sessions_belongs_to_namespace"), "sessions", schema=schema)
    op.drop_column("sessions", "belongs_to", schema=schema)


def create_index(table: str, *columns: str, where: str | None = None) -> None:
    condition = None if where is None else sa.text(where)
    op.create_index(
        op.f(f"ix_{table}_{'_'.join(columns)}"),
        table,
        list(columns),
        schema=op.get_context().version_table_schema,
        postgresql_where=condition,
        sqlite_where=condition,
    )
