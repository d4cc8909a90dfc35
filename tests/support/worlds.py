"""What differs between the two worlds beyond calling and awaiting, for tests that serve both."""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any, BinaryIO

from statestore import SessionContext, portable
from tests.support.portal import Blocking


def entering(store: Any, manager: Any) -> AbstractContextManager[Any]:
    """`with` or `async with` *manager*, which *store* gave."""
    portal = _portal_of(store)
    found: AbstractContextManager[Any] = manager if portal is None else portal.enter(manager)
    return found


def iterating(store: Any, iterator: Any) -> Iterator[Any]:
    """`for` or `async for` over *iterator*, which *store* gave. Closed when the returned generator is."""
    portal = _portal_of(store)
    if portal is None:
        try:
            yield from iterator
        finally:
            iterator.close()
        return
    try:
        while True:
            try:
                yield portal.run(_next(iterator))
            except StopAsyncIteration:
                return
    finally:
        portal.run(iterator.aclose())


def _portal_of(store: Any) -> Any:
    """Of the async world, also behind a face such as that of a spread tenant."""
    return getattr(store, "_portal", None)


async def _next(iterator: Any) -> Any:
    return await anext(iterator)


def session_context(store: Any, *args: Any, **kwargs: Any) -> Any:
    """A `SessionContext` on *store*, called without awaiting in both worlds."""
    if not isinstance(store, Blocking):
        return SessionContext(store, *args, **kwargs)

    async def open_context() -> Any:
        return await SessionContext(store._target, *args, **kwargs)  # type: ignore[misc]

    return Blocking(store._portal, store._portal.run(open_context()))


def export_sessions(store: Any, file: BinaryIO, **which: Any) -> portable.Totals:
    """Write sessions of *store* to *file*."""
    if not isinstance(store, Blocking):
        return portable.export_sessions(store, file, **which)
    return store._portal.run(portable.export_sessions_async(store._target, file, **which))


def import_sessions(store: Any, file: BinaryIO, **how: Any) -> portable.Totals:
    """Bring the sessions of *file* into *store*."""
    if not isinstance(store, Blocking):
        return portable.import_sessions(store, file, **how)
    return store._portal.run(portable.import_sessions_async(store._target, file, **how))
