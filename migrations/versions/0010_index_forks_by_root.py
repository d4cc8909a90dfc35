"""Index forks by the root of their family: who may have a row of the same entry is found without its ancestors."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

# The rows are found without it, too.
oldest_code = "0005"

INDEX = "ix_sessions_root_session_id_namespace"


def upgrade() -> None:
    context = op.get_context()
    if context.dialect.name == "postgresql" and context.opts.get("transaction_per_migration"):
        # All sessions are looked at, so it is done while they can be used. If that fails, the next try begins anew.
        with context.autocommit_block():
            schema = context.version_table_schema
            op.drop_index(op.f(INDEX), "sessions", schema=schema, if_exists=True, postgresql_concurrently=True)
            create_index(if_not_exists=True, postgresql_concurrently=True)
    else:
        create_index()


def downgrade() -> None:
    """Drop the index. No data is lost."""
    op.drop_index(op.f(INDEX), "sessions", schema=op.get_context().version_table_schema)


def create_index(*, if_not_exists: bool | None = None, postgresql_concurrently: bool = False) -> None:
    condition = sa.text("root_session_id <> session_id")
    op.create_index(
        op.f(INDEX),
        "sessions",
        ["root_session_id", "namespace"],
        schema=op.get_context().version_table_schema,
        if_not_exists=if_not_exists,
        postgresql_where=condition,
        postgresql_concurrently=postgresql_concurrently,
        sqlite_where=condition,
    )
