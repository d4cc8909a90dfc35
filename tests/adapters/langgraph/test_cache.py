"""Results of nodes in the cache."""

from typing import Any

from langgraph.cache.base import FullKey

from statestore import StateStore
from tests.support.clock import MovableClock

PLACES: list[FullKey] = [
    (("a", "b"), "k"), (("a",), "b/k"), (("a", "b", "c"), "k"), (("a/b",), "k"), (("a", ""), "k"), ((), "k"),
    (("x" * 600,), "k"), (("x" * 601,), "k"), (("a",), "y" * 600), (("a",), ""),
]  # fmt: skip


def test_results_are_kept_by_namespace_and_key(cache: Any) -> None:
    cache.set({place: ({"n": [n], "bytes": b"\0\xff"}, None) for n, place in enumerate(PLACES)})
    assert cache.get(PLACES) == {place: {"n": [n], "bytes": b"\0\xff"} for n, place in enumerate(PLACES)}
    cache.set({PLACES[0]: (None, None)})
    assert cache.get([PLACES[0], (("none",), "k")]) == {PLACES[0]: None}
    assert cache.get([]) == {}


def test_a_namespace_is_cleared_without_those_below_it(cache: Any, store: StateStore) -> None:
    store.cache.set("langgraph", 1)
    cache.set({place: (n, None) for n, place in enumerate(PLACES)})
    cache.clear([("a",), ("x" * 600,), ("none",)])
    left = [place for place in PLACES if place[0] not in (("a",), ("x" * 600,))]
    assert list(cache.get(PLACES)) == left
    cache.clear([])
    assert list(cache.get(PLACES)) == left
    cache.clear()
    assert cache.get(PLACES) == {}
    assert store.cache.get("langgraph") == 1


def test_results_end_with_their_time(cache: Any, clock: MovableClock) -> None:
    cache.set({PLACES[0]: (1, 60), PLACES[1]: (2, None), PLACES[2]: (3, 120)})
    clock.advance(seconds=60)
    assert cache.get(PLACES) == {PLACES[1]: 2, PLACES[2]: 3}
    clock.advance(days=400)
    assert cache.get(PLACES) == {PLACES[1]: 2}
