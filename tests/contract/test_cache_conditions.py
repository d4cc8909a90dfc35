"""A set on a condition writes all or nothing, and says which; of several at once, one writes."""

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


class Undo(Exception):
    pass


def test_a_set_without_a_condition_says_that_it_wrote(store: Store) -> None:
    assert store.cache.set("k", 1) is True
    assert store.cache.set("k", 2) is True


def test_only_what_is_missing_is_set(store: Store, clock: MovableClock) -> None:
    assert store.cache.set("k", 1, only_if="missing", ttl=timedelta(seconds=5), tags=["first"]) is True
    assert store.cache.set("k", 2, only_if="missing", tags=["second"]) is False
    assert (store.cache.get("k"), store.cache.entry("k").tags) == (1, ("first",))
    clock.advance(seconds=5)
    assert store.cache.set("k", 3, only_if="missing") is True
    assert (store.cache.get("k"), store.cache.entry("k").tags) == (3, ())


def test_only_what_is_there_is_set(store: Store, clock: MovableClock) -> None:
    assert store.cache.set("k", 1, only_if="present", tags=["t"]) is False
    assert store.cache.stats().entries == store.cache.stats().sets == 0
    store.cache.set("k", 1, ttl=timedelta(seconds=5), tags=["first"], agent_name="a")
    assert store.cache.set("k", 2, only_if="present", ttl=timedelta(seconds=5), tags=["second"]) is True
    entry = store.cache.entry("k")
    assert (entry.value, entry.tags, entry.agent_name) == (2, ("second",), None)
    assert store.cache.invalidate_tag("first") == 0
    clock.advance(seconds=5)
    assert store.cache.set("k", 3, only_if="present") is False
    assert store.cache.get("k", MISSING) is MISSING


def test_only_the_expected_version_is_replaced(store: Store, clock: MovableClock) -> None:
    assert store.cache.set("k", 1, expected_version=0, ttl=5) is True
    first = store.cache.entry("k").version
    assert store.cache.set("k", 2, expected_version=0) is False
    assert store.cache.set("k", 2, expected_version=first, ttl=5, tags=["t"]) is True
    second = store.cache.entry("k").version
    assert second not in (0, first)
    assert store.cache.set("k", 3, expected_version=first, tags=["u"]) is False
    assert (store.cache.get("k"), store.cache.entry("k").tags) == (2, ("t",))
    store.cache.get("k")
    store.cache.flush()
    store.cache.touch("k", 5)
    assert store.cache.entry("k").version == second  # Neither a hit nor another end is a write of the value.
    assert store.cache.invalidate_tag("t") == 1
    assert store.cache.set("k", 3, expected_version=second) is False
    store.cache.set("k", 4, ttl=5)
    version = store.cache.entry("k").version
    clock.advance(seconds=5)
    assert store.cache.set("k", 5, expected_version=version) is False
    assert store.cache.set("k", 5, expected_version=0) is True


def test_a_refused_set_leaves_all_as_it_was(store: Store, content: Content) -> None:
    store.cache.set("k", 1, tags=["t", "u"])
    store.cache.set("other", 1, tags=["t"])

    def rows() -> Any:
        return [sorted(map(repr, content.rows(table))) for table in ("cache_entries", "cache_tags")]

    before, sets = rows(), store.cache.stats().sets
    assert store.cache.set("k", 2, only_if="missing", tags=["v"]) is False
    assert store.cache.set("k", 2, expected_version=7, tags=["v"]) is False
    assert store.cache.set("new", 2, only_if="present", tags=["v"]) is False
    assert rows() == before
    assert store.cache.stats().sets == sets


@pytest.mark.parametrize(
    ("how", "argument"),
    [
        ({"only_if": "absent"}, "only_if"),
        ({"only_if": True}, "only_if"),
        ({"expected_version": -1}, "expected_version"),
        ({"expected_version": "1"}, "expected_version"),
        ({"expected_version": False}, "expected_version"),
        ({"expected_version": 2**63}, "expected_version"),
        ({"only_if": "present", "expected_version": 1}, "only_if"),
    ],
)
def test_a_condition_that_is_none_is_refused(store: Store, how: dict[str, Any], argument: str) -> None:
    with pytest.raises(InvalidValueError) as raised:
        store.cache.set("k", 1, **how)
    assert raised.value.argument == argument
    assert store.cache.keys() == []


def test_a_full_cache_makes_room_only_for_what_is_new(open_store: Callable[..., Store], clock: MovableClock) -> None:
    store = open_store(clock=clock, cache_max_entries=3)
    for key in ("a", "b", "c"):
        store.cache.set(key, 1)
    assert store.cache.set("a", 2, only_if="present") is True
    assert store.cache.set("b", 2, expected_version=store.cache.entry("b").version) is True
    assert store.cache.set("x", 2, only_if="present") is False
    assert store.cache.keys() == ["a", "b", "c"]
    assert store.cache.set("d", 2, only_if="missing") is True
    assert store.cache.keys() == ["a", "b", "d"]
    assert store.cache.stats().evictions == 1


def test_a_limit_in_bytes_holds_for_a_longer_value(open_store: Callable[..., Store], clock: MovableClock) -> None:
    store = open_store(clock=clock, cache_max_bytes=30)
    for key in ("a", "b", "c"):
        store.cache.set(key, b"x" * 10)
    assert store.cache.set("c", b"x" * 20, only_if="present") is True
    assert store.cache.keys() == ["b", "c"]
    assert store.cache.set("b", b"x" * 30, expected_version=store.cache.entry("b").version) is True
    assert store.cache.keys() == ["b"]
    assert store.cache.stats().size_bytes == 30


def test_of_many_that_find_nothing_one_sets(open_store: Callable[..., Store]) -> None:
    stores = [open_store() for _ in range(3)]
    for turn in range(ROUNDS):
        calls = [partial(stores[n % 3].cache.set, f"k{turn}", n, only_if="missing") for n in range(8)]
        won = at_once(*calls)
        assert won.count(True) == 1
        assert stores[0].cache.get(f"k{turn}") == won.index(True)


def test_of_many_that_expect_one_version_one_sets(open_store: Callable[..., Store]) -> None:
    stores = [open_store() for _ in range(3)]
    stores[0].cache.set("k", "old", tags=["old"])
    for _ in range(ROUNDS):
        version = stores[0].cache.entry("k").version
        calls = [
            partial(stores[n % 3].cache.set, "k", n, expected_version=version, tags=[f"tag {n}"]) for n in range(8)
        ]
        won = at_once(*calls)
        assert won.count(True) == 1
        entry = stores[0].cache.entry("k")
        assert (entry.value, entry.tags) == (won.index(True), (f"tag {won.index(True)}",))


def test_what_was_removed_at_the_same_time_is_not_set_again(open_store: Callable[..., Store]) -> None:
    stores = [open_store(), open_store()]
    for turn in range(ROUNDS):
        key = f"k{turn}"
        stores[0].cache.set(key, "old")
        at_once(
            partial(stores[0].cache.set, key, "new", only_if="present"),
            partial(stores[1].cache.invalidate, key),
        )
        assert stores[0].cache.get(key, MISSING) is MISSING, turn


def test_in_a_transaction_a_condition_holds_until_its_end(store: Store) -> None:
    store.cache.set("k", 1)
    version = store.cache.entry("k").version
    with suppress(Undo), store.transaction() as tx:
        assert tx.cache.set("k", 2, expected_version=version) is True
        assert tx.cache.set("k", 3, expected_version=version) is False
        assert tx.cache.set("new", 1, only_if="present") is False
        assert tx.cache.set("new", 1, only_if="missing") is True
        assert tx.cache.set("new", 2, only_if="present") is True
        raise Undo
    assert (store.cache.get("k"), store.cache.get("new", MISSING)) == (1, MISSING)
    assert store.cache.entry("k").version == version
    with store.transaction() as tx:
        assert tx.cache.set("k", 2, expected_version=version) is True
    assert store.cache.get("k") == 2


def test_namespaces_have_conditions_of_their_own(open_store: Callable[..., Store]) -> None:
    one, two = open_store(namespace="one"), open_store(namespace="two")
    one.cache.set("k", 1)
    assert two.cache.set("k", 2, only_if="present") is False
    assert two.cache.set("k", 2, expected_version=one.cache.entry("k").version) is False
    assert two.cache.set("k", 2, only_if="missing") is True
    assert one.cache.get("k") == 1
