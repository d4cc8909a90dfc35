"""Rows as they came from a file, into the tables: many at a time, by statements that do not grow with them."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, Column, DefaultClause, Integer

from statestore.engine.calls import reads, writes
from statestore.engine.columns import kinds
from statestore.engine.sql import Statement
from statestore.engine.sql_parts import arrays, prefix_range, unnest
from statestore.repositories.base import Repository
from statestore.repositories.portable import portable_ledger
from statestore.repositories.portable.portable_values import TABLES, Record, carried
from statestore.repositories.sessions import segments, session_life
from statestore.schema.column_types import ExactJson

# Written, though nothing changes, as by whoever makes a part: see `unshared`.
_SHOW_WHOLES = Statement("""
    UPDATE $sessions AS s SET revision = s.revision WHERE s.namespace = :namespace AND s.session_id IN (
        SELECT p.belongs_to FROM $sessions AS p WHERE p.namespace = :namespace AND p.session_id $in(:session_ids))""")
_SET_FREE = Statement("""
    UPDATE $sessions AS s SET belongs_to = NULL
    WHERE s.namespace = :namespace AND s.session_id $in(:session_ids) AND s.belongs_to IS NOT NULL AND NOT EXISTS (
        SELECT 1 FROM $sessions AS w
        WHERE w.namespace = :namespace AND w.session_id = s.belongs_to AND w.belongs_to IS NULL
            AND (w.expires_at IS NULL OR w.expires_at > $now))""")

_FIND_USAGE = Statement("""
    SELECT session_id FROM $usage_ledger WHERE namespace = :namespace AND session_id $in(:session_ids) LIMIT 1""")

_LIVING = Statement("""
    SELECT s.session_id, s.created_at FROM $sessions AS s
    WHERE s.namespace = :namespace AND s.session_id $in(:session_ids) AND $live""")
# In the order of their ids, as everywhere, so that two imports do not wait for each other in a circle.
_LOCK_ANY = Statement("""
    SELECT s.session_id, $live FROM $sessions AS s
    WHERE s.namespace = :namespace AND s.session_id $in(:session_ids) ORDER BY s.session_id $lock""")

# Ends whatever the rows say: a pair that was found already is not looked at again.
_OWN_ANCESTOR = Statement("""
    WITH RECURSIVE above (session_id, ancestor) AS (
        SELECT s.session_id, s.parent_session_id FROM $sessions AS s
        WHERE s.namespace = :namespace AND s.session_id $in(:session_ids) AND s.parent_session_id IS NOT NULL
        UNION
        SELECT a.session_id, s.parent_session_id FROM above AS a
        JOIN $sessions AS s ON s.namespace = :namespace AND s.session_id = a.ancestor
        WHERE s.parent_session_id IS NOT NULL)
    SELECT session_id FROM above WHERE session_id = ancestor LIMIT 1""")


def _insert(kind: str) -> Statement:
    """Write rows of a kind. What a row does not say is what the table says."""
    table = TABLES[kind]
    columns = {str(column.name): column for column in carried(table)}
    if kind == "session":
        columns["active_hour"] = table.c.active_hour
    types = kinds(table)
    names = ", ".join(["namespace", *columns])
    postgresql, sqlite = [], []
    for name, column in columns.items():
        default = _default(column)
        cast = f"CAST(r.{name} AS {types[name]})" if types[name] in ("varchar", "json") else f"r.{name}"
        postgresql.append(cast if default is None else f"coalesce({cast}, {default})")
        sqlite.append(f":{name}" if default is None else f"coalesce(:{name}, {default})")
    # JSON and short texts travel as text, for which the driver has a binary form.
    sent = {name: "text" if types[name] in ("varchar", "json") else types[name] for name in columns}
    return Statement(
        postgresql=f"""
    INSERT INTO ${table.name} ({names})
    SELECT :namespace, {", ".join(postgresql)} FROM {unnest("r", sent)}""",
        sqlite=f"INSERT INTO ${table.name} ({names}) VALUES (:namespace, {', '.join(sqlite)})",
    )


def _default(column: Column[Any]) -> str | None:
    """What the table takes if nothing is said, as SQL."""
    if not isinstance(column.server_default, DefaultClause):
        return None
    value = str(column.server_default.arg)
    if isinstance(column.type, ExactJson):
        return f"CAST('{value}' AS json)"
    return value if isinstance(column.type, Integer | BigInteger) else f"'{value}'"


_INSERTS = {kind: _insert(kind) for kind in TABLES}
_NAMES = {kind: [column.name for column in carried(table)] for kind, table in TABLES.items()}


# Which parts of a file have been imported, sixty to a number, written with them: an import that is cut off goes on from
# there.
_PARTS_MARKED = 60
_MARK = Statement("""
    INSERT INTO $store_settings AS p (namespace, name, value) VALUES (:namespace, :name, :value)
    ON CONFLICT (namespace, name) DO UPDATE SET value = p.value | excluded.value""")
_MARKED = Statement("""
    SELECT name, value FROM $store_settings WHERE namespace = :namespace AND name > :prefix AND name < :prefix_end""")
_FORGET_MARKS = Statement("""
    DELETE FROM $store_settings WHERE namespace = :namespace AND name > :prefix AND name < :prefix_end""")


def _marks(digest: str) -> tuple[str, str]:
    return prefix_range(f"import:{digest}:")


class PortableWork(Repository):
    """The steps of an import; no operations of their own. They run in one transaction."""

    @reads
    def marked(self, digest: str) -> set[int]:
        """Which parts of a file, known by its digest, an import that was cut off has brought."""
        prefix, end = _marks(digest)
        found = set()
        for name, bits in self._link.all(_MARKED, prefix=prefix, prefix_end=end):
            first = int(name.removeprefix(prefix)) * _PARTS_MARKED
            found |= {first + bit for bit in range(_PARTS_MARKED) if bits >> bit & 1}
        return found

    @writes
    def mark(self, digest: str, part: int) -> None:
        """Note, with what was imported, that a part is there."""
        row, bit = divmod(part, _PARTS_MARKED)
        self._link.run(_MARK, name=f"{_marks(digest)[0]}{row}", value=1 << bit)

    @writes
    def forget_marks(self, digest: str) -> None:
        """Delete what was noted of the import of a file."""
        prefix, end = _marks(digest)
        self._link.run(_FORGET_MARKS, prefix=prefix, prefix_end=end)

    @reads
    def living(self, session_ids: Sequence[str]) -> dict[str, datetime]:
        """Those of the sessions that are there, and have not expired, with the times at which they were made."""
        found = self._link.all(_LIVING, session_ids=list(session_ids))
        return {session_id: self._link.dialect.time(made_at) for session_id, made_at in found}

    @writes
    def make_room(self, session_ids: Sequence[str], *, replace: bool) -> list[str]:
        """Make sure that none of the sessions is there; with *replace* by deleting them.

        Returns:
            Those that live, if they are not to be replaced.
        """
        found = self._link.all(_LOCK_ANY, session_ids=list(session_ids))
        living = [session_id for session_id, lives in found if lives]
        if living and not replace:
            return living
        if found:
            segments.lock_all(self._link)
        for session_id, _ in found:
            session_life.erase(self._link, session_id, locked=True)
        return []

    @writes
    def insert(self, kind: str, records: Sequence[Record]) -> None:
        """Write records of one kind."""
        rows = [record.values for record in records]
        names = _NAMES[kind]
        if kind == "session":
            rows = [{**row, "active_hour": _hour(row["last_activity_at"])} for row in rows]
            names = [*names, "active_hour"]
        if self._link.dialect.name == "postgresql":
            self._link.run(_INSERTS[kind], **arrays(rows, names))
        else:
            nothing = dict.fromkeys(names)
            self._link.many(_INSERTS[kind], ({**nothing, **row} for row in rows))

    @writes
    def settle_parts(self, session_ids: Sequence[str]) -> None:
        """Make sessions of their own of those that belong to a session which is not there, or has expired."""
        self._link.run(_SHOW_WHOLES, session_ids=list(session_ids))
        self._link.run(_SET_FREE, session_ids=list(session_ids))

    @writes
    def find_usage(self, session_ids: Sequence[str]) -> str | None:
        """One of the sessions of which the ledger has lines."""
        row = self._link.one(_FIND_USAGE, session_ids=list(session_ids)) if session_ids else None
        (session_id,) = row or (None,)
        found: str | None = session_id
        return found

    @writes
    def take_usage(self, session_ids: Sequence[str]) -> dict[str, list[portable_ledger.Line]]:
        """Take lines out of the ledger, for `keep_usage`: those of the sessions that have any."""
        return portable_ledger.take(self._link, session_ids) if session_ids else {}

    @writes
    def keep_usage(self, session_id: str, taken: Sequence[portable_ledger.Line], *, entries: bool) -> None:
        """See `portable_ledger.keep`."""
        portable_ledger.keep(self._link, session_id, taken, entries=entries)

    @reads
    def own_ancestor(self, session_ids: Sequence[str]) -> str | None:
        """One of the sessions that is forked from itself, over however many others."""
        row = self._link.one(_OWN_ANCESTOR, session_ids=list(session_ids))
        (session_id,) = row or (None,)
        found: str | None = session_id
        return found


def _hour(value: datetime) -> datetime:
    return value.replace(minute=0, second=0, microsecond=0)
