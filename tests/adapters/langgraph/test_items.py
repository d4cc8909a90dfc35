"""Items of long-term memory."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from inspect import iscoroutinefunction
from typing import Any

import pytest
from langgraph.cache.base import BaseCache
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.store.base import BaseStore, GetOp, ListNamespacesOp, MatchCondition, PutOp, SearchOp

from statestore import InvalidValueError, StateStore
from statestore.adapters.langgraph import StatestoreCache, StatestoreSaver, StatestoreStore
from tests.support.clock import MovableClock
from tests.support.wire import Traffic

ADA, BOB = ("memories", "ada"), ("memories", "bob")


def keys(found: Any) -> list[str]:
    return [item.key for item in found]


def test_an_item_is_put_replaced_read_and_deleted(items: Any, clock: MovableClock) -> None:
    items.put(ADA, "k", {"n": 1, "tuple": (1, 2)})
    made = clock.now
    clock.advance(minutes=1)
    items.put(ADA, "k", {"z": 1, "a": [2]})
    found = items.get(ADA, "k")
    assert (found.namespace, found.key, found.value) == (ADA, "k", {"z": 1, "a": [2]})
    assert (found.created_at, found.updated_at) == (made, clock.now)
    assert items.get(BOB, "k") is items.get((*ADA, "k"), "k") is items.get(ADA, "none") is None
    items.delete(ADA, "k")
    items.delete(ADA, "k")
    assert items.get(ADA, "k") is None


def test_items_of_a_user_are_erased_with_the_user(database_url: str, store: StateStore) -> None:
    items = StatestoreStore(database_url, user_of=lambda namespace: namespace[1] if len(namespace) > 1 else None)
    items.batch([PutOp(place, key, {"n": 1}) for place in (ADA, BOB, ("shared",)) for key in "kl"])
    items.put(ADA, "k", {"n": 2})
    assert store.sessions.delete_user("ada").user_state_entries == 2
    assert sorted(item.namespace for item in items.search(())) == [BOB, BOB, ("shared",), ("shared",)]
    items.close()


def test_two_that_write_at_once_lose_nothing(database_url: str) -> None:
    memories = [StatestoreStore(database_url) for _ in range(2)]

    def write(who: int) -> None:
        for n in range(20):
            memories[who].batch([PutOp(ADA, f"{who}-{n}", {"n": n}), PutOp(ADA, "last", {"who": who, "n": n})])

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(write, range(2)))
    found = {item.key: item.value for item in memories[0].search(ADA, limit=100)}
    assert found.pop("last")["n"] == 19
    assert found == {f"{who}-{n}": {"n": n} for who in range(2) for n in range(20)}
    for one in memories:
        one.close()


def test_a_search_finds_the_newest_below_a_prefix_of_whole_labels(items: Any, clock: MovableClock) -> None:
    places = [ADA, BOB, (*ADA, "food"), ("memories", "adam"), ("other",), ("memories/ada",), ("memories%2Fada", "x")]
    for namespace in places:
        clock.advance(seconds=1)
        items.put(namespace, "k/%", {"of": list(namespace)})
    assert [item.namespace for item in items.search(())] == places[::-1]
    assert [item.namespace for item in items.search(ADA)] == [(*ADA, "food"), ADA]
    assert [item.namespace for item in items.search(("memories",), limit=2, offset=1)] == [(*ADA, "food"), BOB]
    assert items.search(("memo",)) == []
    assert all(item.key == "k/%" and item.value == {"of": list(item.namespace)} for item in items.search(()))


def test_a_search_is_filtered(items: Any) -> None:
    for n in range(6):
        items.put(ADA, f"{n}", {"n": n, "even": n % 2 == 0, "deep": {"n": n}, "list": [n], "text": f"a{n}"})
    items.put(ADA, "other", {"n": "text"})

    def found(**wanted: Any) -> list[str]:
        return sorted(keys(items.search(ADA, filter=wanted)))

    assert found(even=True) == ["0", "2", "4"]
    assert found(n={"$gt": 3}) == ["4", "5"]
    assert found(n={"$gte": 3, "$lt": 5}) == ["3", "4"]
    assert found(n={"$lte": 0}) == ["0"]
    assert found(n={"$eq": 2}) == found(deep={"n": 2}) == found(list=[2]) == found(deep={"n": {"$eq": 2}}) == ["2"]
    assert found(even={"$ne": True}) == ["1", "3", "5", "other"]
    assert found(text={"$gte": "a4"}) == ["4", "5"]
    assert found(none=1) == []
    with pytest.raises(InvalidValueError, match=r"\$near"):
        items.search(ADA, filter={"n": {"$near": 1}})


def test_namespaces_are_listed(items: Any) -> None:
    for namespace in (ADA, BOB, (*ADA, "food"), ("other", "x", "food")):
        items.put(namespace, "a", {})
        items.put(namespace, "b", {})
    assert items.list_namespaces() == [ADA, (*ADA, "food"), BOB, ("other", "x", "food")]
    assert items.list_namespaces(prefix=ADA) == [ADA, (*ADA, "food")]
    assert items.list_namespaces(prefix=("*", "ada")) == [ADA, (*ADA, "food")]
    assert items.list_namespaces(suffix=("food",)) == [(*ADA, "food"), ("other", "x", "food")]
    assert items.list_namespaces(prefix=("memories",), suffix=("*", "food")) == [(*ADA, "food")]
    assert items.list_namespaces(max_depth=1) == [("memories",), ("other",)]
    assert items.list_namespaces(limit=2, offset=1) == [(*ADA, "food"), BOB]


def test_a_batch_reads_before_it_writes_and_the_last_put_wins(items: Any) -> None:
    items.put(ADA, "k", {"n": 0})
    results = items.batch([
        PutOp(ADA, "k", {"n": 1}), GetOp(ADA, "k"), PutOp(ADA, "k", {"n": 2}), SearchOp(ADA),
        ListNamespacesOp((MatchCondition("prefix", ("memories",)),)), PutOp(ADA, "gone", {}), PutOp(ADA, "gone", None),
    ])  # fmt: skip
    assert [results[n] for n in (0, 2, 5, 6)] == [None] * 4
    assert (results[1].value, keys(results[3]), results[4]) == ({"n": 0}, ["k"], [ADA])
    assert (items.get(ADA, "k").value, items.get(ADA, "gone")) == ({"n": 2}, None)


def test_items_end_with_their_time_and_a_read_extends_it(
    database_url: str, lazy_at: Any, store: StateStore, clock: MovableClock
) -> None:
    lazy, blocking = lazy_at(database_url)
    items = blocking(StatestoreStore(lazy, ttl={"default_ttl": 10, "refresh_on_read": True}))
    items.put(ADA, "usual", {})
    items.put(ADA, "long", {}, ttl=60)
    items.put(ADA, "forever", {}, ttl=None)
    made = clock.now
    clock.advance(minutes=9)
    assert items.get(ADA, "usual").updated_at == made
    clock.advance(minutes=9)
    assert [item.updated_at for item in items.search(ADA)] == [made] * 3
    clock.advance(minutes=9)
    assert items.get(ADA, "usual", refresh_ttl=False) is not None
    clock.advance(minutes=1)
    assert items.get(ADA, "usual") is None
    assert sorted(keys(items.search(ADA))) == ["forever", "long"]
    assert store.sweep().kinds["expired_state"].rows == 1
    clock.advance(hours=2)
    assert keys(items.search(ADA)) == ["forever"]


def test_what_cannot_be_stored_says_so(items: Any) -> None:
    with pytest.raises(InvalidValueError, match="vectors"):
        StatestoreStore(index={"dims": 3, "embed": len})
    with pytest.raises(InvalidValueError, match="value"):
        items.put(ADA, "k", {"o": object()})
    with pytest.raises(InvalidValueError, match="512"):
        items.put(("x" * 500, "y" * 20), "k", {})


def test_the_cost_of_items(traffic: Traffic, lazy_at: Any) -> None:
    lazy, blocking = lazy_at(traffic.url)
    items = blocking(StatestoreStore(lazy))
    for n in range(10):
        items.put(ADA, f"{n}", {"n": n})

    def cost(act: Any) -> int:
        for _ in range(8):
            traffic.clear()
            act()
        return len(traffic.statements)

    on_postgresql = traffic.url.startswith("postgresql")
    assert cost(lambda: items.get(ADA, "7")) == 1
    assert cost(lambda: items.search(ADA, filter={"n": 7})) == 1
    assert cost(items.list_namespaces) == 1
    assert cost(lambda: items.put(ADA, "7", {})) == 1 or not on_postgresql
    assert cost(lambda: items.batch([PutOp(ADA, f"{n}", {}) for n in range(5)])) == 1 or not on_postgresql


def refused(match: str, *acts: Callable[[], Any]) -> None:
    for act in acts:
        with pytest.raises(InvalidValueError, match=match):
            act()


def test_what_is_no_key_or_value_does_not_become_one(items: Any) -> None:
    items.put(ADA, "None", {"n": 1})
    for key in (None, ["x"], object(), True, 2.5):
        refused("^key", partial(items.put, ADA, key, {}), partial(items.get, ADA, key), partial(items.delete, ADA, key))
        refused("^key", partial(items.batch, [PutOp(ADA, key, {})]), partial(items.batch, [GetOp(ADA, key)]))
    for key in ("a\0", "\ud800"):
        refused("^key", partial(items.put, ADA, key, {}), partial(items.get, ADA, key), partial(items.delete, ADA, key))
    refused("^namespace", partial(items.put, ("\ud800",), "k", {}))
    for value in (5, "x", [1], True):
        refused("^value", partial(items.put, ADA, "k", value))
    for namespace in ("ab", None, 5, b"ab"):
        refused("^namespace", partial(items.put, namespace, "k", {}), partial(items.get, namespace, "k"))
        refused("^namespace", partial(items.delete, namespace, "k"))
    assert [(item.key, item.value) for item in items.search(())] == [("None", {"n": 1})]
    items.put(ADA, 7, {"n": 7})
    assert items.get(namespace=ADA, key=7).key == "7"


def test_text_is_no_namespace(items: Any) -> None:
    items.put(("a", "b"), "k", {})
    refused("^namespace_prefix", partial(items.search, "ab"), partial(items.batch, [SearchOp("ab")]))  # type: ignore[arg-type]
    refused("^prefix", partial(items.list_namespaces, prefix="ab"))
    refused("^suffix", partial(items.list_namespaces, suffix="ab"))
    for ops in (None, 5, "ab", [None], [("a", "k")], PutOp(ADA, "k", {}), GetOp(ADA, "k")):
        refused("^ops", partial(items.batch, ops))


def test_what_is_read_is_counted_from_0_on(items: Any) -> None:
    items.put(ADA, "k", {})
    for wrong in (-1, "3", 2.5, True):
        for name in ("limit", "offset"):
            refused(f"^{name}", partial(items.search, ADA, **{name: wrong}))
            refused(f"^{name}", partial(items.list_namespaces, **{name: wrong}))
        refused("^max_depth", partial(items.list_namespaces, max_depth=wrong))
        refused("^filter", partial(items.search, ADA, filter=wrong))
    refused("^limit", partial(items.search, ADA, limit=None))
    assert items.search(ADA, limit=0) == items.search(ADA, offset=1) == items.list_namespaces(limit=0) == []


@pytest.mark.parametrize("ttl", ["5", True, 0, -1, float("nan"), float("inf"), 1e300, 36_500 * 24 * 60 + 1])
def test_what_is_no_number_of_minutes_is_refused_before_anything_is_written(items: Any, ttl: Any) -> None:
    refused("^ttl", partial(items.put, ADA, "k", {}, ttl=ttl))
    refused("^ttl", partial(items.batch, [PutOp(ADA, "first", {}), PutOp(ADA, "k", {}, ttl=ttl)]))
    refused("^ttl", lambda: StatestoreStore("sqlite:///:memory:", ttl={"default_ttl": ttl}))
    assert items.search(()) == []


def test_a_store_is_not_made_of_what_its_first_write_would_refuse() -> None:
    for options in ({"user_of": 5}, {"name": 5}, {"name": ""}, {"name": "a\0"}, {"ttl": 5}):
        refused(next(iter(options)), partial(StatestoreStore, "sqlite:///:memory:", **options))  # type: ignore[arg-type]


def test_a_user_of_a_namespace_is_an_id_or_none(database_url: str, store: StateStore) -> None:
    users: list[Any] = ["", 7, ["x"]]
    items = StatestoreStore(database_url, user_of=lambda namespace: users[0])
    items.put(ADA, "of nobody", {})
    users.pop(0)
    items.put(ADA, "of 7", {})
    users.pop(0)
    refused("^user_of", lambda: items.put(ADA, "k", {}))
    assert store.sessions.delete_user("7").user_state_entries == 1
    assert keys(items.search(())) == ["of nobody"]
    items.close()


@pytest.mark.parametrize(
    ("ours", "base"),
    [(StatestoreSaver, BaseCheckpointSaver), (StatestoreStore, BaseStore), (StatestoreCache, BaseCache)],
    ids=["saver", "store", "cache"],
)
def test_what_is_awaited_is_a_coroutine_function(ours: type, base: type) -> None:
    """Frameworks ask by this whether they have to await."""
    asked = [name for name, method in vars(base).items() if iscoroutinefunction(method)]
    assert asked
    assert [name for name in asked if not iscoroutinefunction(getattr(ours, name))] == []
