"""Changing or letting go of entries in one statement, while somebody comes to see them."""

import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import pytest

from statestore import EntryNotFoundError, NewEntry, SessionNotFoundError, Usage
from tests.concurrency.test_races import _WAITING
from tests.support.content import Content, unsound
from tests.support.crowd import at_once

Store = Any

CHANGES: dict[str, Callable[[Store], Any]] = {
    "replace": lambda store: store.history.replace("s", 5, NewEntry("new")),
    "annotate": lambda store: store.history.annotate("s", 5, {"a": 1}),
    "set_usage": lambda store: store.history.set_usage("s", 5, Usage(input_tokens=1)),
    "pop_last": lambda store: store.history.pop_last("s", 2),
    "trim": lambda store: store.history.trim("s", keep_last=2),
    "clear": lambda store: store.history.clear("s"),
}


def prepare(store: Store) -> None:
    store.sessions.create("s")
    store.history.append("s", [NewEntry(n, usage=Usage(input_tokens=10)) for n in range(5)])


@pytest.mark.parametrize("name", CHANGES)
def test_a_fork_that_commits_in_between_keeps_what_it_saw(store: Store, content: Content, name: str) -> None:
    """The change has begun, and read that there is no fork, when the fork commits."""
    if content.is_sqlite:
        pytest.skip("SQLite has one writer")
    prepare(store)
    changing = threading.Thread(target=partial(CHANGES[name], store))
    with store.transaction() as tx:
        tx.sessions.fork("s", "fork")
        before = tx.history.read("fork")
        changing.start()
        while content.query(_WAITING) == [{"count": 0}]:
            pass
    changing.join(20)
    assert store.history.read("fork") == before
    assert store.history.read("s") != before
    assert unsound(content) == []


@pytest.mark.parametrize("seed", range(10))
def test_all_at_once_they_leave_nothing_unsound(open_store: Callable[..., Store], content: Content, seed: int) -> None:
    stores = [open_store() for _ in range(3)]
    prepare(stores[0])

    def attempt(store: Store, name: str) -> None:
        with suppress(EntryNotFoundError, SessionNotFoundError):
            CHANGES[name](store)

    def fork(store: Store, name: str) -> Any:
        try:
            store.sessions.fork("s", name)
            return store.history.messages(name)
        except SessionNotFoundError:
            return None

    names = list(CHANGES)[seed % 3 :] + list(CHANGES)[: seed % 3]
    changes = [partial(attempt, stores[n % 3], name) for n, name in enumerate(names)]
    forks = [partial(fork, stores[n], f"fork {n}") for n in range(2)]
    if seed % 2:
        changes.append(partial(stores[2].sessions.delete, "s"))
    results = at_once(*changes, *forks)
    for n, seen in enumerate(results[-2:]):
        if seen is not None:
            assert stores[0].history.messages(f"fork {n}") == seen
    assert unsound(content) == []
    # The last entry's 10 tokens become 1, or none, unless it was popped first.
    assert stores[0].usage.totals().input_tokens in (40, 41, 50)
