"""Index sessions by namespace first: a page of a small namespace does not go through the sessions of all others."""

from typing import Any

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

# The same rows are found by other indexes.
oldest_code = "0005"

OLD = ("active_hour", "namespace"), ("created_at", "namespace")
NEW = ("namespace", "active_hour"), ("namespace", "created_at")


def upgrade() -> None:
    replace(OLD, NEW)


def downgrade() -> None:
    """Put the indexes of before back. No data is lost."""
    replace(NEW, OLD)


def replace(before: tuple[tuple[str, str], ...], after: tuple[tuple[str, str], ...]) -> None:
    context = op.get_context()
    if context.dialect.name == "postgresql" and context.opts.get("transaction_per_migration"):
        # All rows are looked at, so it is done while the table can be used. If that fails, the next try begins anew.
        with context.autocommit_block():
            for columns in after:
                drop(columns, if_exists=True, postgresql_concurrently=True)
                create(columns, if_not_exists=True, postgresql_concurrently=True)
            for columns in before:
                drop(columns, if_exists=True, postgresql_concurrently=True)
        return
    for columns in after:
        create(columns)
    for columns in before:
        drop(columns)


def name(columns: tuple[str, str]) -> str:
    return op.f(f"ix_sessions_{'_'.join(columns)}")


def create(columns: tuple[str, str], **how: Any) -> None:
    op.create_index(name(columns), "sessions", list(columns), schema=op.get_context().version_table_schema, **how)


def drop(columns: tuple[str, str], **how: Any) -> None:
    op.drop_index(name(columns), "sessions", schema=op.get_context().version_table_schema, **how)
