"""${message.capitalize()}.

The policy, for every migration; delete it here once you have followed it:

- Once released, a migration is never edited; add another. Name it NNNN_verb_noun.py.
- It imports nothing from statestore: the package changes, this file does not. Types are spelled out for both databases.
- Tables are named with `schema=schema`, never found through the search path.
- Additive first. What the previous release reads or writes stays until a later release: old and new processes run
  side by side while a deployment rolls out. A new column is nullable or has a constant default.
- `oldest_code` below is the oldest revision whose code may use the result; env.py writes it beside the revision, and
  code refuses a newer schema that is not for it any more. As it is generated it says that no older code may. Where
  the migration only adds something that older code need not know, take the value of the migration before; where it
  takes away what code since revision NNNN no longer uses, NNNN.
- An index on a table that has rows, on PostgreSQL, is built without stopping the writers:

      with op.get_context().autocommit_block():
          op.create_index(..., postgresql_concurrently=True, if_not_exists=True)

  The block commits what came before it, so it stands alone in its migration. A build that was broken off leaves an
  invalid index behind: drop it first, `if_exists=True`.
- `history_entries` and `cache_entries` may be partitioned on PostgreSQL (relkind p in pg_class): there an index is made
  with CREATE INDEX ON ONLY the table, CONCURRENTLY on each partition, and ALTER INDEX … ATTACH PARTITION.
- A constraint is added with `postgresql_not_valid=True` and validated (ALTER TABLE … VALIDATE CONSTRAINT) in the next
  migration: in the same transaction the validation would keep everybody out until it ends.
- SQLite alters tables by copying them: `with op.batch_alter_table(..., schema=schema)`. Foreign keys are off meanwhile
  and checked before the commit. A table is renamed that way too: ALTER TABLE … RENAME leaves those that refer to it.
- Views that show what changes are dropped first and made anew. PostgreSQL insists, SQLite would not notice.
- Rows are rewritten in batches, not in one UPDATE.
- `downgrade` restores the structure; say here what data it loses.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op
${imports if imports else ""}
revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
branch_labels = ${repr(branch_labels)}
depends_on = ${repr(depends_on)}

oldest_code = ${repr(up_revision)}


def upgrade() -> None:
    schema = op.get_context().version_table_schema
    ${upgrades if upgrades else "pass"}


def downgrade() -> None:
    schema = op.get_context().version_table_schema
    ${downgrades if downgrades else "pass"}
