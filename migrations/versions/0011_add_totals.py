"""Let the sums of what was used have sums of their own: of all sessions, and by what reports are by most often.

The sweep keeps them beside those of sessions from the first one on. So it makes all sums anew: until it has, reports
are made from the entries.
"""

import tomllib
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

# A sweep by older code would change the sums of sessions, and not those.
oldest_code = "0011"


def upgrade() -> None:
    context = op.get_context()
    schema, on_postgresql = context.version_table_schema, context.dialect.name == "postgresql"
    comments = tomllib.loads(Path(__file__).with_name("0011_comments.toml").read_text())["usage_rollup"]
    added = {"priced": sa.BigInteger(), "total_duration_us": sa.Numeric(30, 0).with_variant(sa.BigInteger(), "sqlite")}
    for name, kind in added.items():
        column: sa.Column[Any] = sa.Column(name, kind, comment=comments[name] if on_postgresql else None)
        op.add_column("usage_rollup", column, schema=schema, if_not_exists=on_postgresql or None)
    if on_postgresql:
        for column in ("kind", "part"):
            execute(f"COMMENT ON COLUMN {prefix()}usage_rollup.{column} IS '{comments[column]}'")
    execute(f"DELETE FROM {prefix()}usage_rollup_state")


def downgrade() -> None:
    """Drop what is summed of all sessions. No data is lost."""
    kinds = "'of_all', 'of_user', 'of_agent', 'of_model', 'of_tool'"
    execute(f"DELETE FROM {prefix()}usage_rollup WHERE kind IN ({kinds})")
    for name in ("total_duration_us", "priced"):
        op.drop_column("usage_rollup", name, schema=op.get_context().version_table_schema)


def execute(statement: str) -> None:
    # DDL, not text: a colon in a schema's name is no parameter.
    op.execute(sa.DDL(statement.replace("%", "%%")))


def prefix() -> str:
    schema = op.get_context().version_table_schema
    return '"' + schema.replace('"', '""') + '".' if schema else ""
