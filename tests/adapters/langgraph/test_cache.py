"""Results of nodes in the cache."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from langgraph.cache.base import FullKey
from langgraph.graph import START, StateGraph
from langgraph.types import CachePolicy

from statestore import InvalidValueError, StateStore
from statestore.adapters.langgraph import StatestoreCache
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


@pytest.mark.parametrize("ttl", [0, -5, 0.0])
def test_what_has_no_time_to_live_is_not_kept_and_the_rest_is(cache: Any, ttl: float) -> None:
    cache.set({PLACES[0]: ("before", None)})
    cache.set({PLACES[0]: (1, ttl), PLACES[1]: (2, None), PLACES[2]: (3, 60)})
    assert cache.get(PLACES) == {PLACES[1]: 2, PLACES[2]: 3}
    cache.set({PLACES[1]: (4, ttl)})
    assert cache.get(PLACES) == {PLACES[2]: 3}


@pytest.mark.parametrize("ttl", [0, -1, 60])
def test_a_graph_goes_on_whatever_the_time_of_its_results(cache: Any, store: StateStore, ttl: int) -> None:
    ran = []
    builder = StateGraph(dict)
    builder.add_node("node", lambda state: ran.append(1) or {"n": 1}, cache_policy=CachePolicy(ttl=ttl))
    builder.add_edge(START, "node")
    graph = builder.compile(cache=getattr(cache, "_called", cache))
    for _ in range(2):
        assert graph.invoke({"n": 0}) == {"n": 1}
    assert len(ran) == (1 if ttl > 0 else 2)


def test_what_a_cache_cannot_take_says_so(cache: Any) -> None:
    cache.set({PLACES[0]: (0, None), PLACES[1]: (1, None), (("b",), "k"): (2, None)})

    def refused(match: str, *acts: Callable[[], Any]) -> None:
        for act in acts:
            with pytest.raises(InvalidValueError, match=match):
                act()

    # A namespace in the place of several, and a label in the place of a namespace.
    refused("^namespace", *(partial(cache.clear, wrong) for wrong in ("ab", ("a", "b"), ["a"], 5, [None], [(5,)])))
    refused(
        "^key|^namespace", *(partial(cache.get, wrong) for wrong in (None, "ab", 5, ["ab"], [("a", "k")], PLACES[0]))
    )
    refused("^key", partial(cache.get, [(("a",), None)]), partial(cache.set, {(("a",), 5): (1, None)}))
    refused("^pairs", partial(cache.set, None), partial(cache.set, [1]))
    refused(
        "^ttl", *(partial(cache.set, {PLACES[0]: (1, ttl)}) for ttl in ("x", float("nan"), float("inf"), 1e300, True))
    )
    refused("^serde", lambda: StatestoreCache("sqlite:///:memory:", serde=5))  # type: ignore[arg-type]
    assert len(cache.get([*PLACES, (("b",), "k")])) == 3
