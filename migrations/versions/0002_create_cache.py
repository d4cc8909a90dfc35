"""Create the tables of the result cache: entries, their tags, its ledger, and who computes what."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

KEY = sa.String(512).with_variant(sa.String(512, collation="C"), "postgresql")
JSON = postgresql.JSON().with_variant(sa.Text(), "sqlite")
TIME = sa.DateTime(timezone=True).with_variant(sa.String(27), "sqlite")
DAY = sa.Date().with_variant(sa.String(10), "sqlite")

# A cache lives on rows that come and go.
VACUUM_EARLY = {"autovacuum_vacuum_scale_factor": "0.05", "autovacuum_analyze_scale_factor": "0.05"}

COUNTERS = (
    "hits",
    "misses",
    "sets",
    "evictions",
    "expirations",
    "invalidations_key",
    "invalidations_tag",
    "invalidations_agent",
    "invalidations_content_hash",
    "invalidations_clear",
)


def upgrade() -> None:
    schema = op.get_context().version_table_schema
    postgresql = op.get_context().dialect.name == "postgresql"
    entries = f"{schema}.cache_entries" if schema else "cache_entries"

    op.create_table(
        "cache_entries",
        sa.Column("namespace", KEY, nullable=False),
        sa.Column("key", KEY, nullable=False),
        sa.Column("value", sa.LargeBinary(), nullable=False, comment="Read it by its codec"),
        sa.Column("codec", sa.String(16), nullable=False, comment="json, str or bytes; +zstd where compressed"),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False, comment="Of the value as it is stored"),
        sa.Column("agent_name", KEY),
        sa.Column("request", JSON),
        sa.Column("content_hash", KEY),
        sa.Column("metadata", JSON),
        sa.Column("version", sa.BigInteger(), nullable=False, comment="Of this write; its tags carry it too"),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("expires_at", TIME, comment="A miss from here on; NULL for never"),
        sa.Column("keep_until", TIME, comment="May be deleted from here on: expires_at and the time it may be stale"),
        sa.Column("last_accessed_at", TIME, nullable=False),
        sa.Column("access_seq", sa.BigInteger(), nullable=False, comment="Orders accesses at the same time"),
        sa.Column("access_count", sa.BigInteger(), nullable=False, server_default="0"),
        *([] if postgresql else [sa.PrimaryKeyConstraint("namespace", "key", name=op.f("pk_cache_entries"))]),
        sa.CheckConstraint(
            "(expires_at IS NULL) = (keep_until IS NULL)",
            name=op.f("ck_cache_entries_keep_until"),
        ),
        schema=schema,
        comment="Results that are kept for a while",
    )
    set_storage("cache_entries", VACUUM_EARLY)
    create_index("cache_entries", "namespace", "last_accessed_at", "access_seq")
    create_index("cache_entries", "namespace", "keep_until", where="keep_until IS NOT NULL")
    create_index("cache_entries", "namespace", "agent_name", where="agent_name IS NOT NULL")
    create_index("cache_entries", "namespace", "content_hash", where="content_hash IS NOT NULL")
    if postgresql:
        # Last: of indexes that look equally good, as all do as long as there are no statistics, PostgreSQL takes the
        # youngest. The check of the tags' foreign key keeps its first plan for as long as a connection lasts.
        op.create_primary_key(op.f("pk_cache_entries"), "cache_entries", ["namespace", "key"], schema=schema)

    op.create_table(
        "cache_tags",
        sa.Column("namespace", KEY, nullable=False),
        sa.Column("tag", KEY, nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False, comment="Of the entry that was written with the tag"),
        sa.Column("key", KEY, nullable=False),
        sa.PrimaryKeyConstraint("namespace", "tag", "version", name=op.f("pk_cache_tags")),
        sa.ForeignKeyConstraint(
            ["namespace", "key"],
            [f"{entries}.namespace", f"{entries}.key"],
            name=op.f("fk_cache_tags_namespace_key"),
            ondelete="CASCADE",
        ),
        schema=schema,
        comment="By what an entry can be invalidated",
    )
    set_storage("cache_tags", VACUUM_EARLY)
    create_index("cache_tags", "key", "namespace")

    op.create_table(
        "cache_ledger",
        sa.Column("namespace", KEY, nullable=False),
        sa.Column("day", DAY, nullable=False, comment="In UTC"),
        sa.Column("agent_name", KEY, nullable=False, server_default="", comment="Empty: of no agent"),
        *(sa.Column(name, sa.BigInteger(), nullable=False, server_default="0") for name in COUNTERS),
        sa.PrimaryKeyConstraint("namespace", "day", "agent_name", name=op.f("pk_cache_ledger")),
        schema=schema,
        comment="What happened in the cache, by day and agent",
    )

    op.create_table(
        "cache_claims",
        sa.Column("namespace", KEY, nullable=False),
        sa.Column("key", KEY, nullable=False),
        sa.Column("token", sa.String(36), nullable=False),
        sa.Column("claimed_until", TIME, nullable=False, comment="Another may compute from here on"),
        sa.PrimaryKeyConstraint("namespace", "key", name=op.f("pk_cache_claims")),
        schema=schema,
        comment="Who computes a missing entry at the moment, so that others wait for it",
    )
    set_storage("cache_claims", VACUUM_EARLY)

    if op.get_context().dialect.name == "postgresql":
        # What is worth compressing was compressed before it came here.
        quoted = (schema or "").replace('"', '""')
        alteration = f'ALTER TABLE "{quoted}".cache_entries ALTER COLUMN value SET STORAGE EXTERNAL'
        op.execute(sa.DDL(alteration.replace("%", "%%")))


def downgrade() -> None:
    """Drop the cache, its statistics included."""
    schema = op.get_context().version_table_schema
    for table in ("cache_claims", "cache_ledger", "cache_tags", "cache_entries"):
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
