"""A process that appends to session `s`, in one of several ways, and says which entries were acknowledged."""

import asyncio
import itertools
import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from sqlalchemy import make_url

from statestore import AsyncStateStore, NewEntry, StateStore, migrate

Append = Callable[[int], object]


@contextmanager
def two_stores(url: str) -> Iterator[Append]:
    with StateStore.open(url) as store, StateStore.open(url, namespace="two"):
        yield lambda n: store.history.append("s", [NewEntry(n)])


@contextmanager
def sync_beside_async(url: str) -> Iterator[Append]:
    with StateStore.open(url) as store, asyncio.Runner() as runner:
        runner.run(AsyncStateStore.open(url))
        yield lambda n: store.history.append("s", [NewEntry(n)])


@contextmanager
def a_store_for_each_request(url: str) -> Iterator[Append]:
    with StateStore.open(url) as kept:

        def append(n: int) -> None:
            with StateStore.open(url) as store:
                store.history.append("s", [NewEntry(n)])
            kept.state.set("s", "n", n)

        yield append


@contextmanager
def a_connection_of_the_application(url: str) -> Iterator[Append]:
    own = sqlite3.connect(str(make_url(url).database), isolation_level=None)
    own.execute("SELECT count(*) FROM sessions").fetchone()
    with StateStore.open(url) as store:
        yield lambda n: store.history.append("s", [NewEntry(n)])
    own.close()


@contextmanager
def migrations_beside(url: str) -> Iterator[Append]:
    with StateStore.open(url) as store:

        def append(n: int) -> None:
            if n % 20 == 1:
                migrate.upgrade(url)
            store.history.append("s", [NewEntry(n)])

        yield append


WAYS = {
    way.__name__: way
    for way in (
        two_stores,
        sync_beside_async,
        a_store_for_each_request,
        a_connection_of_the_application,
        migrations_beside,
    )
}


if __name__ == "__main__":
    with WAYS[sys.argv[1]](sys.argv[2]) as append:
        for n in itertools.count():
            append(n)
            print(n, flush=True)
