"""The SQL by which a table gets partitions; see `statestore.partitioning`. PostgreSQL only.

Questions to the catalog are constants, with parameters as psycopg takes them. What changes something is made by `Names`
from names that are ours, or that the catalog has quoted.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from statestore.schema.naming import quoted
from statestore.schema.partitions import KEYS, PROGRESS_TABLE

SET_TIMEOUTS = """
    SELECT set_config(name, CASE name WHEN 'lock_timeout' THEN %(lock_timeout)s ELSE '0' END, true),
        set_config('search_path', 'pg_catalog', true)
    FROM pg_settings WHERE name IN
        ('lock_timeout', 'statement_timeout', 'transaction_timeout', 'idle_in_transaction_session_timeout')"""

SIZE = """
    SELECT greatest(coalesce(sum(c.reltuples), 0), 0)::bigint, coalesce(sum(pg_total_relation_size(c.oid)), 0)::bigint
    FROM pg_class AS c WHERE c.relkind = 'r' AND (c.oid = %(table)s::regclass
        OR c.oid IN (SELECT inhrelid FROM pg_inherits WHERE inhparent = %(table)s::regclass))"""

STORAGE = """
    SELECT pg_relation_filenode(%(table)s::regclass)::bigint,
        pg_relation_size(%(table)s::regclass) / current_setting('block_size')::bigint"""

# Why a table cannot be replaced by another one: what belongs to it, or depends on it, that would not come along.
PROBLEMS = """
    WITH t AS (SELECT c.* FROM pg_class AS c WHERE c.oid = %(table)s::regclass),
    dependent AS (
        SELECT DISTINCT d.classid, d.objid FROM pg_depend AS d, t WHERE d.deptype = 'n'
            AND ((d.refclassid = 'pg_class'::regclass AND d.refobjid = t.oid)
                OR (d.refclassid = 'pg_type'::regclass AND d.refobjid = t.reltype)))
    SELECT 'the extension citus is installed, which divides tables in its own way'
        FROM pg_extension WHERE extname = 'citus'
    UNION ALL SELECT 'it belongs to ' || pg_get_userbyid(t.relowner) || '; run this as its owner'
        FROM t WHERE NOT pg_has_role(t.relowner, 'USAGE')
    UNION ALL SELECT 'it has row-level security' FROM t WHERE t.relrowsecurity
    UNION ALL SELECT 'its replica identity is not the default' FROM t WHERE t.relreplident <> 'd'
    UNION ALL SELECT 'other tables inherit from it' FROM t
        WHERE EXISTS (SELECT FROM pg_inherits WHERE inhparent = t.oid)
    UNION ALL SELECT 'publication ' || p.pubname || ' names it; take it out, and put it back afterwards'
        FROM t JOIN pg_publication_rel AS r ON r.prrelid = t.oid JOIN pg_publication AS p ON p.oid = r.prpubid
    UNION ALL SELECT 'it has the trigger ' || g.tgname FROM t JOIN pg_trigger AS g ON g.tgrelid = t.oid
        WHERE NOT g.tgisinternal
            AND NOT starts_with(g.tgname, 'statestore_') AND NOT starts_with(g.tgname, 'usage_rollup_')
    UNION ALL SELECT 'index ' || x.relname || ' is unique, but not on ' || %(key)s || ' as well'
        FROM t JOIN pg_index AS i ON i.indrelid = t.oid AND i.indisunique JOIN pg_class AS x ON x.oid = i.indexrelid
        WHERE NOT EXISTS (SELECT FROM pg_attribute AS a
            WHERE a.attrelid = t.oid AND a.attname = %(key)s AND a.attnum = ANY (i.indkey))
    UNION ALL SELECT 'foreign key ' || k.conname || ' of table ' || k.conrelid::regclass || ' refers to it'
        FROM t JOIN pg_constraint AS k ON k.confrelid = t.oid AND k.contype = 'f' AND NOT k.conname = ANY (%(ours)s)
    UNION ALL SELECT 'materialized view ' || v.oid::regclass || ' reads it; drop it, and make it again afterwards'
        FROM dependent AS d JOIN pg_rewrite AS r ON d.classid = 'pg_rewrite'::regclass AND r.oid = d.objid
        JOIN pg_class AS v ON v.oid = r.ev_class AND v.relkind = 'm'
    UNION ALL SELECT 'view ' || v.oid::regclass || ' reads it and belongs to ' || pg_get_userbyid(v.relowner)
        FROM dependent AS d JOIN pg_rewrite AS r ON d.classid = 'pg_rewrite'::regclass AND r.oid = d.objid
        JOIN pg_class AS v ON v.oid = r.ev_class AND v.relkind = 'v' WHERE NOT pg_has_role(v.relowner, 'USAGE')
    UNION ALL SELECT pg_describe_object(d.classid, d.objid, 0) || ' depends on it' FROM dependent AS d
        WHERE d.classid NOT IN ('pg_rewrite'::regclass, 'pg_constraint'::regclass) AND NOT EXISTS (
            SELECT FROM pg_trigger AS g WHERE d.classid = 'pg_trigger'::regclass AND g.oid = d.objid
                AND starts_with(g.tgname, 'usage_rollup_'))"""

# Relations that have the name of a partition or of what is needed on the way.
TAKEN = """
    SELECT c.relname FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
    WHERE n.nspname = %(schema)s AND c.relname ~ %(pattern)s AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
    ORDER BY c.relname LIMIT 1"""

OWNER = """
    SELECT CASE WHEN c.relowner <> current_user::regrole THEN quote_ident(pg_get_userbyid(c.relowner)) END,
        coalesce(array_to_string(c.reloptions, ', '), ''), quote_literal(obj_description(c.oid, 'pg_class'))
    FROM pg_class AS c WHERE c.oid = %(table)s::regclass"""

INDEXES = """
    SELECT c.relname, i.indisunique, pg_get_indexdef(i.indexrelid), pg_get_constraintdef(k.oid)
    FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indexrelid
    LEFT JOIN pg_constraint AS k ON k.conindid = i.indexrelid AND k.conrelid = i.indrelid AND k.contype IN ('p', 'u')
    WHERE i.indrelid = %(table)s::regclass AND i.indisvalid
    ORDER BY c.relname COLLATE "C\""""

COLUMNS_AGREE = """
    SELECT (SELECT array_agg(ROW(a.attname, a.atttypid, a.atttypmod, a.attnotnull, a.attcollation) ORDER BY a.attnum)
            FROM pg_attribute AS a WHERE a.attrelid = %(table)s::regclass AND a.attnum > 0 AND NOT a.attisdropped)
        = (SELECT array_agg(ROW(a.attname, a.atttypid, a.atttypmod, a.attnotnull, a.attcollation) ORDER BY a.attnum)
            FROM pg_attribute AS a WHERE a.attrelid = %(copy)s::regclass AND a.attnum > 0 AND NOT a.attisdropped)
        AND (SELECT count(*) FROM pg_index WHERE indrelid = %(table)s::regclass AND indisvalid)
        = (SELECT count(*) FROM pg_index WHERE indrelid = %(copy)s::regclass)
        AND (SELECT array_agg(conname ORDER BY conname) FROM pg_constraint
            WHERE conrelid = %(table)s::regclass AND contype = 'c')
        IS NOT DISTINCT FROM (SELECT array_agg(conname ORDER BY conname) FROM pg_constraint
            WHERE conrelid = %(copy)s::regclass AND contype = 'c')"""

PARTITIONS = """
    SELECT quote_ident(c.relname) FROM pg_inherits AS i JOIN pg_class AS c ON c.oid = i.inhrelid
    WHERE i.inhparent = %(table)s::regclass ORDER BY c.relname"""

# With an empty search path, all names in the definitions are qualified.
VIEWS = """
    SELECT DISTINCT v.oid::regclass::text, pg_get_viewdef(v.oid), coalesce(array_to_string(v.reloptions, ', '), '')
    FROM pg_depend AS d JOIN pg_rewrite AS r ON r.oid = d.objid JOIN pg_class AS v ON v.oid = r.ev_class
    WHERE d.classid = 'pg_rewrite'::regclass AND d.refclassid = 'pg_class'::regclass
        AND d.refobjid = %(table)s::regclass AND v.relkind = 'v'
    ORDER BY 1"""

GRANTS = """
    SELECT format('GRANT %%s%%s ON TABLE %%s TO %%s%%s', a.privilege_type, a.columns, %(table)s::text,
        CASE WHEN a.grantee = 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END,
        CASE WHEN a.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END)
    FROM (
        SELECT x.privilege_type, x.grantee, x.is_grantable, '' AS columns, c.relowner
        FROM pg_class AS c, aclexplode(c.relacl) AS x WHERE c.oid = %(table)s::regclass
        UNION ALL SELECT x.privilege_type, x.grantee, x.is_grantable, format(' (%%I)', t.attname), c.relowner
        FROM pg_class AS c JOIN pg_attribute AS t ON t.attrelid = c.oid, aclexplode(t.attacl) AS x
        WHERE c.oid = %(table)s::regclass) AS a
    WHERE a.grantee <> a.relowner"""

# What notes changes for the sums of usage.
TRIGGERS = """
    SELECT pg_get_triggerdef(g.oid) FROM pg_trigger AS g
    WHERE g.tgrelid = %(table)s::regclass AND starts_with(g.tgname, 'usage_rollup_') ORDER BY g.tgname"""

# The columns of the primary keys, with the types of arrays of them.
_PRIMARY = {
    "history_entries": {"namespace": "text", "session_id": "text", "seq": "bigint"},
    "cache_entries": {"namespace": "text", "key": "text"},
}


class _ForeignKey(NamedTuple):
    """The one foreign key that a table has to do with: its own, or that of a table that refers to it."""

    name: str
    table: str
    columns: str
    refers_to: str
    then: str = ""


_FOREIGN_KEYS = {
    "history_entries": _ForeignKey(
        "fk_history_entries_namespace_session_id", "history_entries", "namespace, session_id", "sessions"
    ),
    "cache_entries": _ForeignKey(
        "fk_cache_tags_namespace_key", "cache_tags", "namespace, key", "cache_entries", " ON DELETE CASCADE"
    ),
}
FOREIGN_KEYS = [key.name for key in _FOREIGN_KEYS.values()]


@dataclass(frozen=True, slots=True)
class Facts:
    """What a copy takes over from its table: the owner if that is somebody else, storage options, comment, indexes."""

    owner: str | None
    options: str
    comment: str | None
    indexes: Sequence[tuple[str, bool, str, str | None]]


class Names:
    """The statements for a table of a schema."""

    def __init__(self, schema: str, table: str) -> None:
        self._schema = quoted(schema)
        self._name = table
        self._columns = _PRIMARY[table]
        self._foreign_key = _FOREIGN_KEYS[table]
        self.table = self._in_schema(table)
        self.copy = self._in_schema(f"{table}_copy")
        self._notes = self._in_schema(f"{table}_notes")
        self._note = self._in_schema(f"statestore_note_{table}")
        self._progress = self._in_schema(PROGRESS_TABLE)
        self.pattern = rf"^{table}_(copy|notes|replaced|p[0-9]+)$"

    def _in_schema(self, name: str) -> str:
        return f"{self._schema}.{quoted(name)}"

    def _index(self, number: int) -> str:
        return f"{self._name}_copy_index_{number}"

    # Before the rows are copied

    def make(self, count: int, facts: Facts) -> list[str]:
        """The empty copy."""
        width = len(str(count - 1))
        options = f" WITH ({facts.options})" if facts.options else ""
        partitions = [self._in_schema(f"{self._name}_p{number:0{width}}") for number in range(count)]
        statements = [
            f"""
    CREATE TABLE IF NOT EXISTS {self._progress} (
        table_name text PRIMARY KEY, partitions integer NOT NULL, copied bigint NOT NULL DEFAULT 0,
        filenode bigint, next_block bigint, end_block bigint)""",
            f"""
    CREATE TABLE {self.copy} (LIKE {self.table} INCLUDING ALL EXCLUDING INDEXES)
    PARTITION BY HASH ({KEYS[self._name]})""",
            *(
                f"""
    CREATE TABLE {partition} PARTITION OF {self.copy} FOR VALUES WITH (MODULUS {count}, REMAINDER {number}){options}"""
                for number, partition in enumerate(partitions)
            ),
        ]
        if facts.comment is not None:
            statements.append(f"COMMENT ON TABLE {self.copy} IS {facts.comment}")
        for number, (_, unique, definition, constraint) in enumerate(facts.indexes):
            name = quoted(self._index(number))
            if constraint is not None:
                statements.append(f"ALTER TABLE {self.copy} ADD CONSTRAINT {name} {constraint}")
            else:
                how = re.sub(r"^.*? USING ", "", definition, count=1, flags=re.DOTALL)
                statements.append(f"CREATE {'UNIQUE ' if unique else ''}INDEX {name} ON {self.copy} USING {how}")
        if facts.owner is not None:
            statements += [f"ALTER TABLE {name} OWNER TO {facts.owner}" for name in (self.copy, *partitions)]
        record = f"INSERT INTO {self._progress} (table_name, partitions) VALUES ('{self._name}', {count})"
        return [*statements, record]

    def note_changes(self) -> list[str]:
        """From here on the keys of rows that are written are noted; and which blocks there were by then."""
        columns = ", ".join(self._columns)
        triggers = {
            "insert": "INSERT ON {} REFERENCING NEW TABLE AS new_rows",
            "update": "UPDATE ON {} REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows",
            "delete": "DELETE ON {} REFERENCING OLD TABLE AS old_rows",
            "truncate": "TRUNCATE ON {}",
        }
        return [
            f"CREATE TABLE {self._notes} AS SELECT {columns} FROM {self.table} WITH NO DATA",
            f"ALTER TABLE {self._notes} ADD COLUMN note_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY",
            # For writers who have no rights on the notes.
            f"""
    CREATE FUNCTION {self._note}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp AS $statestore$
    BEGIN
        IF TG_OP = 'TRUNCATE' THEN
            RAISE EXCEPTION '{self._name} is being partitioned and cannot be truncated';
        ELSIF TG_OP = 'INSERT' THEN
            INSERT INTO {self._notes} ({columns}) SELECT {columns} FROM new_rows;
        ELSIF TG_OP = 'DELETE' THEN
            INSERT INTO {self._notes} ({columns}) SELECT {columns} FROM old_rows;
        ELSE
            INSERT INTO {self._notes} ({columns})
                SELECT {columns} FROM old_rows UNION SELECT {columns} FROM new_rows;
        END IF;
        RETURN NULL;
    END $statestore$""",
            *(
                f"CREATE TRIGGER statestore_note_{name} AFTER {event.format(self.table)}"
                f" FOR EACH STATEMENT EXECUTE FUNCTION {self._note}()"
                for name, event in triggers.items()
            ),
            *(f"ALTER TABLE {self.table} ENABLE ALWAYS TRIGGER statestore_note_{name}" for name in triggers),
            f"""
    UPDATE {self._progress} SET next_block = 0, filenode = pg_relation_filenode('{self._literal(self.table)}'),
        end_block = pg_relation_size('{self._literal(self.table)}') / current_setting('block_size')::bigint
    WHERE table_name = '{self._name}'""",
        ]

    @staticmethod
    def _literal(name: str) -> str:
        return name.replace("'", "''")

    # Copying

    def position(self) -> str:
        return f"SELECT * FROM {self._progress} WHERE table_name = '{self._name}'"

    def note_position(self, filenode: int, next_block: int, end_block: int, copied: int) -> str:
        return f"""
    UPDATE {self._progress} SET filenode = {filenode}, next_block = {next_block}, end_block = {end_block},
        copied = copied + {copied} WHERE table_name = '{self._name}'"""

    def copy_blocks(self, begin: int, end: int) -> str:
        return f"""
    INSERT INTO {self.copy} SELECT t.* FROM ONLY {self.table} AS t
    WHERE t.ctid >= '({begin},0)'::tid AND t.ctid < '({end},0)'::tid ON CONFLICT DO NOTHING"""

    def take_notes(self, most: int) -> str:
        return f"""
    DELETE FROM {self._notes} WHERE note_id = ANY (
        ARRAY(SELECT n.note_id FROM {self._notes} AS n ORDER BY n.note_id LIMIT {most}))
    RETURNING {", ".join(self._columns)}"""

    def bring_up_to_date(self) -> list[str]:
        """Make the rows with certain keys what they are in the table."""
        arrays = ", ".join(f"CAST(%(key_{n})s AS {kind}[])" for n, kind in enumerate(self._columns.values()))
        keys = f"unnest({arrays}) AS k ({', '.join(self._columns)})"
        same = " AND ".join(f"t.{name} = k.{name}" for name in self._columns)
        return [
            "SELECT set_config(name, 'off', true) FROM pg_settings"
            " WHERE name IN ('enable_hashjoin', 'enable_mergejoin', 'enable_seqscan')",
            f"DELETE FROM {self.copy} AS t USING {keys} WHERE {same}",
            f"INSERT INTO {self.copy} SELECT t.* FROM {keys} JOIN ONLY {self.table} AS t ON {same}",
        ]

    def compare(self) -> str:
        """How many rows there are, and a sum over all that is in them: of the table, then of its copy."""
        same = " AND ".join(f"n.{name} = t.{name}" for name in self._columns)
        return (
            " UNION ALL ".join(
                f"""
    SELECT count(*), sum(hashtextextended(CAST(t AS text), 0)::numeric), {place} AS place FROM {source} AS t
    WHERE NOT EXISTS (SELECT FROM {self._notes} AS n WHERE {same})"""
                for place, source in enumerate((f"ONLY {self.table}", self.copy))
            )
            + " ORDER BY place"
        )

    # The swap, and what comes after it

    def lock(self) -> list[str]:
        if self._name == "cache_entries":
            tables = ((self.table, "ACCESS EXCLUSIVE"), (self._in_schema("cache_tags"), "ACCESS EXCLUSIVE"))
        else:
            # In the order in which writers take them.
            tables = ((self._in_schema("sessions"), "SHARE ROW EXCLUSIVE"), (self.table, "ACCESS EXCLUSIVE"))
        return [f"LOCK TABLE {table} IN {mode} MODE" for table, mode in tables]

    def views(self, views: Sequence[tuple[str, str, str]]) -> list[str]:
        """Views as they are, over the tables that now have the names in them. Grants and comments stay."""
        return [
            f"CREATE OR REPLACE VIEW {name}{f' WITH ({options})' if options else ''} AS {definition}"
            for name, definition, options in views
        ]

    def swap(
        self,
        views: Sequence[tuple[str, str, str]],
        indexes: Sequence[str],
        afterwards: Sequence[str],
        partitions: Sequence[str],
    ) -> list[str]:
        """The copy takes the place of the table, which is dropped; its grants and triggers come *afterwards*."""
        replaced = f"{self._name}_replaced"
        key = self._foreign_key
        begins = f"ADD CONSTRAINT {key.name} FOREIGN KEY ({key.columns})"
        refers = f"REFERENCES {self._in_schema(key.refers_to)} ({key.columns}){key.then}"
        # Valid for new rows at once. A table with partitions cannot have such a key before PostgreSQL 18; they can.
        of = (
            [f"{self._schema}.{name}" for name in partitions]
            if key.table == self._name
            else [self._in_schema(key.table)]
        )
        dropped = [] if key.table == self._name else [f"ALTER TABLE {of[0]} DROP CONSTRAINT {key.name}"]
        return [
            *dropped,
            f"ALTER TABLE {self.table} RENAME TO {replaced}",
            f"ALTER TABLE {self.copy} RENAME TO {self._name}",
            *self.views(views),
            f"DROP TABLE {self._in_schema(replaced)}",
            f"DROP FUNCTION {self._note}()",
            f"DROP TABLE {self._notes}",
            *(
                f"ALTER INDEX {self._in_schema(self._index(number))} RENAME TO {quoted(name)}"
                for number, name in enumerate(indexes)
            ),
            *(f"ALTER TABLE {table} {begins} {refers} NOT VALID" for table in of),
            *afterwards,
        ]

    def validate(self, partitions: Sequence[str]) -> list[str]:
        key = self._foreign_key
        if key.table != self._name:
            return [f"ALTER TABLE {self._in_schema(key.table)} VALIDATE CONSTRAINT {key.name}"]
        whole = f"""
    DO $statestore$ BEGIN
        IF NOT EXISTS (SELECT FROM pg_constraint
                WHERE conrelid = '{self._literal(self.table)}'::regclass AND conname = '{key.name}') THEN
            LOCK TABLE {self._in_schema(key.refers_to)} IN SHARE ROW EXCLUSIVE MODE;
            ALTER TABLE {self.table} ADD CONSTRAINT {key.name} FOREIGN KEY ({key.columns})
                REFERENCES {self._in_schema(key.refers_to)} ({key.columns}){key.then};
        END IF;
    END $statestore$"""
        names = [f"{self._schema}.{quoted(name)}" for name in partitions]
        return [*(f"ALTER TABLE {name} VALIDATE CONSTRAINT {key.name}" for name in names), whole]

    def finish(self) -> list[str]:
        return [
            f"DELETE FROM {self._progress} WHERE table_name = '{self._name}'",
            f"""
    DO $statestore$ BEGIN
        IF NOT EXISTS (SELECT FROM {self._progress}) THEN DROP TABLE {self._progress}; END IF;
    END $statestore$""",
        ]

    def drop(self) -> list[str]:
        """Everything that was made for the table."""
        return [
            f"DROP FUNCTION IF EXISTS {self._note}() CASCADE",
            f"DROP TABLE IF EXISTS {self._notes}",
            f"DROP TABLE IF EXISTS {self.copy}",
            *self.finish(),
        ]
