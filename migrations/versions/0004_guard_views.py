"""Let report views show what their reader may see, let lineage end, and say which code may use the schema."""

from pathlib import Path

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

# Code up to 0003 refuses every schema but its own.
oldest_code = "0004"

# Unchanged but for whose rights count.
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
)


def upgrade() -> None:
    context = op.get_context()
    op.add_column(
        context.version_table,
        sa.Column("oldest_code", sa.String(32), comment="The oldest revision whose code may use the schema"),
        schema=context.version_table_schema,
    )
    if context.dialect.name == "postgresql":
        # A view has the rights of its owner, whom row-level security does not hold; from here on those of its reader.
        # Altered and replaced, not made anew: grants, and views of others that stand on these, stay.
        for view in VIEWS:
            execute(f"ALTER VIEW {prefix()}{view} SET (security_invoker = true)")
    else:
        execute(f"DROP VIEW {prefix()}session_lineage")
    execute(statement("0004_lineage"))


def downgrade() -> None:
    """Put the views of 0003 back. No data is lost."""
    context = op.get_context()
    lineage = statement("0003_views", "session_lineage")
    if context.dialect.name == "postgresql":
        for view in (*VIEWS, "session_lineage"):
            execute(f"ALTER VIEW {prefix()}{view} RESET (security_invoker)")
        lineage = lineage.replace("CREATE VIEW", "CREATE OR REPLACE VIEW", 1)
    else:
        execute(f"DROP VIEW {prefix()}session_lineage")
    execute(lineage)
    op.drop_column(context.version_table, "oldest_code", schema=context.version_table_schema)


def statement(file: str, view: str = "") -> str:
    """The statement that makes *view*, from an SQL file beside this one, for this database and schema."""
    path = Path(__file__).with_name(f"{file}_{op.get_context().dialect.name}.sql")
    [found] = [part for part in path.read_text().split(";\n") if f"VIEW {{s}}{view}" in part]
    return found.replace("{s}", prefix()).strip()


def execute(statement: str) -> None:
    # DDL, not text: a colon in a schema's name is no parameter.
    op.execute(sa.DDL(statement.replace("%", "%%")))


def prefix() -> str:
    schema = op.get_context().version_table_schema
    if not schema:
        return ""
    return '"' + schema.replace('"', '""') + '".'
