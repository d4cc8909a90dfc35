"""What exports and imports are given, checked before anything is read or written."""

from typing import Any

from statestore.async_store import AsyncStateStore
from statestore.errors import InvalidValueError
from statestore.store import StateStore


def called(store: Any, *, twin: str = "") -> None:
    """A store whose operations are called. *twin*: the function that takes one whose operations are awaited."""
    if not isinstance(store, StateStore):
        hint = f"; {twin} takes one" if twin and isinstance(store, AsyncStateStore) else ""
        raise InvalidValueError("store", f"must be a StateStore, not {type(store).__name__}{hint}")


def awaited(store: Any, *, twin: str) -> None:
    """A store whose operations are awaited. *twin*: the function that takes one whose operations are called."""
    if not isinstance(store, AsyncStateStore):
        hint = f"; {twin} takes one" if isinstance(store, StateStore) else ""
        raise InvalidValueError("store", f"must be an AsyncStateStore, not {type(store).__name__}{hint}")
