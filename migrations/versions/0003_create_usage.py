"""Create the usage ledger, prices of models, settings, and the report views."""

from pathlib import Path

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

KEY = sa.String(512).with_variant(sa.String(512, collation="C"), "postgresql")
NAME = sa.String(512)
JSON = postgresql.JSON().with_variant(sa.Text(), "sqlite")
TIME = sa.DateTime(timezone=True).with_variant(sa.String(27), "sqlite")
DAY = sa.Date().with_variant(sa.String(10), "sqlite")
# Sums of what an entry keeps in a numeric(20, 10).
MONEY_SUM = sa.Numeric(30, 10).with_variant(sa.Float(), "sqlite")
PRICE = sa.Numeric(20, 10).with_variant(sa.Float(), "sqlite")

TOKENS = (
    "input_tokens",
    "output_tokens",
    "cache_read_input_tokens",
    "cache_write_input_tokens",
    "reasoning_output_tokens",
)
PRICES = ("input_price", "output_price", "cache_read_price", "cache_write_price", "cache_write_1h_price")

# In the order in which they refer to each other.
VIEWS = (
    "usage_lines",
    "usage_by_day",
    "usage_by_session",
    "usage_by_user",
    "usage_by_agent",
    "usage_by_model",
    "usage_by_tool",
    "cache_usage_by_day",
    "storage_usage",
    "expiry_backlog",
    "session_lineage",
)


def upgrade() -> None:
    schema = op.get_context().version_table_schema

    op.create_table(
        "usage_ledger",
        sa.Column("namespace", KEY, nullable=False),
        sa.Column("session_id", KEY, nullable=False, comment="A random one in place of an erased user's"),
        sa.Column("bucket_at", TIME, nullable=False, comment="The quarter of an hour that begins here"),
        sa.Column("line", sa.Integer(), nullable=False, comment="Numbers the lines of a session and a quarter"),
        sa.Column("user_id", KEY),
        sa.Column("agent_name", KEY),
        sa.Column("provider_name", NAME),
        sa.Column("model", NAME),
        sa.Column("tool_name", NAME),
        sa.Column("entries", sa.BigInteger(), nullable=False),
        sa.Column("turns", sa.BigInteger(), nullable=False),
        sa.Column("model_calls", sa.BigInteger(), nullable=False),
        sa.Column("tool_calls", sa.BigInteger(), nullable=False),
        sa.Column("errors", sa.BigInteger(), nullable=False),
        *(sa.Column(name, sa.BigInteger(), nullable=False) for name in TOKENS),
        sa.Column("cost_usd", MONEY_SUM, comment="NULL where none of it is known"),
        sa.Column("unpriced_calls", sa.BigInteger(), nullable=False),
        sa.Column("duration_ms", sa.Float(), nullable=False),
        sa.Column("content_bytes", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("namespace", "session_id", "bucket_at", "line", name=op.f("pk_usage_ledger")),
        schema=schema,
        comment="What entries used that are no longer there, or no longer with the session that they were billed to",
    )
    op.create_index(
        op.f("ix_usage_ledger_namespace_bucket_at"), "usage_ledger", ["namespace", "bucket_at"], schema=schema
    )
    op.create_index(op.f("ix_usage_ledger_namespace_user_id"), "usage_ledger", ["namespace", "user_id"], schema=schema)

    op.create_table(
        "model_prices",
        sa.Column("namespace", KEY, nullable=False, comment="Whose prices these are; empty: everybody's"),
        sa.Column("position", sa.BigInteger(), nullable=False, comment="The first that matches a call is its price"),
        sa.Column("provider_name", NAME, nullable=False, comment="Empty: of any provider"),
        sa.Column("model", NAME, nullable=False),
        sa.Column("match", JSON, nullable=False, comment="Which names mean this provider and this model"),
        sa.Column("valid_from", DAY, nullable=False, comment="In UTC; a later one of the same model ends it"),
        sa.Column("above_input_tokens", sa.BigInteger(), nullable=False, comment="For calls with more input than this"),
        *(sa.Column(name, PRICE, comment="US dollars for a million tokens") for name in PRICES),
        sa.Column("source", sa.Text(), nullable=False, comment="Where the price comes from"),
        sa.Column("updated_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint(
            "namespace", "position", "valid_from", "above_input_tokens", name=op.f("pk_model_prices")
        ),
        schema=schema,
        comment="What models cost, to compute the cost of entries that come without it",
    )

    op.create_table(
        "store_settings",
        sa.Column("namespace", KEY, nullable=False, comment="Empty: for all"),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("value", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("namespace", "name", name=op.f("pk_store_settings")),
        schema=schema,
        comment="max_idle: microseconds after which unused sessions are swept. prices: grows when prices change",
    )

    for statement in views():
        # DDL, not text: a colon in a schema's name is no parameter.
        op.execute(sa.DDL(statement.replace("%", "%%")))


def downgrade() -> None:
    """Drop the views and the ledger: what deleted entries used is lost. Live entries keep what they used."""
    schema = op.get_context().version_table_schema
    for view in reversed(VIEWS):
        op.execute(sa.DDL(f"DROP VIEW {prefix()}{view}".replace("%", "%%")))
    for table in ("store_settings", "model_prices", "usage_ledger"):
        op.drop_table(table, schema=schema)


def views() -> list[str]:
    """The statements of the SQL file beside this one, for this database and schema."""
    file = Path(__file__).with_name(f"0003_views_{op.get_context().dialect.name}.sql")
    return [part.replace("{s}", prefix()).strip() for part in file.read_text().split(";\n") if part.strip()]


def prefix() -> str:
    schema = op.get_context().version_table_schema
    if not schema:
        return ""
    return '"' + schema.replace('"', '""') + '".'
