"""Django's caches and sessions in a store; which of them, the settings say."""

import atexit
import os
import threading
from datetime import timedelta
from typing import Any

from sqlalchemy import URL

from statestore import LazyStore, StoreLike

# The longest that a store takes. Django takes any, for what is to stay.
_LONGEST = timedelta(days=36_500)

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


def lifetime(seconds: float) -> timedelta:
    """So many seconds, or a hundred years if that is less."""
    return timedelta(seconds=min(seconds, _LONGEST.total_seconds()))
