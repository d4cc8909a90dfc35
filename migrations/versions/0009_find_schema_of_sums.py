"""Let the triggers that note changes for the sums of usage find the schema that they are in.

The functions of 0007 name it, and ALTER SCHEMA … RENAME leaves them looking for one that is gone: from then on, what
is changed late is refused. Now they take the schema of the table that calls them. It is behind pg_catalog on the search
path, and only triggers on our own tables may call them, so nobody can put something else in its place.
"""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

# The triggers call the same functions, which do the same.
oldest_code = "0005"

# The tables of what was used, and the columns with their times.
SOURCES = {"history_entries": "created_at", "usage_records": "created_at", "usage_ledger": "bucket_at"}
TRANSACTION = "CAST(CAST(pg_current_xact_id() AS text) AS bigint)"
ANY_TIME = "current_setting('transaction_isolation') <> 'read committed'"
PARTS = "('session', coalesce({0}.session_id, '')), ('day', to_char({0}.{1} AT TIME ZONE 'UTC', 'YYYY-MM-DD'))"


def upgrade() -> None:
    # The settings of a function are put back when it ends.
    found = "\n        PERFORM set_config('search_path', format('pg_catalog, %I, pg_temp', TG_TABLE_SCHEMA), true);"
    replace_functions(found, "")


def downgrade() -> None:
    """Name the schema in the functions, as it is called now. No data is lost."""
    replace_functions("", quoted(op.get_context().version_table_schema))


def replace_functions(first: str, prefix: str) -> None:
    """*first* comes before all else in each of them; *prefix* is what they call the schema."""
    context = op.get_context()
    if context.dialect.name != "postgresql":
        return
    for name, body in bodies(prefix).items():
        statement = f"""CREATE OR REPLACE FUNCTION {quoted(context.version_table_schema)}usage_rollup_note_{name}()
        RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $statestore$
    BEGIN{first}{body}
        RETURN NULL;
    END $statestore$"""
        # DDL, not text: a colon in a schema's name is no parameter.
        op.execute(sa.DDL(statement.replace("%", "%%")))


def bodies(prefix: str) -> dict[str, str]:
    into = f"INSERT INTO {prefix}usage_rollup_changes (namespace, kind, part, change_id)"
    announced = (
        f"EXISTS (SELECT 1 FROM {prefix}usage_rollup_state AS t"
        " WHERE t.namespace = {0}.namespace AND t.announced_until > {0}.{1})"
    )
    found = {
        "late": f"""
        IF {ANY_TIME} OR {announced.format("NEW", "created_at")} THEN
            {into} SELECT NEW.namespace, v.kind, v.part, {TRANSACTION}
            FROM (VALUES {PARTS.format("NEW", "created_at")}) AS v (kind, part) ON CONFLICT DO NOTHING;
        END IF;""",
        "truncated": f"\n        DELETE FROM {prefix}usage_rollup_state;",
        "sessions": f"""
        {into}
        SELECT NEW.namespace, 'session', NEW.session_id, {TRANSACTION}
        UNION SELECT NEW.namespace, 'day', to_char(h.created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD'), {TRANSACTION}
        FROM {prefix}history_entries AS h WHERE h.namespace = NEW.namespace AND h.session_id = NEW.session_id
        ON CONFLICT DO NOTHING;""",
    }
    for table, at in SOURCES.items():
        note = f"""{into}
            SELECT DISTINCT c.namespace, v.kind, v.part, {TRANSACTION}
            FROM {{0}} AS c CROSS JOIN LATERAL (VALUES {PARTS.format("c", at)}) AS v (kind, part)
            WHERE {ANY_TIME} OR {announced.format("c", at)} ON CONFLICT DO NOTHING;"""
        names = f"SELECT namespace, session_id, {at} FROM changed"
        found[table] = f"""
        IF TG_OP = 'INSERT' THEN {note.format("changed_new")}
        ELSIF TG_OP = 'DELETE' THEN {note.format("changed_old")}
        ELSE {note.format(f"({names}_old UNION {names}_new)")}
        END IF;"""
    return found


def quoted(schema: str | None) -> str:
    return '"' + schema.replace('"', '""') + '".' if schema else ""
