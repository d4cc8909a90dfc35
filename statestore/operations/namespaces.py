"""Operations on whole namespaces, for the operator of a database."""

from collections.abc import Callable
from typing import Any, TypeAlias

from statestore.checking import checks
from statestore.engine.calls import NamespaceCall
from statestore.engine.flows import Flow, empty_log
from statestore.operations.base import Operations, flow, operation
from statestore.repositories.expiry.namespaces import TABLES, NamespaceRepository
from statestore.values.namespaces import NamespaceReceipt

Progress: TypeAlias = Callable[[NamespaceReceipt], object]

BATCH = 5000


class Namespaces(Operations):
    """The namespaces of a database."""

    namespaces = operation(NamespaceRepository.namespaces)

    @flow
    def drop_namespace(self, name: str, *, progress: Progress | None = None) -> Flow[NamespaceReceipt]:
        """Delete everything in a namespace, for good: sessions, state, cache, usage, prices and settings.

        It may be any namespace of the database, the store's own included. First all of its sessions disappear, then the
        rows are deleted in short transactions. If it is interrupted, call it again; until then the sweep goes on with
        the sessions. Stop the processes that use the namespace first: what they write meanwhile is deleted too.

        Args:
            name: The namespace. There need not be anything in it.
            progress: Called after each batch with the receipt so far.

        Returns:
            How many rows were deleted, by table.

        Raises:
            ConflictError: Somebody works with a session of it, under a lease. Nothing was deleted.
            InvalidValueError: *name* is not a namespace.
            DatabaseError: The database failed. What was deleted before stays deleted.
        """
        checks.key(name, "name")
        rows: dict[str, int] = {}
        gone = -1
        dropped_at: Any = None
        while gone != sum(rows.values()):  # Until there is nothing: somebody may have written meanwhile.
            gone = sum(rows.values())
            after: str | None = ""
            while after is not None:
                batch = yield NamespaceCall(name, NamespaceRepository.hide, BATCH, after)
                dropped_at, after = dropped_at or batch.at, batch.after
            for table in TABLES:
                after = table
                while after is not None:
                    batch = yield NamespaceCall(name, NamespaceRepository.drop_rows, table, BATCH)
                    after = batch.after
                    if batch.deleted:
                        rows[table] = rows.get(table, 0) + batch.deleted
                        if progress is not None:
                            progress(NamespaceReceipt(name=name, dropped_at=dropped_at, rows=dict(rows)))
        if rows:
            yield from empty_log(self._runner)
        return NamespaceReceipt(name=name, dropped_at=dropped_at, rows=rows)
