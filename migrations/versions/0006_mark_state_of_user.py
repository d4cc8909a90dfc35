"""Let keys of an agent's state be a user's, with whom they are erased."""

import tomllib
from pathlib import Path

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

# Code of 0005 writes no key for a user. What newer code has written beside it stays when that old code erases the user:
# docs and changelog say to erase by new code, once it is deployed.
oldest_code = "0005"

KEY = sa.String(512).with_variant(sa.String(512, collation="C"), "postgresql")
INDEX = "ix_shared_state_user_id_namespace"


def upgrade() -> None:
    context = op.get_context()
    schema = context.version_table_schema
    on_postgresql = context.dialect.name == "postgresql"
    comment = tomllib.loads(Path(__file__).with_name("0006_comments.toml").read_text())["shared_state"]["user_id"]
    op.add_column(
        "shared_state",
        sa.Column("user_id", KEY, comment=comment if on_postgresql else None),
        schema=schema,
        if_not_exists=on_postgresql or None,
    )
    if on_postgresql and context.opts.get("transaction_per_migration"):
        # All rows are looked at, so it is done while the table can be used. If that fails, the next upgrade begins from
        # the start.
        with context.autocommit_block():
            op.drop_index(op.f(INDEX), "shared_state", schema=schema, if_exists=True, postgresql_concurrently=True)
            create_index(if_not_exists=True, postgresql_concurrently=True)
    else:
        create_index()


def downgrade() -> None:
    """Forget whose the keys are. The keys stay."""
    schema = op.get_context().version_table_schema
    op.drop_index(op.f(INDEX), "shared_state", schema=schema)
    op.drop_column("shared_state", "user_id", schema=schema)


def create_index(*, if_not_exists: bool | None = None, postgresql_concurrently: bool = False) -> None:
    condition = sa.text("user_id IS NOT NULL")
    op.create_index(
        op.f(INDEX),
        "shared_state",
        ["user_id", "namespace"],
        schema=op.get_context().version_table_schema,
        if_not_exists=if_not_exists,
        postgresql_where=condition,
        postgresql_concurrently=postgresql_concurrently,
        sqlite_where=condition,
    )
