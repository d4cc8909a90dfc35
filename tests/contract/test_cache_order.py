"""What goes first, where that is hard to say: hits that are only noted, ties, rows that others hold or are to add."""

from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest

from statestore.repositories.cache.limits import MAX_KEPT, CacheState
from statestore.repositories.cache.options import CacheOptions
from tests.contract.test_cache_waiting import at_its_own_pace
from tests.support.clock import NOON, MovableClock
from tests.support.content import Content
from tests.support.wire import Traffic

Store = Any


class Undo(Exception):
    pass


def keys(store: Store) -> list[str]:
    return [entry.key for entry in store.cache.entries(limit=10_000, values=False)]


@pytest.mark.parametrize("limit", [{"cache_max_entries": 3}, {"cache_max_entries": None, "cache_max_bytes": 1000}])
def test_hits_that_are_only_noted_decide(
    open_store: Callable[..., Store], clock: MovableClock, content: Content, limit: dict[str, Any]
) -> None:
    store = open_store(clock=clock, **limit)
    for key in "abc":
        store.cache.set(key, "x" * 300)
    store.cache.get("a")
    store.cache.set("d", "x" * 300)
    assert {row["access_count"] for row in content.rows("cache_entries")} == {0}
    assert keys(store) == ["a", "c", "d"]
    store.cache.get("c")
    with suppress(Undo), store.transaction() as tx:
        tx.cache.get("a")
        tx.cache.set("e", "x" * 300)
        assert keys(tx) == ["a", "c", "e"]
        raise Undo
    # What an undone transaction has hit was not hit.
    store.cache.set("f", "x" * 300)
    store.cache.set("g", "x" * 300)
    assert keys(store) == ["c", "f", "g"]


@pytest.mark.parametrize(("noted", "left"), [(False, ["a", "b", "d"]), (True, ["d"])])
def test_as_many_go_as_make_up_the_bytes_in_the_order_of_use(
    open_store: Callable[..., Store], clock: MovableClock, noted: bool, left: list[str]
) -> None:
    store = open_store(clock=clock, cache_max_entries=None, cache_max_bytes=1000)
    for key, size in (("c", 600), ("a", 150), ("b", 150)):
        store.cache.set(key, "x" * size)
    if noted:
        store.cache.get("c")
    store.cache.set("d", "x" * 500)
    assert keys(store) == left


@pytest.mark.parametrize("limit", [{"cache_max_entries": 3}, {"cache_max_entries": None, "cache_max_bytes": 1000}])
@pytest.mark.parametrize("noted", [False, True])
def test_of_what_was_used_at_the_same_time_the_first_goes_first(
    open_store: Callable[..., Store], clock: MovableClock, content: Content, limit: dict[str, Any], noted: bool
) -> None:
    """Without the index, which has them in this order."""
    [index] = [
        row["name"]
        for row in content.query(
            "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND tbl_name = 'cache_entries'"
            if content.is_sqlite
            else "SELECT indexname AS name, indexdef AS sql FROM pg_indexes WHERE tablename = 'cache_entries'"
        )
        if "access_seq" in (row["sql"] or "")
    ]
    content.query(f'DROP INDEX "{index}"')
    store = open_store(clock=clock, **limit)
    for key in "cabbca":  # First in one order and then in another: b, c, a.
        store.cache.set(key, "x" * 300)
    if noted:
        store.cache.get_many(["c", "a"])  # Of which the last is now the latest.
    store.cache.set("d", "x" * 300)
    assert keys(store) == ["a", "c", "d"]
    store.cache.set("e", "x" * 300)
    assert keys(store) == ["a", "d", "e"]


@pytest.mark.parametrize("limit", [{"cache_max_entries": 3}, {"cache_max_entries": None, "cache_max_bytes": 1000}])
def test_those_that_are_about_to_add_are_reckoned_with(
    connect: Callable[..., Store], postgres_url: str, limit: dict[str, Any]
) -> None:
    store = connect(postgres_url, **limit)
    content = Content(postgres_url)
    store.cache.set_many({"a": "x" * 300, "b": "x" * 300})
    store.cache.flush()
    for round in range(3):
        with store.transaction() as tx:
            tx.cache.set(f"in {round}", "x" * 300)  # Seen by nobody else yet, and sure to come.
            at_its_own_pace(lambda: store.cache.set(f"out {round}", "x" * 300))  # noqa: B023
        assert len(content.rows("cache_entries")) <= 3, round
        assert store.cache.get_many([f"in {round}", f"out {round}"]).keys() == {f"in {round}", f"out {round}"}
    content.close()


def test_what_others_hold_is_passed_over_however_much_it_is(connect: Callable[..., Store], postgres_url: str) -> None:
    store, other = connect(postgres_url, cache_max_entries=200), connect(postgres_url)
    content = Content(postgres_url)
    names = [f"k{n:03}" for n in range(200)]
    store.cache.set_many(dict.fromkeys(names, 1))
    store.cache.get("k199")
    with other.transaction() as tx:
        assert len(tx.cache.get_many(names[:190])) == 190
        at_its_own_pace(lambda: store.cache.set("new", 1))
        assert len(content.rows("cache_entries")) <= 200
    assert set(names[:190]) <= set(keys(store))
    assert {"k199", "new"} <= set(keys(store))
    content.close()


def test_a_full_cache_with_many_noted_hits_is_kept_in_one_look(
    connect: Callable[..., Store], traffic: Traffic, content: Content
) -> None:
    store = connect(traffic.url, cache_max_entries=2000, durability="normal")
    names = [f"k{n:04}" for n in range(2000)]
    store.cache.set_many(dict.fromkeys(names, 1))
    store.cache.flush()
    store.cache.get_many(names[:900])
    traffic.clear()
    store.cache.set("new", 1)
    # SQLite shows a statement once more for each row that a trigger of its own sees to.
    assert len({sql for sql in traffic.statements if "noted AS MATERIALIZED" in sql}) == 1
    assert content.query("SELECT sum(access_count) AS n FROM cache_entries") == [{"n": 0}]
    held = {row["key"] for row in content.query("SELECT key FROM cache_entries")}
    gone = sorted(set(names) - held)
    assert gone == names[900 : 900 + len(gone)]
    assert len(gone) in (41, 42)


def test_of_too_many_unwritten_hits_the_oldest_are_forgotten() -> None:
    state = CacheState(CacheOptions())
    transaction = state.branch()
    for n in range(MAX_KEPT + 1):
        note_hit(transaction, n)
    left = MAX_KEPT // 2 + 1
    assert [version for _, version in transaction.noted().hits] == list(range(left - 1, MAX_KEPT + 1))
    transaction.commit()
    # What is there comes together with what is brought; a hit is counted all the same.
    another = state.branch()
    for n in range(MAX_KEPT + 1, 2 * MAX_KEPT + 1 - left):
        note_hit(another, n)
    another.commit()
    assert len(state.noted().hits) == MAX_KEPT
    note_hit(state, 2 * MAX_KEPT)
    assert len(state.noted().hits) == left
    assert state.totals() == {"hits": 2 * MAX_KEPT + 2 - left}


def note_hit(state: CacheState, n: int) -> None:
    notes = state.notes()
    notes.pending.hit(f"k{n}", n, NOON + timedelta(seconds=n), None)
    state.settle(notes)
