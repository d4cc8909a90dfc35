"""The semantics of Django's caches on our API, in the model of `django_model`."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.support.clock import MovableClock
from tests.support.crowd import at_once
from tests.thirdparty.django_model import DjangoCache

Store = Any


@pytest.fixture
def cache(store: Store) -> DjangoCache:
    return DjangoCache(store, prefix="site")


def test_a_cached_none_is_a_value(cache: DjangoCache) -> None:
    cache.set("k", None)
    assert (cache.get("k", "default"), cache.get("missing", "default")) == (None, "default")
    assert cache.has_key("k")


def test_timeouts_are_seconds_none_for_ever_and_nothing_for_zero(cache: DjangoCache, clock: MovableClock) -> None:
    for name, timeout in {"second": 1, "for ever": None, "over": 0, "negative": -1}.items():
        cache.set(name, "old", 100)
        cache.set(name, "x", timeout)
    cache.set("usual", "x")
    assert cache.get_many(["second", "for ever", "over", "negative"]) == {"second": "x", "for ever": "x"}
    clock.advance(seconds=1)
    assert cache.get("second") is None
    clock.advance(days=365)
    assert (cache.get("usual"), cache.get("for ever")) == (None, "x")


def test_add_stores_only_what_is_not_there(cache: DjangoCache, clock: MovableClock) -> None:
    assert (cache.add("k", 1, 10), cache.add("k", 2, 10), cache.get("k")) == (True, False, 1)
    clock.advance(seconds=10)
    assert (cache.add("k", 3, 10), cache.get("k")) == (True, 3)


def test_one_of_many_adds_wins(cache: DjangoCache) -> None:
    for round_ in range(10):
        won = at_once(*[lambda n=n, key=f"k{round_}": cache.add(key, n) for n in range(8)])
        assert sorted(won) == [False] * 7 + [True]


def test_touch_sets_a_new_timeout_and_needs_the_key(cache: DjangoCache, clock: MovableClock) -> None:
    cache.set("k", "x", 10)
    assert (cache.touch("k", 100), cache.touch("missing")) == (True, False)
    clock.advance(seconds=99)
    assert cache.get("k") == "x"
    assert cache.touch("k", 0)
    assert cache.get("k") is None


def test_a_counter_goes_up_and_down_keeps_its_timeout_and_must_exist(cache: DjangoCache, clock: MovableClock) -> None:
    cache.set("n", 41, 10)
    assert (cache.incr("n"), cache.incr("n", 10), cache.decr("n", 12)) == (42, 52, 40)
    clock.advance(seconds=10)
    for change in (cache.incr, cache.decr):
        with pytest.raises(ValueError, match="n"):
            change("n")


def test_no_increment_is_lost(cache: DjangoCache) -> None:
    cache.set("n", 0)
    for _ in range(5):
        at_once(*[lambda: cache.incr("n")] * 8)
    assert cache.get("n") == 40


def test_get_or_set_computes_once(cache: DjangoCache) -> None:
    calls = []

    def compute() -> int:
        calls.append(1)
        return len(calls)

    assert [cache.get_or_set("k", compute) for _ in range(3)] == [1, 1, 1]


def test_versions_are_apart_and_a_value_moves_between_them(cache: DjangoCache) -> None:
    cache.set("k", "one")
    cache.set("k", "two", version=2)
    assert (cache.get("k"), cache.get("k", version=2)) == ("one", "two")
    assert cache.incr_version("k", 2) == 3
    assert (cache.get("k"), cache.get("k", version=3)) == (None, "one")
    with pytest.raises(ValueError, match="k"):
        cache.incr_version("k")


def test_many_are_set_and_deleted_and_clear_leaves_other_prefixes(cache: DjangoCache, store: Store) -> None:
    other = DjangoCache(store, prefix="site2")
    other.set("a", 1)
    cache.set_many({"a": 1, "b": 2, "c": 3})
    cache.delete_many(["a", "missing"])
    assert cache.get_many("abc") == {"b": 2, "c": 3}
    cache.clear()
    assert (cache.get_many("abc"), other.get("a")) == ({}, 1)


def test_the_cost_of_a_cache(
    counted_store: Store, statements: Callable[[Callable[[], Any]], int], on_postgresql: bool
) -> None:
    cache = DjangoCache(counted_store, prefix="site")
    cache.set_many({str(n): n for n in range(20)}, None)
    assert statements(lambda: cache.get("1")) == 1
    assert statements(lambda: cache.has_key("1")) == 1
    assert statements(lambda: cache.get_many(str(n) for n in range(20))) == 1
    if on_postgresql:
        assert statements(lambda: cache.touch("1", 100)) == 1
        assert statements(lambda: cache.add("1", 100)) == 1
        assert statements(lambda: cache.delete_many(["1", "2", "3"])) == 1
        # The counter must exist: that is asked before.
        assert statements(lambda: cache.incr("4")) == 2
