"""Migrations of a day to come, so that what 0001 alone cannot show is tested: two steps, a rebuilt table, a failure."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from statestore import migrate

CHECKOUT = Path(__file__).resolve().parents[2]

AddMigration = Callable[[str], str]

HEADER = '''"""{message}."""

import sqlalchemy as sa
from alembic import op

revision = "{revision}"
down_revision = "{down_revision}"


'''

# On SQLite the batch copies the table and drops the old one.
ADD_COLUMN = """
def upgrade():
    schema = op.get_context().version_table_schema
    with op.batch_alter_table("sessions", schema=schema, recreate="auto") as batch:
        batch.add_column(sa.Column("colour", sa.String(16), nullable=False, server_default="blue"))
        batch.alter_column("cwd", existing_type=sa.Text(), type_=sa.String(4096))


def downgrade():
    schema = op.get_context().version_table_schema
    with op.batch_alter_table("sessions", schema=schema) as batch:
        batch.alter_column("cwd", existing_type=sa.String(4096), type_=sa.Text())
        batch.drop_column("colour")
"""

ADD_MORE = """
def upgrade():
    schema = op.get_context().version_table_schema
    op.create_table("more", sa.Column("id", sa.Integer(), primary_key=True), schema=schema)
    op.add_column("sessions", sa.Column("mood", sa.Text()), schema=schema)
    op.create_index("ix_mood", "sessions", ["mood"], schema=schema)


def downgrade():
    schema = op.get_context().version_table_schema
    op.drop_index("ix_mood", "sessions", schema=schema)
    op.drop_column("sessions", "mood", schema=schema)
    op.drop_table("more", schema=schema)
"""

NOTHING = """
def upgrade():
    pass


def downgrade():
    pass
"""

ADD_INDEX_CONCURRENTLY = """
def upgrade():
    schema = op.get_context().version_table_schema
    with op.get_context().autocommit_block():
        op.create_index("ix_later", "sessions", ["title"], schema=schema, postgresql_concurrently=True)


def downgrade():
    schema = op.get_context().version_table_schema
    with op.get_context().autocommit_block():
        op.drop_index("ix_later", "sessions", schema=schema, postgresql_concurrently=True)
"""

FAIL_HALFWAY = """
def upgrade():
    schema = op.get_context().version_table_schema
    op.create_table("halfway", sa.Column("id", sa.Integer(), primary_key=True), schema=schema)
    op.drop_table("no_such_table", schema=schema)


def downgrade():
    pass
"""

LOSE_PARENTS = """
def upgrade():
    schema = op.get_context().version_table_schema
    op.execute(sa.table("sessions", schema=schema).delete())


def downgrade():
    pass
"""


@pytest.fixture
def scripts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the migrations, in the place of the real ones."""
    copy = tmp_path / "50% later" / "migrations"
    shutil.copytree(CHECKOUT / "migrations", copy, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(migrate, "script_location", lambda: copy)
    return copy


@pytest.fixture
def add_migration(scripts: Path) -> AddMigration:
    """Add a migration behind the last one. Its number is returned."""

    def add(body: str) -> str:
        previous = migrate.history()[-1].revision
        revision = f"{int(previous) + 1:04d}"
        header = HEADER.format(message=f"Do {revision}", revision=revision, down_revision=previous)
        (scripts / "versions" / f"{revision}_later.py").write_text(header + body.lstrip())
        return revision

    return add
