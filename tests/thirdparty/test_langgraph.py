"""The semantics of LangGraph's store on our API, in the model of `langgraph_model`."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from tests.support.clock import MovableClock
from tests.thirdparty.langgraph_model import LangGraphStore

Store = Any

ADA, BOB = ("memories", "ada"), ("memories", "bob")


@pytest.fixture
def memory(store: Store) -> LangGraphStore:
    return LangGraphStore(store)


def keys(found: list[tuple[tuple[str, ...], str, dict[str, Any]]]) -> list[str]:
    return [key for _, key, _ in found]


def test_a_value_is_put_replaced_read_and_deleted(memory: LangGraphStore) -> None:
    for value in ({"n": 1}, {"z": 1, "a": [2]}):
        memory.put(ADA, "k", value)
    assert memory.get(ADA, "k") == {"z": 1, "a": [2]}
    assert (memory.get(BOB, "k"), memory.get((*ADA, "k"), "k")) == (None, None)
    memory.delete(ADA, "k")
    assert memory.get(ADA, "k") is None


def test_a_search_finds_what_is_below_a_prefix_of_whole_parts(memory: LangGraphStore) -> None:
    for namespace in (ADA, BOB, (*ADA, "food"), ("memories", "adam"), ("other",)):
        memory.put(namespace, "k", {"of": "/".join(namespace)})
    assert [namespace for namespace, _, _ in memory.search(ADA)] == [(*ADA, "food"), ADA]
    assert len(memory.search(("memories",))) == 4
    assert len(memory.search(())) == 5
    assert memory.search(("memo",)) == []


def test_a_search_is_paged_and_filtered_by_fields(memory: LangGraphStore) -> None:
    for n in range(30):
        memory.put(ADA, f"{n:02}", {"n": n, "even": n % 2 == 0})
    assert keys(memory.search(ADA, limit=3, offset=4)) == ["04", "05", "06"]
    assert keys(memory.search(ADA, filter={"even": True}, limit=3, offset=4)) == ["08", "10", "12"]
    assert memory.search(ADA, offset=30) == []


def test_namespaces_are_listed_below_a_prefix_and_to_a_depth(memory: LangGraphStore) -> None:
    for namespace in (ADA, BOB, (*ADA, "food"), ("other",)):
        memory.put(namespace, "a", {})
        memory.put(namespace, "b", {})
    assert memory.list_namespaces() == [ADA, (*ADA, "food"), BOB, ("other",)]
    assert memory.list_namespaces(prefix=ADA) == [ADA, (*ADA, "food")]
    assert memory.list_namespaces(max_depth=1) == [("memories",), ("other",)]


def test_parts_may_hold_what_sql_takes_for_a_pattern(memory: LangGraphStore) -> None:
    for part in ("100%", "100x", "a_b", "axb", "A", "a"):
        memory.put((part,), "k", {"part": part})
    for part in ("100%", "a_b", "A"):
        assert [value for _, _, value in memory.search((part,))] == [{"part": part}]


def test_values_end_with_their_time(store: Store, clock: MovableClock) -> None:
    memory = LangGraphStore(store, ttl=timedelta(minutes=10))
    memory.put(ADA, "usual", {})
    memory.put(ADA, "long", {}, ttl=timedelta(hours=1))
    clock.advance(minutes=10)
    assert (memory.get(ADA, "usual"), keys(memory.search(ADA))) == (None, ["long"])
    assert memory.list_namespaces() == [ADA]


def test_the_cost_of_a_store(
    counted_store: Store, statements: Callable[[Callable[[], Any]], int], on_postgresql: bool
) -> None:
    memory = LangGraphStore(counted_store)
    for n in range(30):
        memory.put(ADA, f"{n:02}", {"n": n})
    assert statements(lambda: memory.search(ADA)) == 1
    assert statements(lambda: memory.search(ADA, filter={"n": 7})) == 1
    assert statements(lambda: memory.get(ADA, "07")) == 1
    assert statements(memory.list_namespaces) == 1
    assert statements(lambda: memory.put(ADA, "07", {"n": 7})) == 1 or not on_postgresql
