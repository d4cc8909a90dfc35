"""Numbers in the cache are counted up without a loss."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta
from functools import partial
from typing import Any

import pytest

from statestore import MISSING, NEVER, InvalidValueError
from tests.support.clock import NOON, MovableClock
from tests.support.content import Content
from tests.support.crowd import at_once

Store = Any
ROUNDS = 12


class Undo(Exception):
    pass


def test_a_missing_key_begins_at_its_initial_value(store: Store) -> None:
    assert store.cache.increment("k") == 1
    assert store.cache.increment("k", 5) == 6
    assert store.cache.increment("k", -10, initial=100) == -4
    assert store.cache.increment("other", 2, initial=40) == 42
    assert store.cache.get_many(["k", "other"]) == {"k": -4, "other": 42}


@pytest.mark.parametrize(
    ("held", "by", "total"),
    [
        (1, 0.5, 1.5),
        (1.5, 1, 2.5),
        (2.0, 1, 3.0),
        (2**63 - 1, 1, 2**63),
        (2**64 - 2, 1, 2**64 - 1),
        (-(2**63) + 1, -1, -(2**63)),
        (0, 0, 0),
        (9, 1, 10),
        (-1, 1, 0),
        (1e300, 1e300, 2e300),
    ],
)
def test_sums_are_those_of_python(store: Store, held: Any, by: Any, total: Any) -> None:
    store.cache.set("k", held)
    found = store.cache.increment("k", by)
    assert (found, type(found)) == (total, type(total))
    value = store.cache.get("k")
    assert (value, type(value)) == (total, type(total))
    assert store.cache.entry("k").size_bytes == len(repr(total))


@pytest.mark.parametrize("value", ["5", b"5", None, True, [1], {"a": 1}, "1" * 20, b"\xff", "x" * 9000], ids=repr)
def test_what_is_no_number_is_not_counted(store: Store, content: Content, value: Any) -> None:
    store.cache.set("k", value, tags=["t"])
    before = content.rows("cache_entries"), content.rows("cache_tags")
    with pytest.raises(InvalidValueError) as raised:
        store.cache.increment("k")
    assert raised.value.argument == "key"
    assert (content.rows("cache_entries"), content.rows("cache_tags")) == before


@pytest.mark.parametrize(("held", "by"), [(2**64 - 1, 1), (-(2**63), -1), (2**63, 2**63)], ids=repr)
def test_a_sum_beyond_64_bits_is_exact(store: Store, held: int, by: int) -> None:
    store.cache.set("k", held)
    assert store.cache.increment("k", by) == store.cache.get("k") == held + by
    assert store.cache.increment("k", by) == store.cache.get("k") == held + by + by
    assert store.cache.increment("k", -by) == store.cache.get("k") == held + by


def test_a_sum_that_is_no_number_is_refused(store: Store) -> None:
    store.cache.set("k", 1e308)
    with pytest.raises(InvalidValueError) as raised:
        store.cache.increment("k", 1e308)
    assert raised.value.argument == "by"
    assert store.cache.get("k") == 1e308


@pytest.mark.parametrize(
    ("how", "argument"),
    [
        ({"by": "1"}, "by"),
        ({"by": True}, "by"),
        ({"by": None}, "by"),
        ({"by": 2**64}, "by"),
        ({"by": float("nan")}, "by"),
        ({"by": float("inf")}, "by"),
        ({"initial": "1"}, "initial"),
        ({"initial": False}, "initial"),
        ({"initial": float("nan")}, "initial"),
        ({"ttl": 0}, "ttl"),
        ({"ttl": NOON}, "ttl"),
    ],
)
def test_what_cannot_be_added_is_refused(store: Store, how: dict[str, Any], argument: str) -> None:
    with pytest.raises(InvalidValueError) as raised:
        store.cache.increment("k", **how)
    assert raised.value.argument == argument
    assert store.cache.keys() == []


def test_a_counter_keeps_its_end_unless_it_gets_another(store: Store, clock: MovableClock) -> None:
    store.cache.increment("default")
    assert store.cache.ttl("default") == timedelta(hours=1)
    store.cache.increment("k", ttl=10)
    clock.advance(seconds=4)
    assert store.cache.increment("k") == 2
    assert store.cache.ttl("k") == timedelta(seconds=6)
    assert store.cache.increment("k", ttl=timedelta(seconds=30)) == 3
    assert store.cache.ttl("k") == timedelta(seconds=30)
    assert store.cache.increment("k", 0.5, ttl=20) == 3.5
    assert store.cache.ttl("k") == timedelta(seconds=20)
    assert store.cache.increment("k", ttl=NEVER) == 4.5
    assert store.cache.ttl("k") is NEVER
    store.cache.increment("brief", ttl=1)
    clock.advance(seconds=1)
    assert store.cache.increment("brief", 5) == 5  # It has expired, and begins anew.
    assert store.cache.ttl("brief") == timedelta(hours=1)


def test_a_fixed_window_is_given_its_end_as_a_time(store: Store, clock: MovableClock) -> None:
    end = clock.now + timedelta(seconds=60)
    for n in range(1, 4):
        assert store.cache.increment("k", ttl=end) == n
        assert store.cache.entry("k").expires_at == end
        clock.advance(seconds=10)
    clock.advance(seconds=30)
    assert store.cache.increment("k", ttl=end + timedelta(seconds=60)) == 1


@pytest.mark.parametrize("by", [1, 0.5], ids=["whole", "a fraction"])
def test_a_counter_keeps_its_tags_and_what_is_known_of_it(store: Store, clock: MovableClock, by: float) -> None:
    store.cache.set(
        "k", 1, ttl=60, stale_ttl=30, tags=["t", "u"], agent_name="a", content_hash="h", request={"q": 1},
        metadata={"m": 1},
    )  # fmt: skip
    before = store.cache.entry("k")
    store.cache.get("k")
    clock.advance(seconds=10)
    for n in range(1, 4):
        assert store.cache.increment("k", by) == 1 + n * by
    entry = store.cache.entry("k")
    assert (entry.tags, entry.agent_name, entry.content_hash) == (("t", "u"), "a", "h")
    assert (entry.request, entry.metadata, entry.stale_ttl) == ({"q": 1}, {"m": 1}, timedelta(seconds=30))
    assert (entry.created_at, entry.last_accessed_at, entry.expires_at) == (clock.now, clock.now, before.expires_at)
    assert (entry.access_count, entry.version != before.version) == (0, True)
    assert store.cache.invalidate_tags(["t", "u"], match="all") == 1


def test_a_count_is_a_set_and_a_use(open_store: Callable[..., Store], clock: MovableClock) -> None:
    store = open_store(clock=clock, cache_max_entries=3)
    store.cache.set("n", 1, agent_name="a")
    store.cache.set("b", 1)
    store.cache.set("c", 1)
    store.cache.increment("n")
    store.cache.set("d", 1)
    assert store.cache.keys() == ["c", "d", "n"]
    store.cache.increment("c", 0.5)
    store.cache.increment("e")
    assert store.cache.keys() == ["c", "d", "e"]
    stats = store.cache.stats()
    assert (stats.sets, stats.hits, stats.misses, stats.evictions) == (7, 0, 0, 2)
    assert stats.by_agent["a"].sets == 2


def test_a_limit_in_bytes_holds_for_counters(open_store: Callable[..., Store], clock: MovableClock) -> None:
    store = open_store(clock=clock, cache_max_bytes=5)
    store.cache.set("a", 1)
    store.cache.set("b", 99)
    store.cache.set("n", 99)
    assert store.cache.increment("n") == 100
    assert (store.cache.keys(), store.cache.stats().size_bytes) == (["b", "n"], 5)
    assert store.cache.increment("n", -91) == 9
    store.cache.set("c", 10)
    assert (store.cache.keys(), store.cache.stats().size_bytes) == (["b", "c", "n"], 5)


@pytest.mark.parametrize("tags", [[], ["t"]], ids=["untagged", "tagged"])
def test_many_who_count_at_once_lose_nothing(open_store: Callable[..., Store], tags: list[str]) -> None:
    stores = [open_store() for _ in range(3)]
    for turn in range(ROUNDS):
        key = f"k{turn}"
        if tags:
            stores[0].cache.set(key, 0, tags=tags)
        found = at_once(*(partial(stores[n % 3].cache.increment, key) for n in range(8)))
        assert sorted(found) == list(range(1, 9))
        assert stores[0].cache.get(key) == 8
    assert stores[0].cache.invalidate_tag("t") == (ROUNDS if tags else 0)


def test_fractions_and_whole_numbers_are_counted_together(open_store: Callable[..., Store]) -> None:
    stores = [open_store() for _ in range(2)]
    for turn in range(ROUNDS):
        at_once(*(partial(stores[n % 2].cache.increment, f"k{turn}", 1 if n % 2 else 0.5) for n in range(6)))
        assert stores[0].cache.get(f"k{turn}") == 4.5


def test_tags_of_another_write_are_kept(open_store: Callable[..., Store]) -> None:
    stores = [open_store() for _ in range(3)]
    for turn in range(ROUNDS):
        key = f"k{turn}"
        stores[0].cache.set(key, 0, tags=["old"])
        at_once(
            partial(stores[0].cache.set, key, 100, tags=["new"]),
            *(partial(stores[n % 3].cache.increment, key) for n in range(4)),
        )
        entry = stores[0].cache.entry(key)
        assert entry.tags == ("new",), turn
        assert 100 <= entry.value <= 104


def test_in_a_transaction_a_count_stands_or_falls_with_it(store: Store) -> None:
    store.cache.set("k", 1, tags=["t"])
    with suppress(Undo), store.transaction() as tx:
        assert tx.cache.increment("k") == 2
        assert tx.cache.increment("k", 0.5) == 2.5
        assert tx.cache.increment("new", initial=5) == 6
        assert tx.cache.increment("new") == 7
        raise Undo
    assert (store.cache.get("k"), store.cache.get("new", MISSING)) == (1, MISSING)
    with store.transaction() as tx:
        assert tx.cache.increment("k") == 2
        assert tx.cache.increment("new") == 1
    assert store.cache.get_many(["k", "new"]) == {"k": 2, "new": 1}
    assert store.cache.invalidate_tag("t") == 1


def test_transactions_that_count_wait_for_each_other(open_store: Callable[..., Store]) -> None:
    stores = [open_store() for _ in range(2)]

    def count(store: Store) -> None:
        with store.transaction() as tx:
            tx.cache.increment("k")
            tx.cache.increment("k")

    for turn in range(1, ROUNDS + 1):
        at_once(*(partial(count, store) for store in stores))
        assert stores[0].cache.get("k") == 4 * turn


@pytest.mark.parametrize("by", [1, -3, 0.5])
def test_only_a_key_that_is_there_is_counted_if_so_wanted(store: Store, clock: MovableClock, by: float) -> None:
    assert store.cache.increment("k", by, only_if="present") is None
    assert store.cache.get("k", MISSING) is MISSING
    store.cache.set("k", 5, ttl=10, tags=["t"])
    assert store.cache.increment("k", by, only_if="present") == store.cache.get("k") == 5 + by
    clock.advance(seconds=10)
    assert store.cache.increment("k", by, only_if="present") is None
    assert store.cache.get("k", MISSING) is MISSING


def test_a_condition_of_a_count_is_checked(store: Store) -> None:
    store.cache.set("text", "x")
    with pytest.raises(InvalidValueError, match="not a number"):
        store.cache.increment("text", only_if="present")
    for wrong in ("missing", True):
        with pytest.raises(InvalidValueError, match="only_if"):
            store.cache.increment("k", only_if=wrong)


def test_a_key_that_was_not_counted_stays_missing_until_the_transaction_ends(open_store: Callable[..., Store]) -> None:
    one, two = open_store(), open_store()
    with ThreadPoolExecutor(1) as pool, one.transaction() as tx:
        assert tx.cache.increment("k", only_if="present") is None
        other = pool.submit(two.cache.set, "k", 10)
        assert tx.cache.increment("k", only_if="present") is None
        assert not other.done()
        tx.cache.set("k", 1)
    other.result()
    assert one.cache.get("k") == 10


def test_namespaces_count_for_themselves(open_store: Callable[..., Store]) -> None:
    one, two = open_store(namespace="one"), open_store(namespace="two")
    one.cache.set("k", 5, tags=["t"])
    assert two.cache.increment("k") == 1
    assert one.cache.increment("k") == 6
    assert two.cache.get("k") == 1
