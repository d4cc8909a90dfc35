"""Histories and cache in partitions: what one statement does with rows of several of them.

With STATESTORE_TEST_PARTITIONED=1 the whole contract runs that way.
"""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from statestore import NewEntry, migrate
from tests.support.content import Content

Store = Any


@pytest.fixture
def open_store(partitioned_url: str, connect: Callable[..., Any]) -> Callable[..., Any]:
    return lambda **options: connect(partitioned_url, **options)


@pytest.fixture
def content(partitioned_url: str) -> Iterator[Content]:
    with Content(partitioned_url) as content:
        yield content


def test_a_namespace_is_dropped_without_rows_of_others_in_other_partitions(
    open_store: Callable[..., Store], content: Content, partitioned_url: str
) -> None:
    assert len(migrate.partitions(partitioned_url)) == 2
    ours, theirs = open_store(namespace="ours"), open_store(namespace="theirs")
    for store in (ours, theirs):
        for number in range(20):
            store.history.append(f"s{number}", [NewEntry(number), NewEntry("b")], create=True)
            store.cache.set(f"k{number}", number, tags=["t"])
    before = content.rows("history_entries", namespace="ours"), content.rows("cache_entries", namespace="ours")
    receipt = ours.drop_namespace("theirs")
    assert (receipt.sessions, receipt.entries, receipt.rows["cache_entries"]) == (20, 40, 20)
    after = content.rows("history_entries", namespace="ours"), content.rows("cache_entries", namespace="ours")
    assert after == before


def test_rows_that_change_their_owner_change_their_partition(open_store: Callable[..., Store]) -> None:
    store = open_store()
    for number in range(6):
        store.history.append(f"s{number}", [NewEntry(n) for n in range(9)], create=True)
        store.sessions.fork(f"s{number}", f"fork {number}", at_seq=5)
        store.history.append(f"fork {number}", [NewEntry("own")])
        store.sessions.delete(f"s{number}")
    for number in range(6):
        assert [entry.content for entry in store.history.read(f"fork {number}")] == [0, 1, 2, 3, 4, "own"]
        assert store.history.replace(f"fork {number}", 2, NewEntry("other")).content == "other"
    assert store.usage.totals().entries == 6 * 10
    assert store.sessions.delete_many([f"fork {number}" for number in range(6)]) == 6


def test_an_entry_is_stored_once_by_its_id(open_store: Callable[..., Store]) -> None:
    store = open_store()
    for session_id in ("a", "b", "c"):
        for _ in range(2):
            store.history.append(session_id, [NewEntry("x", entry_id="one")], create=True)
        assert store.history.count(session_id) == 1


def test_a_tag_invalidates_values_of_all_partitions(open_store: Callable[..., Store], content: Content) -> None:
    store = open_store(cache_max_entries=30)
    for first in (0, 20):
        store.cache.set_many({f"k{first + number}": number for number in range(20)}, tags=["t"])
    assert store.cache.stats().entries == 30
    store.cache.set("k39", "again", tags=["u"])
    assert store.cache.invalidate_tag("t") == 29
    assert store.cache.get("k39") == "again"
    assert len(content.rows("cache_tags")) == 1
