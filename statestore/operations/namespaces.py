"""Operations on whole namespaces, for the operator of a database."""

from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

from statestore.checking import checks
from statestore.checking.namespaces import Chosen, chosen
from statestore.engine.calls import Call, NamespaceCall
from statestore.engine.flows import Flow, empty_log
from statestore.errors import InvalidValueError
from statestore.operations.base import Operations, flow, operation
from statestore.repositories.expiry.namespaces import TABLES, NamespaceRepository
from statestore.values.namespaces import NamespaceReceipt

Progress: TypeAlias = Callable[[NamespaceReceipt], object]

BATCH = 5000


class Namespaces(Operations):
    """The namespaces of a database."""

    namespaces = operation(NamespaceRepository.namespaces)

    @flow
    def drop_namespace(
        self,
        name: str | None = None,
        *,
        namespaces: str | Iterable[str] | None = None,
        progress: Progress | None = None,
    ) -> Flow[NamespaceReceipt]:
        r"""Delete everything in a namespace, for good: sessions, state, cache, usage, prices and settings.

        It may be any namespace of the database, the store's own included. First all of its sessions disappear, then the
        rows are deleted in short transactions. If it is interrupted, call it again; until then the sweep goes on with
        the sessions. Stop the processes that use the namespace first: what they write meanwhile is deleted too.

        Args:
            name: The namespace, taken as it is. There need not be anything in it.
            namespaces: Instead of *name*, several of them: a prefix such as `acme/*`, or a list of names and prefixes;
                see `sessions.page`. All of their sessions disappear before the first row is deleted.
            progress: Called after each batch with the receipt so far.

        Returns:
            How many rows were deleted, by table.

        Raises:
            ConflictError: Somebody works with a session of it, under a lease. Nothing was deleted, unless the lease was
                taken while several namespaces were being dropped.
            InvalidValueError: *name* is not a namespace, or *namespaces* are all of the database.
            DatabaseError: The database failed. What was deleted before stays deleted.
        """
        checks.optional_function(progress, "progress")
        several = _to_drop(name, namespaces)
        names = yield Call(NamespaceRepository.names, (several, "drop"))
        if len(names) > 1:
            for one in names:
                yield NamespaceCall(one, NamespaceRepository.check_leases)
        dropped_at: Any = None if names else (yield Call(NamespaceRepository.now))
        for one in names:
            dropped_at = yield from _hide(one, dropped_at)
        rows: dict[str, int] = {}

        def receipt() -> NamespaceReceipt:
            return NamespaceReceipt(name=str(several), dropped_at=dropped_at, rows=dict(rows), names=tuple(names))

        gone = -1
        while gone != sum(rows.values()):  # Until there is nothing: somebody may have written meanwhile.
            again, gone = gone != -1, sum(rows.values())
            for one in names:
                if again:
                    yield from _hide(one, dropped_at)
                for table in TABLES:
                    after: str | None = table
                    while after is not None:
                        batch = yield NamespaceCall(one, NamespaceRepository.drop_rows, table, BATCH)
                        after = batch.after
                        if batch.deleted:
                            rows[table] = rows.get(table, 0) + batch.deleted
                            if progress is not None:
                                progress(receipt())
        if rows:
            yield from empty_log(self._runner)
        return receipt()


def _to_drop(name: str | None, namespaces: Any) -> Chosen:
    several = chosen(namespaces)
    if several is None and name is None:
        raise InvalidValueError("name", "is missing; name the namespace to delete, or several of them by namespaces=")
    if several is None:
        return Chosen(names=(checks.key(name, "name"),))
    if name is not None:
        raise InvalidValueError("namespaces", "cannot be combined with name; put that into the list")
    if "" in several.prefixes:
        raise InvalidValueError("namespaces", "must not be all of the database; write what their names begin with")
    return several


def _hide(name: str, since: Any) -> Flow[Any]:
    """Hide the sessions of a namespace, and say since when, or since when those of an earlier one were."""
    after: str | None = ""
    while after is not None:
        batch = yield NamespaceCall(name, NamespaceRepository.hide, BATCH, after)
        since, after = since or batch.at, batch.after
    return since
