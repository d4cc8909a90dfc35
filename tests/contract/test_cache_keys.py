"""Keys are listed and removed: one and its value, several, or all that begin alike."""

from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from functools import partial
from typing import Any

import pytest

from statestore import MISSING, InvalidValueError
from tests.support.clock import MovableClock
from tests.support.content import Content
from tests.support.crowd import at_once

Store = Any
ROUNDS = 12
LAST = "\U0010ffff"
ODD = [
    "a%b", "a_b", "a\\b", "a%", "a", "A", "ab", "aé", "b", "~", "é", "é1", "日本", "\ud7ff", "\ue000", "🦄", "🦄🦄",
    LAST, LAST * 2, f"a{LAST}", f"a{LAST}z", "Z:1", "Z:2", "a\nb", "it's", '"', " ", "$now", ":key", "?", "*a", "[a]",
]  # fmt: skip


class Undo(Exception):
    pass


def test_keys_come_in_the_order_of_their_bytes_in_pages(store: Store, clock: MovableClock) -> None:
    store.cache.set_many(dict.fromkeys(ODD, 1))
    store.cache.set("gone", 1, ttl=1)
    clock.advance(seconds=1)
    in_order = sorted(ODD, key=lambda key: key.encode())
    assert store.cache.keys() == in_order
    found: list[str] = []
    while page := store.cache.keys(after=found[-1] if found else None, limit=7):
        assert len(page) <= 7
        found += page
    assert found == in_order
    assert store.cache.stats().hits == store.cache.stats().misses == 0


def test_a_prefix_is_taken_as_it_is(store: Store, subtests: pytest.Subtests) -> None:
    invalidated = 0
    for prefix in (*ODD, "Z:", "none", LAST * 512, "\ud7ff\ud7ff"):
        with subtests.test(ascii(prefix)):
            store.cache.set_many(dict.fromkeys(ODD, 1), tags=["t"])
            begin = sorted((key for key in ODD if key.startswith(prefix)), key=lambda key: key.encode())
            assert store.cache.keys(prefix=prefix) == begin
            assert [entry.key for entry in store.cache.entries(prefix=prefix, tag="t")] == begin
            assert store.cache.keys(prefix=prefix, after=prefix) == [key for key in begin if key != prefix]
            assert store.cache.invalidate_prefix(prefix) == len(begin)
            assert set(store.cache.keys()) == set(ODD) - set(begin)
            invalidated += len(begin)
            assert store.cache.stats().invalidations["key"] == invalidated


def test_several_are_invalidated_at_once(store: Store, clock: MovableClock, content: Content) -> None:
    store.cache.set_many({"a": 1, "b": 2, "c": 3, "d": 4}, tags=["t"], agent_name="x")
    store.cache.set("gone", 1, ttl=1)
    clock.advance(seconds=1)
    assert store.cache.invalidate_many(iter(["a", "b", "a", "none", "gone"])) == 2
    assert store.cache.keys() == ["c", "d"]
    assert store.cache.invalidate_many([]) == 0
    stats = store.cache.stats()
    assert (stats.invalidations["key"], stats.expirations, stats.by_agent["x"].invalidations["key"]) == (2, 1, 2)
    assert {row["key"] for row in content.rows("cache_tags")} == {"c", "d"}


def test_all_keys_begin_with_an_empty_prefix(store: Store) -> None:
    store.cache.set_many({"a": 1, "b": 2})
    assert store.cache.keys(prefix="") == ["a", "b"]
    assert [entry.key for entry in store.cache.entries(prefix="", after="a")] == ["b"]


def test_what_is_no_list_of_keys_or_no_prefix_is_refused(store: Store) -> None:
    store.cache.set("a", 1)
    for keys in ("a", None, 5, ["a", ""], ["a", None], [b"a"]):
        with pytest.raises(InvalidValueError, match=r"^keys(\[\d\])?: "):
            store.cache.invalidate_many(keys)
    for prefix in ("", "x" * 513, 5, "a\0", "\ud800"):
        with pytest.raises(InvalidValueError, match=r"^prefix: "):
            store.cache.invalidate_prefix(prefix)
    for prefix in ("x" * 513, 5, "a\0", "\ud800"):
        with pytest.raises(InvalidValueError, match=r"^prefix: "):
            store.cache.keys(prefix=prefix)
        with pytest.raises(InvalidValueError, match=r"^prefix: "):
            store.cache.entries(prefix=prefix)
    with pytest.raises(InvalidValueError, match=r"^prefix: "):
        store.cache.invalidate_prefix(None)
    for limit in (0, -1, 10_001, "5", True):
        with pytest.raises(InvalidValueError, match=r"^limit: "):
            store.cache.keys(limit=limit)
    with pytest.raises(InvalidValueError, match=r"^after: "):
        store.cache.keys(after="")
    assert store.cache.keys() == ["a"]


def test_what_is_popped_is_returned_and_gone(store: Store, clock: MovableClock, content: Content) -> None:
    store.cache.set("k", {"a": [1]}, tags=["t"], agent_name="x")
    store.cache.set("none", None)
    store.cache.set("large", "x" * 20_000)
    store.cache.set("gone", 1, ttl=1, agent_name="x")
    clock.advance(seconds=1)
    assert store.cache.pop("k") == {"a": [1]}
    assert store.cache.pop("k") is None
    assert store.cache.pop("k", default=5) == 5
    assert store.cache.pop("k", MISSING) is MISSING
    assert store.cache.pop("none", MISSING) is None
    assert store.cache.pop("large") == "x" * 20_000
    assert store.cache.pop("gone", MISSING) is MISSING
    assert (content.rows("cache_entries"), content.rows("cache_tags")) == ([], [])
    stats = store.cache.stats()
    assert (stats.hits, stats.misses, stats.invalidations["key"], stats.expirations) == (3, 4, 3, 1)
    assert (stats.by_agent["x"].hits, stats.by_agent["x"].expirations) == (1, 1)


def test_of_many_that_pop_one_gets_it(open_store: Callable[..., Store]) -> None:
    stores = [open_store() for _ in range(3)]
    for turn in range(ROUNDS):
        stores[0].cache.set("k", turn)
        found = at_once(*(partial(stores[n % 3].cache.pop, "k", MISSING) for n in range(8)))
        assert [value for value in found if value is not MISSING] == [turn]


def test_what_was_removed_makes_room(open_store: Callable[..., Store], clock: MovableClock) -> None:
    store = open_store(clock=clock, cache_max_entries=4)
    for remove in (
        lambda: store.cache.pop("x1"),
        lambda: store.cache.invalidate_many(["x1", "none"]),
        lambda: store.cache.invalidate_prefix("x"),
    ):
        store.cache.set_many({"a": 1, "b": 2, "c": 3, "x1": 4})
        remove()
        store.cache.set("d", 5)
        assert store.cache.keys() == ["a", "b", "c", "d"]
        store.cache.clear()
    assert store.cache.stats().evictions == 0


def test_in_a_transaction_a_removal_stands_or_falls_with_it(store: Store) -> None:
    store.cache.set_many({"a1": 1, "a2": 2, "b": 3, "c": 4}, tags=["t"])
    with suppress(Undo), store.transaction() as tx:
        assert tx.cache.keys(prefix="a") == ["a1", "a2"]
        assert tx.cache.pop("c") == 4
        assert tx.cache.pop("c", MISSING) is MISSING
        assert tx.cache.invalidate_prefix("a") == 2
        assert tx.cache.invalidate_many(["a1", "b"]) == 1
        assert tx.cache.keys() == []
        raise Undo
    assert store.cache.keys() == ["a1", "a2", "b", "c"]
    stats = store.cache.stats()
    assert (stats.hits, stats.misses, stats.invalidations["key"]) == (0, 0, 0)
    with store.transaction() as tx:
        assert tx.cache.pop("c") == 4
        assert tx.cache.invalidate_prefix("a") == 2
    assert store.cache.keys() == ["b"]
    stats = store.cache.stats()
    assert (stats.hits, stats.invalidations["key"], stats.invalidations["tag"]) == (1, 3, 0)


def test_namespaces_keep_their_keys(open_store: Callable[..., Store]) -> None:
    one, two = open_store(namespace="one"), open_store(namespace="two")
    for store in (one, two):
        store.cache.set_many({"a1": 1, "a2": 2, "b": 3}, ttl=timedelta(minutes=1))
    assert one.cache.invalidate_prefix("a") == 2
    assert one.cache.invalidate_many(["a1", "b"]) == 1
    assert (one.cache.keys(), one.cache.pop("b", MISSING), one.cache.touch("a1", 5)) == ([], MISSING, False)
    assert two.cache.keys() == ["a1", "a2", "b"]
