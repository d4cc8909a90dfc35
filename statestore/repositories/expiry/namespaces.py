"""The namespaces of a database, and deleting one whole."""

from collections.abc import Sequence
from datetime import datetime
from typing import Literal, TypeAlias

from statestore import schema
from statestore.checking.namespaces import Chosen
from statestore.engine.calls import reads, reported_as, writes
from statestore.engine.columns import Columns, fields_of
from statestore.engine.sql import Statement
from statestore.engine.sql_parts import each, namespace_range
from statestore.errors import ConflictError
from statestore.repositories.base import Repository
from statestore.repositories.expiry.batch import NamespaceBatch
from statestore.repositories.sessions import endings, lease_checks, segments, session_rows
from statestore.schema.column_types import UtcTime
from statestore.values.namespaces import NamespaceInfo

_INFO = Columns(None, *fields_of(NamespaceInfo), types={"last_activity_at": UtcTime})
# Prices and settings may be all there is; of these, `prices` only counts changes.
_NAMESPACES = Statement(f"""
    SELECT {_INFO.select(sessions="CAST(sum(n.sessions) AS bigint)", entries="CAST(sum(n.entries) AS bigint)",
        bytes="CAST(sum(n.bytes) AS bigint)", last_activity_at="max(n.last_activity_at)")}
    FROM (
        SELECT u.namespace AS name, CASE WHEN u.table_name = 'sessions' THEN u.row_count ELSE 0 END AS sessions,
            CASE WHEN u.table_name = 'history_entries' THEN u.row_count ELSE 0 END AS entries,
            coalesce(u.bytes, 0) AS bytes, NULL AS last_activity_at
        FROM $storage_usage AS u
        UNION ALL
        SELECT s.namespace, 0, 0, 0, max(s.last_activity_at) FROM $sessions AS s GROUP BY s.namespace
        UNION ALL SELECT p.namespace, 0, 0, 0, NULL FROM $model_prices AS p WHERE p.namespace <> ''
        UNION ALL SELECT p.namespace, 0, 0, 0, NULL FROM $store_settings AS p
            WHERE p.namespace <> '' AND p.name <> 'prices'
        UNION ALL SELECT c.namespace, 0, 0, 0, NULL FROM $cache_ledger AS c) AS n
    GROUP BY n.name ORDER BY n.name""")  # fmt: skip

_LEASED = Statement(f"""
    SELECT count(*) FROM $sessions AS s WHERE s.namespace = :namespace AND NOT ({lease_checks.FREE}) AND $live""")
_HIDE = Statement(
    postgresql=f"""
    UPDATE $sessions AS s SET ttl = :deleted, {endings.END}
    FROM (SELECT s.session_id FROM $sessions AS s WHERE s.namespace = :namespace AND s.session_id > :after
        ORDER BY s.session_id LIMIT :limit) AS page
    WHERE s.namespace = :namespace AND s.session_id = page.session_id
    RETURNING s.session_id""",
    sqlite=f"""
    UPDATE $sessions SET ttl = :deleted, {endings.END} WHERE namespace = :namespace AND session_id IN (
        SELECT s.session_id FROM $sessions AS s WHERE s.namespace = :namespace AND s.session_id > :after
        ORDER BY s.session_id LIMIT :limit)
    RETURNING session_id""",
)

# What refers to others first.
TABLES = (
    # First: without the state, nothing is read from the sums.
    "usage_rollup_state",
    "usage_rollup",
    "usage_rollup_changes",
    "session_list_items",
    "session_lists",
    "state_entries",
    "summaries",
    "session_segments",
    "history_entries",
    "sessions",
    "shared_state",
    "cache_tags",
    "cache_entries",
    "cache_claims",
    "cache_ledger",
    "usage_records",
    "usage_ledger",
    "model_prices",
    "store_settings",
)

_SPARED = {
    # How often prices have changed stays: stores that are open would take a number that they know for the same prices.
    "store_settings": " AND t.name <> 'prices'",
    # What somebody has made meanwhile has entries that are not hidden yet. On PostgreSQL, one that gets some after this
    # statement has looked is another version of its row by then (`xmin`), and is not deleted.
    "sessions": """ AND NOT EXISTS (
        SELECT 1 FROM $history_entries AS h WHERE h.namespace = :namespace AND h.session_id = t.session_id)
        AND NOT EXISTS (SELECT 1 FROM $session_segments AS g
            WHERE g.namespace = :namespace AND g.owner_session_id = t.session_id)""",
}


_VERSION = ", CAST(t.xmin AS text) AS row_version", " AND CAST(t.xmin AS text) = those.row_version"


_Purpose: TypeAlias = Literal["sweep", "drop", "export"]
_LOOKED_AT: dict[_Purpose, tuple[str, ...]] = {
    # The last one: of what is left in the ledger there are sums, though all sessions are gone.
    "sweep": ("sessions", "shared_state", "cache_entries", "usage_rollup_changes"),
    "drop": TABLES,
    "export": ("sessions", "usage_ledger", "usage_records"),
}


def _next_name(tables: Sequence[str], place: str) -> Statement:
    """From one to the next in the primary keys: namespaces are few, and their rows many."""
    nexts = " UNION ALL ".join(
        f"SELECT min(t.namespace) AS name FROM ${table} AS t WHERE t.namespace {place} AND t.namespace < :to"
        f"{_SPARED[table] if table == 'store_settings' else ''}"
        for table in tables
    )
    return Statement(f"SELECT min(name) FROM ({nexts}) AS nexts")


_FIRST_NAME = {purpose: _next_name(tables, ">= :from") for purpose, tables in _LOOKED_AT.items()}
_NEXT_NAME = {purpose: _next_name(tables, "> :after") for purpose, tables in _LOOKED_AT.items()}


def _delete(table: str) -> Statement:
    found = f"FROM ${table} AS t WHERE t.namespace = :namespace{_SPARED.get(table, '')}"
    key = [column.name for column in schema.metadata.tables[table].primary_key if column.name != "namespace"] or [
        "namespace"
    ]
    version, same_version = _VERSION if table in _SPARED else ("", "")
    same = " AND ".join(f"t.{name} = those.{name}" for name in key)
    return Statement(
        postgresql=f"""
    WITH those AS MATERIALIZED (SELECT {each("t.{0}", key)}{version} {found} LIMIT :limit)
    DELETE FROM ${table} AS t USING those WHERE t.namespace = :namespace AND {same}{same_version}""",
        sqlite=f"DELETE FROM ${table} WHERE rowid IN (SELECT t.rowid {found} LIMIT :limit)",
    )


_DELETE = {table: _delete(table) for table in TABLES}
_PRICES_ARE_GONE = Statement("""
    UPDATE $store_settings SET value = value + 1 WHERE namespace = :namespace AND name = 'prices'""")


class NamespaceRepository(Repository, group="store"):
    """The namespaces of a database."""

    @reads
    def namespaces(self) -> list[NamespaceInfo]:
        """All namespaces of the database, by name: what each of them holds.

        The store's own namespace does not restrict this, nor `drop_namespace` and sweeps of all namespaces, which are
        for the operator of the database. A namespace is a filter in statestore's code, not a barrier between tenants;
        whoever can use the database can open a store of any namespace. All rows are counted, so this takes as long as
        reading the tables.
        """
        return [NamespaceInfo(**_INFO.named(self._link.dialect, row)) for row in self._link.all(_NAMESPACES)]

    @reported_as("store.namespaces")
    @reads
    def names(self, chosen: Chosen, purpose: _Purpose) -> list[str]:
        """The namespaces that were asked for, sorted: those named, and of the others those with something to do."""
        found = set(chosen.names)
        for prefix in chosen.prefixes:
            start, end = namespace_range(prefix)
            row = self._link.one(_FIRST_NAME[purpose], **{"from": start, "to": end})
            while row is not None and row[0] is not None:
                found.add(row[0])
                row = self._link.one(_NEXT_NAME[purpose], after=row[0], to=end)
        return sorted(found)

    @reported_as("store.drop_namespace")
    @reads
    def now(self) -> datetime:
        """The time."""
        return session_rows.now(self._link)

    @reported_as("store.drop_namespace")
    @reads
    def check_leases(self) -> None:
        """Raise a ConflictError if somebody works with a session, under a lease."""
        self._check_leases()

    def _check_leases(self) -> None:
        (leased,) = self._link.only(_LEASED, latest_lease=lease_checks.LATEST)
        if leased:
            problem = f"{leased} sessions of namespace {self._link.settings.namespace!r} are under a lease"
            raise ConflictError(f"{problem}; stop their workers, or wait until the leases end")

    @reported_as("store.drop_namespace")
    @writes
    def hide(self, limit: int, after: str = "") -> NamespaceBatch:
        """Hide up to *limit* sessions of the namespace behind *after*.

        Raises:
            ConflictError: At the first batch: somebody works with a session, under a lease. Nothing was written.
        """
        if not after:
            self._check_leases()
        segments.lock_all(self._link)
        marks = {"deleted": endings.DELETED, "back": endings.BACK}
        found = [session_id for (session_id,) in self._link.all(_HIDE, limit=limit, after=after, **marks)]
        return NamespaceBatch(at=session_rows.now(self._link), after=max(found) if len(found) == limit else None)

    @reported_as("store.drop_namespace", rows=lambda batch: batch.deleted)
    @writes
    def drop_rows(self, table: str, limit: int) -> NamespaceBatch:
        """Delete up to *limit* rows of the namespace in a table."""
        if table in ("session_segments", "history_entries", "sessions"):
            segments.lock_all(self._link)
        deleted = self._link.run(_DELETE[table], limit=limit)
        if table == "model_prices" and deleted:
            self._link.run(_PRICES_ARE_GONE)
        return NamespaceBatch(deleted=deleted, after=table if deleted == limit else None)
