"""Django's caches and sessions in a store; which of them, the settings say."""

import atexit
import inspect
import os
import threading
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from sqlalchemy import URL

from statestore import InvalidValueError, LazyStore, StoreLike

# The longest that a store takes. Django takes any, for what is to stay.
_LONGEST = timedelta(days=36_500)

# `url` and what else a store is opened with.
OPTIONS = tuple(inspect.signature(LazyStore).parameters)

_stores: dict[tuple[str, str], LazyStore] = {}
_lock = threading.Lock()


def shared(store: StoreLike, **options: Any) -> LazyStore:
    """One store for all threads: Django makes a cache for each of them, and a session for each request."""
    if not (store is None or isinstance(store, str | URL | os.PathLike)):
        return LazyStore.of(store)
    key = str(store), repr(sorted(options.items()))
    with _lock:
        if key not in _stores:
            _stores[key] = LazyStore(store, **options)
            atexit.register(_stores[key].close)
        return _stores[key]


def check_options(options: Any, setting: str, known: tuple[str, ...]) -> None:
    """Refuse what is not a dict of *known* options, by the name of the setting.

    Raises:
        InvalidValueError: It is not one.
    """
    if not isinstance(options, Mapping):
        raise InvalidValueError(setting, f"must be a dict, not {type(options).__name__}")
    for name in options:
        if name not in known:
            raise InvalidValueError(setting, f"has no option {name!r}; there are {', '.join(known)}")


def lifetime(seconds: float) -> timedelta:
    """So many seconds, or a hundred years if that is less."""
    return timedelta(seconds=min(seconds, _LONGEST.total_seconds()))
