"""Checks of the schema: its revision, its tables, indexes and constraints, and who may use them."""

from collections.abc import Collection, Iterator
from typing import Any

from sqlalchemy import CheckConstraint, Constraint, ForeignKeyConstraint, Index, MetaData, Table
from sqlalchemy.schema import AddConstraint, CreateIndex

from statestore import schema
from statestore.doctor.checks import check, found, mendable, size, some
from statestore.doctor.findings import Finding
from statestore.doctor.patient import Patient
from statestore.schema import comparison, prefixes, revisions
from statestore.schema.naming import quoted

_BUSY = 100
"""How often a table's indexes must have been used before one that never was counts as unused."""


@check("schema")
def revision(patient: Patient) -> Iterator[Finding]:
    """Which revision it has, and whether this version may use it."""
    found_revision = revisions.read(patient.connection, patient.schema, patient.table_prefix)
    head, up = revisions.head(), patient.command("migrate up")
    if found_revision is None:
        yield found("schema", "fail", "there are no tables of statestore", up)
    elif found_revision.revision == head:
        oldest = found_revision.oldest_code or head
        older = "" if oldest == head else f"; versions from revision {oldest} on may use it too"
        yield found("schema", "ok", f"at revision {head}, the one of this version{older}")
    elif found_revision.is_usable:
        newer = f"at revision {found_revision.revision}: newer than this version, {head}, which may use it"
        yield found("schema", "ok", f"{newer}; a rolling upgrade is under way")
    elif found_revision.is_newer:
        needed = found_revision.oldest_code or found_revision.revision
        what = f"at revision {found_revision.revision}, which needs a statestore that knows {needed}"
        yield found("schema", "fail", f"{what}; this one knows {head}", "pip install --upgrade statestore")
    else:
        yield found("schema", "fail", f"at revision {found_revision.revision}; this version works with {head}", up)


@check("tables", needs=(schema.VERSION_TABLE,))
def tables(patient: Patient) -> Iterator[Finding]:
    """Tables, columns and views against those of the code. Indexes and constraints have checks of their own."""
    if not _is_ours(patient):
        return  # What differs follows from that.
    lines = comparison.differences(patient.connection, patient.schema, patient.table_prefix)
    wrong = [line for line in lines if line.startswith(("table ", "column ")) and not line.endswith("not expected")]
    if not patient.on_postgresql:
        wrong += [line for line in lines if line.startswith(("check ", "fk ")) and line.endswith("missing")]
    wrong += [f"view {patient.table_prefix}{name}: missing" for name in schema.VIEWS if name not in _views(patient)]
    if wrong:
        what = f"{some(wrong)}; undo what was changed by hand, or restore a backup"
        yield found("tables", "fail", what)
        return
    added = [line.partition(":")[0] for line in lines if line.endswith("not expected")]
    yield found("tables", "ok", "as they should be" + (f", with additions: {some(added)}" if added else ""))


def _is_ours(patient: Patient) -> bool:
    """Whether the schema is at a revision of this code. Before, what is missing is made by the migrations."""
    at = revisions.read(patient.connection, patient.schema, patient.table_prefix)
    return at is not None and at.is_usable


def _views(patient: Patient) -> set[str]:
    if not patient.on_postgresql:
        return patient.names("view")
    return {name for (name,) in patient.rows("SELECT viewname FROM pg_views WHERE schemaname = :schema")}


def _model(patient: Patient) -> dict[str, Table]:
    """The tables of the code in the patient's schema, as far as the database has them."""
    if not patient.on_postgresql:
        return {name: table for name, table in schema.metadata.tables.items() if name in patient.tables}
    copies = MetaData(naming_convention=schema.metadata.naming_convention)
    made = {table.name: table.to_metadata(copies, schema=patient.schema) for table in schema.metadata.sorted_tables}
    return {name: table for name, table in made.items() if name in patient.tables}


@check("indexes", needs=(schema.VERSION_TABLE,))
def indexes(patient: Patient) -> Iterator[Finding]:
    """Those that are missing, are not what they should be, or were left unfinished by CREATE INDEX CONCURRENTLY."""
    model = {str(index.name): (table, index) for table in _model(patient).values() for index in table.indexes}
    if patient.on_postgresql:
        there = {row.name: row for row in _postgresql_indexes(patient)}
    else:
        there = dict.fromkeys(patient.names("index"))
    ours = _is_ours(patient)
    missing = [name for name in model if name not in there] if ours else []
    invalid = [name for name, row in there.items() if row is not None and not row.valid]
    other = [name for name in _unlike(patient, model) if name in there and name not in invalid] if ours else []
    parted = {row.name for row in _partitioned(patient)} if patient.on_postgresql else set()
    of_parts = {name for name, (table, _) in model.items() if table.name in parted}
    dropped = [_drop(patient, name, concurrently=name not in of_parts) for name in (*invalid, *other)]
    again = [*missing, *other, *(name for name in invalid if name in model)]
    created = [_create(patient, model[name][1], concurrently=name not in of_parts) for name in again]
    if not missing and not invalid and not other:
        if ours:
            yield found("indexes", "ok", f"all {len(model)} are there")
        return
    wrong = {"missing": missing, "not what it should be": other, "left unfinished": invalid}
    what = [f"{how}: {some(names)}" for how, names in wrong.items() if names]
    what = [*what, "reads are slow, or what they keep unique is not"]
    owner = _owner(patient)
    yield mendable(patient, "indexes", "fail", "; ".join(what), [*dropped, *created], as_role=owner)


def _unlike(patient: Patient, model: Collection[str]) -> list[str]:
    """Of the indexes of the code, those that the database does not have as they are there."""
    lines = comparison.differences(patient.connection, patient.schema, patient.table_prefix)
    said = {line.rpartition(".")[2] for line in lines if line.startswith("index ") and line.endswith(": missing")}
    return [name for name in model if f"{name}: missing" in said]


def _drop(patient: Patient, name: str, *, concurrently: bool) -> str:
    if not patient.on_postgresql:
        return f"DROP INDEX {quoted(patient.prefix + name)}"
    return f"DROP INDEX {'CONCURRENTLY ' * concurrently}{patient.prefix}{quoted(name)}"


def _create(patient: Patient, index: Index, *, concurrently: bool) -> str:
    dialect = patient.connection.dialect
    sql = str(CreateIndex(index).compile(dialect=dialect)).replace("\n", " ").strip()
    if patient.on_postgresql and concurrently:  # Nobody is kept from writing.
        sql = sql.replace(" INDEX ", " INDEX CONCURRENTLY ", 1)
    return prefixes.prefixed(sql, patient.table_prefix)


def _postgresql_indexes(patient: Patient) -> list[Any]:
    return patient.rows(
        "SELECT c.relname AS name, t.relname AS owner, i.indisvalid AND i.indisready AS valid,"
        " coalesce(u.idx_scan, 0) AS scans, pg_relation_size(c.oid) AS bytes,"
        " EXISTS (SELECT FROM pg_constraint AS k WHERE k.conindid = c.oid) AS constrains,"
        " c.relispartition AS part FROM pg_index AS i"
        " JOIN pg_class AS c ON c.oid = i.indexrelid JOIN pg_class AS t ON t.oid = i.indrelid"
        " JOIN pg_namespace AS n ON n.oid = t.relnamespace"
        " LEFT JOIN pg_stat_user_indexes AS u ON u.indexrelid = c.oid WHERE n.nspname = :schema ORDER BY c.relname"
    )


def _partitioned(patient: Patient) -> list[Any]:
    return patient.rows(
        "SELECT c.relname AS name FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace"
        " WHERE n.nspname = :schema AND c.relkind = 'p'"
    )


@check("unused-indexes", on="postgresql", needs=(schema.VERSION_TABLE,))
def unused_indexes(patient: Patient) -> Iterator[Finding]:
    """Indexes that somebody has added to our tables, that no read uses, and that every write pays for."""
    model = {index.name for table in _model(patient).values() for index in table.indexes}
    found_indexes = [row for row in _postgresql_indexes(patient) if row.owner in schema.metadata.tables]
    busy: dict[str, int] = {}
    for row in found_indexes:
        busy[row.owner] = busy.get(row.owner, 0) + row.scans
    unused = [
        row for row in found_indexes
        if row.name not in model and not row.constrains and not row.part and row.valid and not row.scans
        and busy[row.owner] >= _BUSY
    ]  # fmt: skip
    if unused:
        sql = [f"DROP INDEX CONCURRENTLY {patient.prefix}{quoted(row.name)}" for row in unused]
        what = f"added by hand and never read: {some([f'{row.name} ({size(row.bytes)})' for row in unused])}"
        yield mendable(patient, "unused-indexes", "warn", f"{what}; --fix drops them", sql, as_role=_owner(patient))
    else:
        yield found("unused-indexes", "ok", "no unused indexes")


@check("constraints", on="postgresql", needs=(schema.VERSION_TABLE,))
def constraints(patient: Patient) -> Iterator[Finding]:
    """Those that are missing, not validated or switched off: rows may be there that must not."""
    there = {
        (row.owner, row.name): row.convalidated
        for row in patient.rows(
            "SELECT t.relname AS owner, k.conname AS name, k.convalidated FROM pg_constraint AS k"
            " JOIN pg_class AS t ON t.oid = k.conrelid JOIN pg_namespace AS n ON n.oid = t.relnamespace"
            " WHERE n.nspname = :schema"
        )
    }
    wanted: dict[tuple[str, str], Constraint] = {}
    for name, table in _model(patient).items():
        kinds = (CheckConstraint, ForeignKeyConstraint)
        wanted |= {(name, str(one.name)): one for one in table.constraints if isinstance(one, kinds)}
        wanted[name, str(table.primary_key.name)] = table.primary_key
    ours = _is_ours(patient)
    missing = [key for key in wanted if key not in there] if ours else []
    unchecked = [key for key, valid in there.items() if not valid and key[0] in schema.metadata.tables]
    off = [name for (name,) in patient.rows(
        "SELECT DISTINCT t.relname FROM pg_trigger AS g JOIN pg_class AS t ON t.oid = g.tgrelid"
        " JOIN pg_namespace AS n ON n.oid = t.relnamespace"
        " WHERE n.nspname = :schema AND g.tgisinternal AND g.tgenabled = 'D' ORDER BY 1")]  # fmt: skip
    dialect = patient.connection.dialect
    sql = [" ".join(str(AddConstraint(wanted[key]).compile(dialect=dialect)).split()) for key in missing]
    sql += [
        f"ALTER TABLE {patient.prefix}{quoted(owner)} VALIDATE CONSTRAINT {quoted(name)}" for owner, name in unchecked
    ]
    sql += [f"ALTER TABLE {patient.prefix}{quoted(name)} ENABLE TRIGGER ALL" for name in off]
    if not sql:
        if ours:
            yield found("constraints", "ok", f"all {len(wanted)} are there and hold")
        return
    what = [f"missing: {some([name for _, name in missing])}"] * bool(missing)
    what += [f"not validated: {some([name for _, name in unchecked])}"] * bool(unchecked)
    what += [f"switched off on {some(off)}"] * bool(off)
    # Only a superuser may switch what PostgreSQL has switched on by itself.
    yield mendable(patient, "constraints", "fail", "; ".join(what), sql, as_role=None if off else _owner(patient))


_ALL: tuple[str, ...] = ("SELECT", "INSERT", "UPDATE", "DELETE")
# What docs/guides/production.md takes from the role of the sweep. A role that lacks just that was made so on purpose.
_NOT_THE_SWEEPS = {
    ("INSERT", name) for name in (
        "sessions", "history_entries", "state_entries", "shared_state", "cache_entries", "usage_records",
    )
}  # fmt: skip


@check("grants", on="postgresql", needs=(schema.VERSION_TABLE,))
def grants(patient: Patient) -> Iterator[Finding]:
    """What the role may do with the tables: too little is an error, too much a hint."""
    [role] = [patient.role] if patient.role else patient.one("SELECT current_user")
    if not patient.rows("SELECT FROM pg_roles WHERE rolname = :role", role=role):
        yield found("grants", "fail", f"there is no role {role}")
        return
    views = [name for name in schema.VIEWS if name in _views(patient)]
    names = dict.fromkeys(sorted(patient.tables - {schema.VERSION_TABLE}), _ALL)
    names |= dict.fromkeys((schema.VERSION_TABLE, *views), _ALL[:1])
    sql: list[str] = []
    lacking: dict[str, list[str]] = {}
    [usage] = patient.one("SELECT has_schema_privilege(:role, oid, 'USAGE') FROM pg_namespace WHERE nspname = :schema",
                          role=role)  # fmt: skip
    if not usage:
        lacking["USAGE"] = [f"schema {patient.schema}"]
        sql.append(f"GRANT USAGE ON SCHEMA {quoted(patient.schema)} TO {quoted(role)}")
    may = ", ".join(f"has_table_privilege(:role, c.oid, '{name}') AS {name.lower()}" for name in _ALL)
    held = {row.relname: row for row in patient.rows(
        f"SELECT c.relname, {may} FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace"
        " WHERE n.nspname = :schema AND c.relkind IN ('r', 'p', 'v')", role=role)}  # fmt: skip
    for name, wanted in names.items():
        missing = [one for one in wanted if not getattr(held[name], one.lower())]
        if missing:
            lacking.setdefault(", ".join(missing), []).append(name)
            sql.append(f"GRANT {', '.join(missing)} ON {patient.prefix}{quoted(name)} TO {quoted(role)}")
    only_reads = usage and not any(getattr(held[name], one.lower()) for name in names for one in _ALL[1:])
    lacked = {(right, name) for right, tables in lacking.items() for name in tables}
    if lacking and only_reads and all(held[name].select for name in names):
        yield found("grants", "ok", f"{role} may only read: enough for reports, not for a store")
    elif lacked == _NOT_THE_SWEEPS:
        what = "may add no sessions, entries, state or results: enough for the sweep, not for a store"
        yield found("grants", "ok", f"{role} {what}")
    elif lacking:
        owner = _owner(patient)
        what = "; ".join(f"{rights} on {some(tables, 2)}" for rights, tables in lacking.items())
        about = role if owner is not None or patient.role is not None else None
        yield mendable(patient, "grants", "fail", f"{role} lacks {what}", sql, as_role=owner, role=about)
    else:
        yield found("grants", "ok", f"{role} may do all that a store does{_more_than_enough(patient, role)}")


def _more_than_enough(patient: Patient, role: str) -> str:
    superuser, owns, creates = patient.one(
        "SELECT r.rolsuper, pg_has_role(r.oid, t.relowner, 'USAGE'), has_schema_privilege(r.oid, n.oid, 'CREATE')"
        " FROM pg_roles AS r, pg_class AS t JOIN pg_namespace AS n ON n.oid = t.relnamespace"
        " WHERE r.rolname = :role AND n.nspname = :schema AND t.relname = :table",
        role=role, table=schema.VERSION_TABLE,
    )  # fmt: skip
    what = "is a superuser" if superuser else "owns the tables" if owns else "may create tables" if creates else ""
    return f"; hint: it {what}, and an application needs no more than SELECT, INSERT, UPDATE, DELETE" if what else ""


def _owner(patient: Patient) -> str | None:
    """Whose the tables are, if that is not who is connected; None if that one may do it."""
    if not patient.on_postgresql:
        return None
    row = patient.rows(
        "SELECT pg_get_userbyid(t.relowner) AS owner, pg_has_role(t.relowner, 'USAGE') AS may FROM pg_class AS t"
        " JOIN pg_namespace AS n ON n.oid = t.relnamespace WHERE n.nspname = :schema AND t.relname = :table",
        table=schema.VERSION_TABLE,
    )  # fmt: skip
    return None if not row or row[0].may else str(row[0].owner)
