"""Create the tables of sessions, their history, summaries and state."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

# Compared byte by byte on both databases, whatever the locale of the server.
KEY = sa.String(512).with_variant(sa.String(512, collation="C"), "postgresql")
NAME = sa.String(512)
JSON = postgresql.JSON().with_variant(sa.Text(), "sqlite")
TIME = sa.DateTime(timezone=True).with_variant(sa.String(27), "sqlite")
DURATION = sa.Interval().with_variant(sa.BigInteger(), "sqlite")
MONEY = sa.Numeric(20, 10).with_variant(sa.Float(), "sqlite")

# Vacuum after a twentieth of the rows has changed, not after a fifth: a table of a million busy sessions would
# carry 200,000 dead rows.
VACUUM_EARLY = {"autovacuum_vacuum_scale_factor": "0.05", "autovacuum_analyze_scale_factor": "0.05"}

# Text that grows large. Against the default compression lz4 inserts 100 KB in 0.26 of the time and reads it in 0.84.
COMPRESSED = {
    "sessions": ("instructions", "metadata"),
    "history_entries": ("content", "metadata"),
    "summaries": ("content",),
    "state_entries": ("value",),
}


def upgrade() -> None:
    schema = op.get_context().version_table_schema
    sessions = f"{schema}.sessions" if schema else "sessions"

    op.create_table(
        "sessions",
        sa.Column("namespace", KEY, nullable=False),
        sa.Column("session_id", KEY, nullable=False),
        sa.Column("user_id", KEY),
        sa.Column("agent_name", KEY),
        sa.Column("title", sa.Text()),
        sa.Column("status", sa.String(16), nullable=False, server_default="ready"),
        sa.Column("instructions", sa.Text()),
        sa.Column("metadata", JSON, nullable=False, server_default="{}"),
        sa.Column("project_root", sa.Text()),
        sa.Column("cwd", sa.Text()),
        sa.Column("parent_session_id", KEY, comment="The session this one was forked from"),
        sa.Column("root_session_id", KEY, nullable=False, comment="Where its line of forks began"),
        sa.Column("forked_at_seq", sa.BigInteger(), comment="The last position it shares with its parent"),
        sa.Column("first_seq", sa.BigInteger(), nullable=False, server_default="1"),
        sa.Column("next_seq", sa.BigInteger(), nullable=False, server_default="1"),
        sa.Column("last_turn", sa.BigInteger(), nullable=False, server_default="0"),
        sa.Column("revision", sa.BigInteger(), nullable=False, server_default="1"),
        sa.Column("ttl", DURATION),
        sa.Column("expires_at", TIME, comment="Gone from here on, though its rows stay until the next sweep"),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("last_activity_at", TIME, nullable=False),
        sa.Column("active_hour", TIME, nullable=False, comment="last_activity_at cut to the hour, for the indexes"),
        sa.Column("lease_owner", NAME),
        sa.Column("lease_token", sa.BigInteger(), nullable=False, server_default="0"),
        sa.Column("lease_until", TIME),
        sa.PrimaryKeyConstraint("namespace", "session_id", name=op.f("pk_sessions")),
        sa.CheckConstraint("status IN ('starting', 'ready', 'busy', 'dead')", name=op.f("ck_sessions_status")),
        sa.CheckConstraint("first_seq >= 1 AND next_seq >= first_seq", name=op.f("ck_sessions_seq")),
        sa.CheckConstraint("(parent_session_id IS NULL) = (forked_at_seq IS NULL)", name=op.f("ck_sessions_fork")),
        sa.CheckConstraint("(ttl IS NULL) = (expires_at IS NULL)", name=op.f("ck_sessions_ttl")),
        schema=schema,
        comment="Conversations of agents, one row each",
    )
    # Room on each page for heap-only updates, which every append makes.
    set_storage("sessions", {"fillfactor": "70", **VACUUM_EARLY})
    create_index("sessions", "user_id", "namespace", "active_hour")
    create_index("sessions", "active_hour", "namespace")
    create_index("sessions", "created_at", "namespace")
    create_index("sessions", "parent_session_id", "namespace", where="parent_session_id IS NOT NULL")
    create_index("sessions", "namespace", "expires_at", where="expires_at IS NOT NULL")

    op.create_table(
        "session_segments",
        sa.Column("namespace", KEY, nullable=False),
        sa.Column("session_id", KEY, nullable=False),
        sa.Column("from_seq", sa.BigInteger(), nullable=False),
        sa.Column("to_seq", sa.BigInteger(), nullable=False),
        sa.Column("owner_session_id", KEY, nullable=False),
        sa.PrimaryKeyConstraint("namespace", "session_id", "from_seq", name=op.f("pk_session_segments")),
        sa.ForeignKeyConstraint(
            ["namespace", "session_id"],
            [f"{sessions}.namespace", f"{sessions}.session_id"],
            name=op.f("fk_session_segments_namespace_session_id"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["namespace", "owner_session_id"],
            [f"{sessions}.namespace", f"{sessions}.session_id"],
            name=op.f("fk_session_segments_namespace_owner_session_id"),
        ),
        sa.CheckConstraint("from_seq >= 1 AND to_seq >= from_seq", name=op.f("ck_session_segments_seq")),
        sa.CheckConstraint("owner_session_id <> session_id", name=op.f("ck_session_segments_owner")),
        schema=schema,
        comment="For forks: the ranges of their history whose rows another session owns",
    )
    create_index("session_segments", "owner_session_id", "namespace", "from_seq")

    op.create_table(
        "history_entries",
        sa.Column("namespace", KEY, nullable=False),
        sa.Column("session_id", KEY, nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False, comment="The position in the session, from 1"),
        sa.Column("entry_id", KEY, nullable=False),
        sa.Column("turn", sa.BigInteger(), nullable=False, comment="How many user entries there are up to here"),
        sa.Column("role", NAME),
        sa.Column("agent_name", KEY),
        sa.Column("content", JSON, nullable=False),
        sa.Column("metadata", JSON),
        sa.Column("provider_name", NAME),
        sa.Column("request_model", NAME),
        sa.Column("response_model", NAME),
        sa.Column("input_tokens", sa.BigInteger(), comment="Cached ones included"),
        sa.Column("output_tokens", sa.BigInteger(), comment="Reasoning included"),
        sa.Column("cache_read_input_tokens", sa.BigInteger()),
        sa.Column("cache_write_input_tokens", sa.BigInteger()),
        sa.Column("reasoning_output_tokens", sa.BigInteger()),
        sa.Column("cost_usd", MONEY),
        sa.Column("tool_name", NAME),
        sa.Column("tool_call_id", NAME),
        sa.Column("duration_ms", sa.Float()),
        sa.Column("finish_reason", NAME),
        sa.Column("error_type", NAME),
        sa.Column("content_bytes", sa.BigInteger(), nullable=False),
        sa.Column(
            "usage_folded",
            sa.Integer(),
            nullable=False,
            server_default="0",
            comment="1: what the entry used is in the usage ledger already",
        ),
        sa.Column("created_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("namespace", "session_id", "seq", name=op.f("pk_history_entries")),
        sa.ForeignKeyConstraint(
            ["namespace", "session_id"],
            [f"{sessions}.namespace", f"{sessions}.session_id"],
            name=op.f("fk_history_entries_namespace_session_id"),
        ),
        sa.CheckConstraint("seq >= 1", name=op.f("ck_history_entries_seq")),
        schema=schema,
        comment="What was said and done in a session, with what it used. A fork shares the rows of its source",
    )
    set_storage("history_entries", VACUUM_EARLY)
    op.create_index(
        op.f("uq_history_entries_entry_id"),
        "history_entries",
        ["entry_id", "session_id", "namespace"],
        unique=True,
        schema=schema,
    )
    create_index("history_entries", "namespace", "created_at")

    op.create_table(
        "summaries",
        sa.Column("namespace", KEY, nullable=False),
        sa.Column("session_id", KEY, nullable=False),
        sa.Column("start_seq", sa.BigInteger(), nullable=False),
        sa.Column("end_seq", sa.BigInteger(), nullable=False),
        sa.Column("content", sa.Text(), nullable=False),
        sa.Column("token_count", sa.BigInteger()),
        sa.Column("created_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("namespace", "session_id", "start_seq", name=op.f("pk_summaries")),
        sa.ForeignKeyConstraint(
            ["namespace", "session_id"],
            [f"{sessions}.namespace", f"{sessions}.session_id"],
            name=op.f("fk_summaries_namespace_session_id"),
            ondelete="CASCADE",
        ),
        sa.CheckConstraint("start_seq >= 1 AND end_seq >= start_seq", name=op.f("ck_summaries_seq")),
        schema=schema,
        comment="Texts that stand for a range of a session's history",
    )

    op.create_table(
        "state_entries",
        sa.Column("namespace", KEY, nullable=False),
        sa.Column("session_id", KEY, nullable=False),
        sa.Column("key", KEY, nullable=False),
        sa.Column("value", JSON, nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False, server_default="1"),
        sa.Column("updated_at", TIME, nullable=False),
        sa.Column("expires_at", TIME),
        sa.PrimaryKeyConstraint("namespace", "session_id", "key", name=op.f("pk_state_entries")),
        sa.ForeignKeyConstraint(
            ["namespace", "session_id"],
            [f"{sessions}.namespace", f"{sessions}.session_id"],
            name=op.f("fk_state_entries_namespace_session_id"),
            ondelete="CASCADE",
        ),
        schema=schema,
        comment="What a session remembers by key",
    )
    set_storage("state_entries", VACUUM_EARLY)
    create_index("state_entries", "namespace", "expires_at", where="expires_at IS NOT NULL")

    if op.get_context().dialect.name == "postgresql":
        compress()


def downgrade() -> None:
    """Drop all tables, and with them all sessions."""
    schema = op.get_context().version_table_schema
    for table in ("state_entries", "summaries", "history_entries", "session_segments", "sessions"):
        op.drop_table(table, schema=schema)


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


def set_storage(table: str, parameters: dict[str, str]) -> None:
    """Set storage parameters on PostgreSQL. SQLAlchemy takes them with CREATE TABLE from 2.1 on only."""
    if op.get_context().dialect.name == "postgresql":
        schema = (op.get_context().version_table_schema or "").replace('"', '""')
        values = ", ".join(f"{name} = '{value}'" for name, value in parameters.items())
        op.execute(sa.DDL(f'ALTER TABLE "{schema}".{table} SET ({values})'.replace("%", "%%")))


def compress() -> None:
    """Have large text compressed with lz4, where the server was built with it.

    The server is asked on the spot, so that the SQL that `--sql` writes serves either kind.
    """
    schema = (op.get_context().version_table_schema or "").replace('"', '""')
    alterations = "".join(
        f'    ALTER TABLE "{schema}".{table}'
        f" {', '.join(f'ALTER COLUMN {column} SET COMPRESSION lz4' for column in columns)};\n"
        for table, columns in COMPRESSED.items()
    )
    block = (
        "DO $statestore$ BEGIN\n"
        "  IF EXISTS (SELECT FROM pg_settings"
        " WHERE name = 'default_toast_compression' AND 'lz4' = ANY (enumvals)) THEN\n"
        f"{alterations}"
        "  END IF;\n"
        "END $statestore$"
    )
    # DDL, not text: a colon in a schema's name is no parameter.
    op.execute(sa.DDL(block.replace("%", "%%")))
